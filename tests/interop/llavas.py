"""Small random LLaVAs of transformers, saved with tokenizer and processor as a published one is."""

from pathlib import Path
from typing import Any

import torch
import transformers as t
from tokenizers.processors import TemplateProcessing

from mmlm.interop import import_folder
from mmlm.training.run import load_run
from tests.families import FAMILIES
from tests.interop import parity
from tests.interop.parity import Pair

LLAVA = (
    "{% for message in messages %}{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}{% endfor %}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}{{ content['text'] + ' ' }}"
    "{% endfor %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
INTERLEAVED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] + ' ' }}{% for c in m['content'] | selectattr('type', 'equalto', "
    "'image') %}<image>{% endfor %}{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}"
    "{{ '\n' + c['text'] }}{% endfor %}<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
IN_PLACE = (
    "{{ bos_token }}{% for m in messages %}[{{ m['role'] }}]{% for c in m['content'] %}{% if c['type'] == 'image' %}"
    "<im><image></im>{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)
SMALL = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXTS: dict[str, Any] = {
    "llama": lambda v: t.LlamaConfig(**SMALL, num_key_value_heads=1, vocab_size=v, rope_theta=1000.0),
    "qwen2": lambda v: t.Qwen2Config(**SMALL, num_key_value_heads=2, vocab_size=v, tie_word_embeddings=True),
    "qwen3": lambda v: t.Qwen3Config(**SMALL, num_key_value_heads=1, head_dim=10, vocab_size=v),
    "mistral": lambda v: t.MistralConfig(**SMALL, num_key_value_heads=1, vocab_size=v, sliding_window=None),
    "gemma": lambda v: t.GemmaConfig(**SMALL, num_key_value_heads=1, head_dim=14, vocab_size=v),
    "phi": lambda v: t.PhiConfig(**SMALL, num_key_value_heads=2, vocab_size=v, partial_rotary_factor=0.5),
}
# That of a T5, which the others are made from, ends every text with an end token; no causal LLM's does.
OPENINGS = {"unigram": TemplateProcessing(single="$A")}
EYE = {"hidden_size": 20, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 21, "patch_size": 7}
TOWERS: dict[str, Any] = {
    "clip": lambda: t.CLIPVisionConfig(**EYE, intermediate_size=36),
    "siglip": lambda: t.SiglipVisionConfig(**EYE, intermediate_size=36),
    "dinov2": lambda: t.Dinov2Config(**EYE, mlp_ratio=2),
}


def processor(tower: str, tokenizer: Any, full: bool) -> Any:
    """The processor that goes with a tower, with pictures of 21 pixels."""
    from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
    from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

    square = {"height": 21, "width": 21}
    made = {
        "clip": lambda: CLIPImageProcessorPil(size={"shortest_edge": 21}, crop_size=square),
        "siglip": lambda: SiglipImageProcessorPil(size=square, crop_size=square),
        "dinov2": lambda: BitImageProcessorPil(size={"shortest_edge": 25}, crop_size=square),
    }[tower]()
    strategy, extra = ("full" if full else "default"), (0 if tower == "siglip" else 1)
    return t.LlavaProcessor(made, tokenizer, 7, strategy, tokenizer.chat_template, num_additional_image_tokens=extra)


def saved(
    folder: Path,
    tower: str = "clip",
    text: str = "llama",
    tokens: str = "llama-legacy",
    template: str = LLAVA,
    full: bool = False,
    **said: Any,
) -> tuple[Any, Any]:
    """A small LLaVA of transformers and its processor, saved into `folder`."""
    tokenizer = FAMILIES[tokens]()
    tokenizer.add_tokens([t.AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    tokenizer.backend_tokenizer.post_processor = OPENINGS.get(tokens, tokenizer.backend_tokenizer.post_processor)
    tokenizer.chat_template = template
    torch.manual_seed(1)
    config = t.LlavaConfig(
        vision_config=TOWERS[tower](),
        text_config=TEXTS[text](len(tokenizer) + 3),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        vision_feature_select_strategy="full" if full else "default",
        tie_word_embeddings=text == "qwen2",
        **said,
    )
    config.text_config.eos_token_id, config.text_config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model = parity.shaken(t.LlavaForConditionalGeneration(config))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    made = processor(tower, tokenizer, full)
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return model, made


def imported(folder: Path, **said: Any) -> Pair:
    """A small LLaVA of transformers beside the same as a run of ours."""
    model, made = saved(folder / "theirs", **said)
    import_folder(folder / "theirs", folder / "ours")
    return Pair(model, made, load_run(folder / "ours", "cpu"), model.config.image_token_id)
