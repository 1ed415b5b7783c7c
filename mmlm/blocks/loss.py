"""Linear head and cross-entropy in one, so that the logits of all tokens never stand in memory at once."""

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


def linear_cross_entropy(
    states: Float[Tensor, "M D"],
    weight: Float[Tensor, "V D"],
    targets: Int[Tensor, " M"],
    *,
    bias: Float[Tensor, " V"] | None = None,
    softcap: float | None = None,
    scale: float = 1.0,
    chunk: int | None = None,
) -> Float[Tensor, ""]:
    """The sum of -log softmax(cap(W (scale x) + b))[target] over M states, in fp32; targets of IGNORE count nothing.

    cap(x) = softcap tanh(x / softcap), where `softcap` is given. Works on `chunk` states at a time, and takes gradients on
    the way, of those of states, weight and bias that require them. Uses torch's own fused version where that is exact.
    Raises InputError where the shapes do not go together.
    """
    if states.shape[1] != weight.shape[1] or len(states) != len(targets):
        raise InputError(
            f"linear_cross_entropy: states {tuple(states.shape)}, weight {tuple(weight.shape)} and {len(targets)} targets "
            f"do not go together; expected [M, D], [V, D] and M"
        )
    if torch.is_autocast_enabled(states.device.type):
        dtype = torch.get_autocast_dtype(states.device.type)
        states, weight, bias = states.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    chunk = chunk or max(64, _HELD // len(weight))
    scaled = states if scale == 1.0 else states * scale
    if _native(scaled, softcap):
        options = torch.nn.LinearCrossEntropyOptions(chunking_method=None, batch_chunk_size=chunk)
        return F.linear_cross_entropy(
            scaled, weight, targets, linear_bias=bias, reduction="sum", ignore_index=IGNORE, options=options
        )
    wanted = [torch.is_grad_enabled() and x is not None and x.requires_grad for x in (scaled, weight, bias)]
    return _Chunked.apply(scaled, weight, bias, targets, softcap, chunk, wanted)  # type: ignore[no-any-return]


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
        targets: Tensor,
        softcap: float | None,
        chunk: int,
        wanted: list[bool],
    ) -> Tensor:
        total = torch.zeros((), device=states.device)
        # Sums over chunks are kept in fp32: each adds little to what is there.
        grads = [
            torch.zeros_like(states) if wanted[0] else None,
            torch.zeros_like(weight, dtype=torch.float32) if wanted[1] else None,
            torch.zeros_like(bias, dtype=torch.float32) if bias is not None and wanted[2] else None,
        ]
        for begin in range(0, len(states), chunk):
            x, y = states[begin : begin + chunk], targets[begin : begin + chunk]
            loss, slope = _piece(F.linear(x, weight, bias).float(), y, softcap)
            total += loss
            slope = slope.to(weight.dtype) if any(wanted) else slope
            if grads[0] is not None:
                grads[0][begin : begin + chunk] = slope @ weight
            if grads[1] is not None:
                grads[1] += slope.mT @ x
            if grads[2] is not None:
                grads[2] += slope.sum(0)
        ctx.save_for_backward(*(None if g is None else g.to(states.dtype) for g in grads))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return (*(None if g is None else g * outer[0].to(g.dtype) for g in ctx.saved_tensors), None, None, None, None)


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
