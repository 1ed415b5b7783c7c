"""Small tokenizers of the families that public LLMs use, made in memory from a few lines of text."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

CORPUS = [
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, and",
    "polite answers to the user's questions. USER: What is in the picture? ASSISTANT: A dog runs on the beach.",
    "Human: How many cats are there? Assistant: There are 12 cats and 345 birds in 2024.\nQuestion: Why? Answer: Because.",
    "User: Describe the image in detail. GPT: Two people, one of them smiling, stand near a red bus on the street!",
    "system user assistant model [INST] [/INST] <<SYS>> <</SYS>> ### Instruction: ### Response: \n\n  tabs\tand  spaces",
    "naïve café 你好 世界 привет мир emoji 🙂🙃 x = f(y) + {'a': [1, 2]}; // comment <div class='b'> it's they're don't",
]
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
ZEPHYR = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
LLAMA_2 = (
    "{% if messages[0].role == 'system' %}{% set sys = '<<SYS>>\\n' + messages[0].content + '\\n<</SYS>>\\n\\n' %}"
    "{% set messages = messages[1:] %}{% else %}{% set sys = '' %}{% endif %}{% for m in messages %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}{{ bos_token + '[INST] ' + (sys if loop.first else '') + m.content + ' [/INST]' }}"
    "{% else %}{{ ' ' + m.content + ' ' + eos_token }}{% endif %}{% endfor %}"
)
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_QWEN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _special(*names: str) -> list[AddedToken]:
    return [AddedToken(n, special=True, normalized=False) for n in names]


@cache
def _pieces(kind: str) -> dict[str, Any]:
    """The model part of a tokenizer.json, trained on words that begin with a metaspace."""
    if kind == "bpe":
        tokenizer, trainer = Tokenizer(models.BPE()), trainers.BpeTrainer(vocab_size=500, show_progress=False)
    else:
        tokenizer = Tokenizer(models.Unigram())
        trainer = trainers.UnigramTrainer(vocab_size=400, show_progress=False, unk_token="<unk>")
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.train_from_iterator(CORPUS, trainer)
    found: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return found


def sentencepiece() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of a SentencePiece BPE with byte fallback, as LLaMA's: three specials, 256 bytes, pieces."""
    found = _pieces("bpe")
    names = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *found["vocab"]]
    return {n: i for i, n in enumerate(names)}, [tuple(m) for m in found["merges"]]


def llama(legacy: bool = True) -> Any:
    """LLaMA: SentencePiece BPE. Its old form puts a space in front of each section, its new one in front of the text."""
    vocab, merges = sentencepiece()
    tokenizer = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    if legacy:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(_special("<unk>", "<s>", "</s>"))
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    return _wrapped(tokenizer, LLAMA_2, named)


def unigram(words: bool = False) -> Any:
    """A SentencePiece Unigram whose vocabulary spells its specials; with `words`, T5: whitespace only parts words."""
    found = _pieces("unigram")
    specials = ["<pad>", "</s>", "<unk>", "<extra_id_0>"]
    fallback = [] if words else [(f"<0x{b:02X}>", 0.0) for b in range(256)]
    learned = [(t, s) for t, s in found["vocab"] if t not in specials]
    vocab = [*((t, 0.0) for t in specials), *fallback, *learned]
    tokenizer = Tokenizer(models.Unigram(vocab, unk_id=2, byte_fallback=not words))
    metaspace = pre_tokenizers.Metaspace()
    if words:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), metaspace])
        tokenizer.decoder = decoders.Metaspace()
    else:
        tokenizer.pre_tokenizer = metaspace
        tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace()])
    tokenizer.add_special_tokens(_special(*specials))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return _wrapped(tokenizer, ZEPHYR, {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"})


@cache
def _byte_level(prefix_space: bool, pattern: str) -> str:
    """The tokenizer.json of a byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex({"gpt2": _GPT2, "qwen": _QWEN}[pattern]), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=prefix_space)
    tokenizer.pre_tokenizer = byte_level if prefix_space else pre_tokenizers.Sequence([split, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.add_special_tokens(_special("<|endoftext|>", "<|im_start|>", "<|im_end|>"))
    tokenizer.add_tokens([AddedToken("<tool_call>", special=False), AddedToken("    ", special=False)])
    text: str = tokenizer.to_str()
    return text


def gpt(prefix_space: bool = False, pattern: str = "gpt2") -> Any:
    """Byte-level BPE: pad is eos, one added token is no special (a tool mark), one is mere whitespace."""
    tokenizer = Tokenizer.from_str(_byte_level(prefix_space, pattern))
    return _wrapped(tokenizer, CHATML, {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"})


def _wrapped(tokenizer: Tokenizer, chat_template: str, named: dict[str, str]) -> Any:
    from transformers import PreTrainedTokenizerFast

    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named)
    wrapped.chat_template = chat_template
    return wrapped


# Those in which every text can be said: what comes back from ids is what went in.
LOSSLESS = {
    "llama-legacy": lambda: llama(legacy=True),
    "llama": lambda: llama(legacy=False),
    "unigram": unigram,
    "gpt2": gpt,
    "qwen": lambda: gpt(pattern="qwen"),
    "roberta": lambda: gpt(prefix_space=True),
}
FAMILIES = {**LOSSLESS, "t5": lambda: unigram(words=True)}


def saved(name: str, folder: Path) -> Path:
    """A folder that holds the tokenizer of a family."""
    made = folder / name
    if not made.exists():
        FAMILIES[name]().save_pretrained(made)
    return made
