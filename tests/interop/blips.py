"""Small random BLIP-2s and InstructBLIPs of transformers, saved with tokenizers and processor as a published one is."""

from pathlib import Path
from typing import Any

import torch
import transformers as t
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from tokenizers.processors import TemplateProcessing
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from mmlm.interop import import_folder
from mmlm.training.run import load_run
from tests.families import CORPUS, FAMILIES
from tests.interop import parity
from tests.interop.parity import Pair

WORDS = sorted({w for line in CORPUS for w in line.lower().split() if w.isalpha()})


def bert() -> Any:
    """A small tokenizer of BERT's kind, padding at 0."""
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *"abcdefghijklmnopqrstuvwxyz?.,"]
    pieces = {w: i for i, w in enumerate(dict.fromkeys([*names, *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz")]))}
    backend = Tokenizer(models.WordPiece(pieces, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return t.BertTokenizer(tokenizer_object=backend, vocab=pieces)


def opt(v: int) -> Any:
    sizes = {"hidden_size": 24, "ffn_dim": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    return t.OPTConfig(**sizes, word_embed_proj_dim=24, vocab_size=v, max_position_embeddings=256)


def llama(v: int) -> Any:
    sizes = {"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 2}
    return t.LlamaConfig(**sizes, vocab_size=v)


def t5(v: int, tied: bool = False) -> Any:
    sizes = {"d_model": 24, "d_kv": 10, "d_ff": 40, "num_layers": 2, "num_heads": 2}
    gate = {} if tied else {"feed_forward_proj": "gated-gelu", "dense_act_fn": "gelu"}
    return t.T5Config(
        **sizes, vocab_size=v, tie_word_embeddings=tied, decoder_start_token_id=0, initializer_factor=0.2, **gate
    )


TEXTS: dict[str, Any] = {"opt": opt, "llama": llama, "t5": t5, "t5-tied": lambda v: t5(v, tied=True)}


def tokenizer(text: str) -> Any:
    """GPT-2's with a token that begins a text for OPT, LLaMA's for Vicuna, T5's own."""
    made = FAMILIES[{"opt": "gpt2", "llama": "llama-legacy"}.get(text, "t5")]()
    if text == "opt":
        made.add_special_tokens({"bos_token": "<|endoftext|>"})
        number = made.convert_tokens_to_ids("<|endoftext|>")
        opening = TemplateProcessing(single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", number)])
        made.backend_tokenizer.post_processor = opening
    if text == "llama":  # as LAVIS has it: one token begins, ends, and stands for what is not known
        made.bos_token = made.unk_token = made.eos_token
        made.backend_tokenizer.post_processor = TemplateProcessing(
            single="</s> $A", special_tokens=[("</s>", made.eos_token_id)]
        )
    made.chat_template = None
    made.add_tokens([t.AddedToken("<image>", special=True, normalized=False)], special_tokens=True)
    return made


def saved(
    folder: Path, text: str = "opt", instruct: bool = False, every: int = 2, video: bool = False
) -> tuple[Any, Any]:
    """A small BLIP-2 or InstructBLIP of transformers and its processor, saved into `folder` and loaded again."""
    words, former = tokenizer(text), bert()
    kind = ("InstructBlipVideo" if video else "InstructBlip") if instruct else "Blip2"
    slot = "video_token_index" if video else "image_token_index"
    if video:
        words.add_tokens([t.AddedToken("<video>", special=True, normalized=False)], special_tokens=True)
    torch.manual_seed(1)
    config = getattr(t, f"{kind}Config")(
        vision_config={"hidden_size": 20, "intermediate_size": 36, "num_hidden_layers": 3, "num_attention_heads": 2,
                       "image_size": 28, "patch_size": 14},
        qformer_config={"hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
                        "encoder_hidden_size": 20, "cross_attention_frequency": every, "vocab_size": len(former) + 1},
        text_config=TEXTS[text](len(words) + 3).to_dict(),
        num_query_tokens=5,
        **{slot: words.convert_tokens_to_ids("<video>" if video else "<image>")},
    )  # fmt: skip
    config.text_config.eos_token_id, config.text_config.pad_token_id = words.eos_token_id, words.pad_token_id
    config.text_config.bos_token_id = words.bos_token_id
    model = getattr(t, f"{kind}ForConditionalGeneration")(config)
    head = getattr(model.language_model, "lm_head", None)
    if text == "t5":  # Flan-T5 has a head of its own, which transformers parts only when it reads files that differ
        model.language_model.lm_head.weight = torch.nn.Parameter(head.weight.detach().clone())
    parity.shaken(model)
    model.generation_config.eos_token_id = words.eos_token_id
    pixels = BlipImageProcessorPil(size={"height": 28, "width": 28})
    made = t.InstructBlipProcessor(pixels, words, former, 5) if instruct else t.Blip2Processor(pixels, words, 5)
    if video:
        clips = t.InstructBlipVideoVideoProcessor(size={"height": 28, "width": 28})
        made = t.InstructBlipVideoProcessor(clips, words, former, 5)
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    loaded = getattr(t, f"{kind}ForConditionalGeneration").from_pretrained(folder, dtype=torch.float32).eval()
    return loaded, made


SLOTS = {"blip-2": "image_token_index", "instructblip": "image_token_index", "instructblipvideo": "video_token_index"}


def imported(folder: Path, **said: Any) -> Pair:
    """A small BLIP of transformers beside the same as a run of ours."""
    model, made = saved(folder / "theirs", **said)
    import_folder(folder / "theirs", folder / "ours")
    return Pair(model, made, load_run(folder / "ours", "cpu"), getattr(model.config, SLOTS[model.config.model_type]))
