"""What Q-Formers have of BERT (Devlin et al. 2019): its tokenizer, its initial values, its weights by other names."""

import re
from collections.abc import Mapping
from typing import Any

from safetensors import safe_open
from torch import Tensor, nn

from mmlm.errors import InputError
from mmlm.weights import Weights

LIMIT = 128  # ids of an instruction, as InstructBLIP was trained; of a longer one the end is kept
# Inner names of a layer in BERT ("self") and in the Q-Formers of transformers ("attention"), and here.
_LAYER = {
    "output.LayerNorm": "norm",
    "output.dense": "o",
    "self.query": "q",
    "self.key": "k",
    "self.value": "v",
    "attention.query": "q",
    "attention.key": "k",
    "attention.value": "v",
}
_AROUND = {
    "intermediate.dense": "text_ffn.up",
    "output.dense": "text_ffn.down",
    "output.LayerNorm": "text_norm",
    "intermediate_query.dense": "ffn.up",
    "output_query.dense": "ffn.down",
    "output_query.LayerNorm": "ffn_norm",
}
_BOTTOM = {
    "embeddings.word_embeddings": "words",
    "embeddings.position_embeddings": "places",
    "embeddings.LayerNorm": "norm",
    "embeddings.layernorm": "norm",
    "layernorm": "norm",
}


def rename(name: str) -> str | None:
    """The name here of a tensor of BERT or of a transformers Q-Former (without what stands before it); None for others."""
    module, _, kind = name.rpartition(".")
    kind = {"gamma": "weight", "beta": "bias"}.get(kind, kind)  # as in BERT's oldest files
    if module in _BOTTOM:
        return f"{_BOTTOM[module]}.{kind}"
    if not (found := re.fullmatch(r"encoder\.layer\.(\d+)\.(.+)", module)):
        return None
    number, inner = found.groups()
    if inner in _AROUND:
        return f"blocks.{number}.{_AROUND[inner]}.{kind}"
    which, _, rest = inner.partition(".")
    ours = {"attention": "attention", "crossattention": "cross"}.get(which)
    if ours is None or rest not in _LAYER:
        return None
    return (
        f"blocks.{number}.{ours}_norm.{kind}"
        if _LAYER[rest] == "norm"
        else f"blocks.{number}.{ours}.{_LAYER[rest]}.{kind}"
    )


def initialise(module: nn.Module) -> None:
    """BERT's initial values: normal with a deviation of 0.02, zero biases, zero for padding."""
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
    if isinstance(module, nn.Embedding) and module.padding_idx is not None:
        nn.init.zeros_(module.weight[module.padding_idx].detach())


def read(weights: Weights) -> Mapping[str, Tensor]:
    """The tensors of a BERT checkpoint under the names used here. Raises InputError where the folder holds none."""
    folder = weights.folder()
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError(f"aligner qformer: {folder} holds no .safetensors file; expected a BERT checkpoint")
    found: dict[str, Tensor] = {}
    for file in files:
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118  # not a mapping
                if ours := rename(name.removeprefix("bert.")):
                    found[ours] = opened.get_tensor(name).float()
    return found


def check(weights: Weights, layers: int, hidden: int, heads: int) -> None:
    """Refuse a checkpoint that is no BERT, or one of another size."""
    config = weights.config()
    if config.get("model_type") != "bert":
        raise InputError(
            f"aligner qformer: weights {weights.name!r} are a {config.get('model_type')!r}; expected a bert"
        )
    theirs = (config["hidden_size"], config["num_attention_heads"], config["intermediate_size"])
    if theirs != (hidden, heads, 4 * hidden) or config["num_hidden_layers"] < layers:
        raise InputError(
            f"aligner qformer: weights {weights.name!r} have {config['num_hidden_layers']} layers, hidden={theirs[0]}, "
            f"heads={theirs[1]} and an inner width of {theirs[2]}; asked for are {layers} layers, hidden={hidden}, "
            f"heads={heads} and {4 * hidden}"
        )


class Words:
    """BERT's own tokenizer, "[CLS] text [SEP]", from the folder of its checkpoint. Loaded when it is first used.

    What looks like a special token in the text is read as plain text, so that no id of it is padding (0).
    """

    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self._tokenizer: Any = None

    def __call__(self, text: str) -> list[int]:
        if self._tokenizer is None:
            from transformers import BertTokenizer

            self._tokenizer = BertTokenizer.from_pretrained(
                self.weights.folder(), truncation_side="left", split_special_tokens=True
            )
        ids: list[int] = self._tokenizer.encode(text, truncation=True, max_length=LIMIT)
        return ids

    def __getstate__(self) -> dict[str, Any]:
        return {"weights": self.weights, "_tokenizer": None}


class Letters:
    """UTF-8 bytes between a start (1) and an end (2), for a Q-Former without a checkpoint."""

    size = 259

    def __call__(self, text: str) -> list[int]:
        return [1, *(b + 3 for b in text.encode()[-(LIMIT - 2) :]), 2]
