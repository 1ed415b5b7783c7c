"""Part of the plan: what a stage holds in the memory of one device."""

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from torch import nn

BYTES = {"fp32": 4, "bf16": 2}
# Bytes a weight takes in a quantised LLM, with its scales (bitsandbytes: blocks of 64 for nf4, rows for int8).
QUANTISED = {"nf4": 0.52, "int8": 1.0}
# Logits that the fused loss holds at once, in rows of the vocabulary; never fewer than 64 rows.
LOGITS = 1 << 25


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on one device at the peak of a step, by what they are for."""

    weights: float  # as stored
    copies: float  # in the number format of the forward, where that is another
    gradients: float
    moments: float  # the two of AdamW
    activations: float  # kept from the forward for the backward, and the logits of a chunk

    @property
    def total(self) -> float:
        """All of it. What kernels use for a moment, and what the allocator wastes, is not in it."""
        return self.weights + self.copies + self.gradients + self.moments + self.activations


def stored(parameters: Iterable[nn.Parameter], quantised: Collection[int] = (), quantize: str = "none") -> float:
    """Bytes of the weights, as they are stored; those whose ids are in `quantised` as `quantize` stores them."""
    return sum(p.numel() * (QUANTISED[quantize] if id(p) in quantised else p.element_size()) for p in parameters)


def of_parameters(
    weights: float,
    trained: Iterable[nn.Parameter],
    crossed: int,
    layers: int,
    precision: str,
    recompute: bool,
    devices: int,
) -> Memory:
    """The share of parameters in the memory of one of `devices` that divide weights, gradients and moments.

    Gradients and both moments have the format of their weight: 3 x 4 bytes a trained fp32 weight. In bf16 the forward
    works on copies: a trained weight's lives for the step, and a frozen one's for the backward of its layer, so all
    `crossed` frozen values that a gradient goes through count, or with `recompute` those of one layer.
    """
    opened = list(trained)
    size = sum(p.numel() * p.element_size() for p in opened)
    wide = sum(p.numel() for p in opened if p.element_size() == 4)
    copies = 0.0
    if precision == "bf16":
        copies = 2.0 * (wide + (crossed / layers if recompute else crossed))
    return Memory(weights / devices, copies, size / devices, 2 * size / devices, 0.0)


def activations(kept: float, layers: int, positions: int, width: int, precision: str, recompute: bool) -> float:
    """Bytes that one sample's layers keep: all, or with `recompute` what enters each layer and all of one layer."""
    if recompute:
        kept = layers * positions * width + kept / layers
    return kept * BYTES[precision]


def logits(rows: int, vocabulary: int) -> float:
    """Bytes of the logits and their slopes, in fp32, of as many of `rows` tokens as the fused loss takes at once."""
    return 2.0 * 4 * vocabulary * min(rows, max(64, LOGITS // vocabulary))
