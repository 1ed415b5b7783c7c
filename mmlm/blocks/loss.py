"""Linear head and cross-entropy in one, so that the logits of all tokens never stand in memory at once."""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from mmlm.batch import IGNORE
from mmlm.errors import InputError

# Logits held at once, unless `chunk` says otherwise: 2^25 of them are 128 MiB in fp32.
_HELD = 1 << 25


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a head that stand in a table of their own: those of the ids `first`, `first` + 1 ..."""

    first: int
    weight: Float[Tensor, "N D"]
    bias: Float[Tensor, " N"] | None = None

    def join(self, logits: Float[Tensor, "*M V"], states: Float[Tensor, "*M D"]) -> Float[Tensor, "*M W"]:
        """The logits of a head with those of these rows at their ids: in place of what the head has there, or behind it."""
        own = F.linear(states, self.weight, self.bias)
        return torch.cat([logits[..., : self.first], own, logits[..., self.first + len(self.weight) :]], -1)


def linear_cross_entropy(
    states: Float[Tensor, "M D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, " M"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    added: Rows | None = None,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """The sum of -log softmax(cap(W (scale x) + b))[target] over M states, in fp32; targets of IGNORE count nothing.

    cap(x) = softcap tanh(x / softcap), where `softcap` is given. Works on `chunk` states at a time, and takes gradients on
    the way, of those of states, weight and bias that require them. `added` are rows of W and b in a table of their own; no
    copy of W is made for them. Uses torch's own fused version where there are none and where it is exact. Raises
    InputError where the shapes do not go together.
    """
    if states.shape[1] != weight.shape[1] or len(states) != len(targets):
        raise InputError(
            f"linear_cross_entropy: states {tuple(states.shape)}, weight {tuple(weight.shape)} and {len(targets)} targets "
            f"do not go together; expected [M, D], [V, D] and M"
        )
    if torch.is_autocast_enabled(states.device.type):
        dtype = torch.get_autocast_dtype(states.device.type)
        states, weight, bias = states.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
        if added is not None:
            added = Rows(added.first, added.weight.to(dtype), None if added.bias is None else added.bias.to(dtype))
    chunk = chunk or max(64, _HELD // len(weight))
    scaled = states if scale == 1.0 else states * scale
    if added is None and _native(scaled, softcap):
        options = torch.nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=chunk)
        return F.linear_cross_entropy(
            scaled, weight, targets, linear_bias=bias, reduction="sum", ignore_index=IGNORE, options=options
        )
    first, rows, rows_bias = (0, None, None) if added is None else (added.first, added.weight, added.bias)
    given = (scaled, weight, bias, rows, rows_bias)
    wanted = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in given]
    return _Chunked.apply(*given, first, targets, softcap, chunk, wanted)  # type: ignore[no-any-return]


def _native(states: Tensor, softcap: float | None) -> bool:
    """Whether torch's version gives the same: it has no softcap, and rounds the loss to the dtype of the states."""
    return hasattr(F, "linear_cross_entropy") and not softcap and states.dtype == torch.float32 and len(states) > 0


class _Chunked(torch.autograd.Function):
    """Loss and gradients chunk by chunk, in the forward pass: backward only scales them. As in Liger (Hsu et al. 2024)."""

    @staticmethod
    def forward(
        ctx: Any,
        states: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        rows: Tensor | None,
        rows_bias: Tensor | None,
        first: int,
        targets: Tensor,
        softcap: float | None,
        chunk: int,
        wanted: list[bool],
    ) -> Tensor:
        total = torch.zeros((), device=states.device)
        added = None if rows is None else Rows(first, rows, rows_bias)
        # Sums over chunks are kept in fp32: each adds little to what is there.
        grads = [
            torch.zeros_like(x, dtype=None if i == 0 else torch.float32) if x is not None and wanted[i] else None
            for i, x in enumerate((states, weight, bias, rows, rows_bias))
        ]
        for begin in range(0, len(states), chunk):
            x, y = states[begin : begin + chunk], targets[begin : begin + chunk]
            logits = F.linear(x, weight, bias)
            loss, slope = _piece((added.join(logits, x) if added else logits).float(), y, softcap)
            total += loss
            if not any(wanted):
                continue
            parts = [(slope.to(weight.dtype), weight)]
            if added:
                parts = list(zip(_parted(parts[0][0], added, len(weight)), (weight, added.weight), strict=True))
            for k, (part, table) in enumerate(parts):
                if grads[0] is not None:
                    grads[0][begin : begin + chunk] += part @ table
                if (of_table := grads[1 + 2 * k]) is not None:
                    of_table += part.mT @ x
                if (of_bias := grads[2 + 2 * k]) is not None:
                    of_bias += part.sum(0)
        ctx.save_for_backward(*(None if g is None else g.to(states.dtype) for g in grads))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return (*(None if g is None else g * outer[0].to(g.dtype) for g in ctx.saved_tensors), *[None] * 5)


def _parted(
    slope: Float[Tensor, "m W"], added: Rows, vocabulary: int
) -> tuple[Float[Tensor, "m V"], Float[Tensor, "m N"]]:
    """The slope of the head's own logits, and of those of the added rows. Writes over `slope`."""
    here = slope[:, added.first : added.first + len(added.weight)]
    taken = here.clone()
    here.zero_()
    return slope[:, :vocabulary], taken


def _piece(
    logits: Float[Tensor, "m V"], targets: Int[Tensor, " m"], softcap: float | None
) -> tuple[Float[Tensor, ""], Float[Tensor, "m V"]]:
    """The loss of one chunk and its slope: softmax - onehot, times cap'(x) = 1 - tanh(x / softcap)^2. Writes over `logits`."""
    counted = targets != IGNORE
    bent = None
    if softcap:
        bent = torch.tanh_(logits.div_(softcap))
        logits = bent * softcap
    at = targets.clamp(min=0)[:, None]
    picked = logits.gather(1, at)
    level = logits.logsumexp(1, keepdim=True)
    loss = ((level - picked)[:, 0] * counted).sum()
    slope = logits.sub_(level).exp_()
    slope.scatter_add_(1, at, slope.new_full(at.shape, -1.0))
    if bent is not None:
        slope.mul_(bent.square_().neg_().add_(1))
    return loss, slope.mul_(counted[:, None])
