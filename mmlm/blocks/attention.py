"""The one attention of the project: self and cross, grouped heads, packed rows; and the choice of who computes it."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from inspect import signature
from typing import Literal, get_args

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mmlm.blocks.masks import Dense, Segments, band
from mmlm.errors import InputError

Implementation = Literal["reference", "sdpa", "flash"]
Mask = Segments | Dense | Bool[Tensor, "_b _h _t _s"]
Bias = Float[Tensor, "_b _h _t _s"]

_log = logging.getLogger(__name__)
_VARIABLE = "MMLM_ATTENTION"
# A stack and not a context variable: gradient checkpointing computes attention again in the threads of the backward pass.
_forced: list[Implementation] = []


@contextmanager
def forced(implementation: Implementation) -> Iterator[None]:
    """Use `implementation` inside the block, or fail: for tests and measurements. MMLM_ATTENTION does it for a process."""
    _forced.append(implementation)
    try:
        yield
    finally:
        _forced.pop()


def chosen(device: torch.device | str, dtype: torch.dtype = torch.float32) -> tuple[Implementation, str]:
    """Which implementation rows of segments get on `device`, and why. Raises InputError where a forced one cannot run."""
    return _choose(torch.device(device).type, dtype, (64, 64), None, None)


def attention(
    q: Float[Tensor, "B H T E"],
    k: Float[Tensor, "B G S E"],
    v: Float[Tensor, "B G S W"],
    *,
    mask: Mask | None = None,
    causal: bool = False,
    scale: float | None = None,
    dropout: float = 0.0,
    window: int | None = None,
    softcap: float | None = None,
    bias: Bias | None = None,
) -> Float[Tensor, "B H T W"]:
    """softmax(scale q k^T + bias) v over the keys that a query sees; a query that sees none gives zero.

    H query heads share G key heads (H a multiple of G). `scale` defaults to 1 / sqrt(E). `causal`: the queries are the
    last T of the S positions and none sees a position behind itself; `window` narrows that to itself and the
    `window` - 1 before it. A mask that is not by segments is taken as it is, so it goes with neither. `dropout` is a
    probability and always on: give 0 outside training. `softcap` bounds the scores by tanh to +-softcap (Gemma 2).
    Raises InputError where shapes or arguments contradict each other.
    """
    length, keys = q.shape[2], k.shape[2]
    window = None if window is None or window >= keys else window
    _check(q, k, mask, causal, window)
    if not q.numel() or not keys:
        return q.new_zeros(*q.shape[:3], v.shape[-1])
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    obstacle = _obstacle(mask, dropout, bias)
    name, reason = _choose(q.device.type, q.dtype, (q.shape[-1], v.shape[-1]), obstacle, softcap)
    _say(name, reason, q.device.type)
    if name == "flash":
        segments = mask if isinstance(mask, Segments) else Segments(_ones(q), _ones(k))
        return _flash(q, k, v, segments, causal, window, scale)
    triangle = name == "sdpa" and bias is None
    dense, square = _lay_out(mask, causal, window, (length, keys), q.device, triangle)
    if name == "sdpa":
        out = _sdpa(q, k, v, dense, square, scale, dropout, bias)
    else:
        out = _reference(q, k, v, dense, scale, dropout, softcap, bias)
    return out if dense is None else out.masked_fill(dense.empty, 0)


def _check(q: Tensor, k: Tensor, mask: Mask | None, causal: bool, window: int | None) -> None:
    """Refuse shapes and arguments that contradict each other."""
    length, keys = q.shape[2], k.shape[2]
    if q.shape[1] % k.shape[1]:
        raise InputError(f"attention: {q.shape[1]} query heads cannot share {k.shape[1]} key heads; expected a multiple")
    if causal and length > keys:
        raise InputError(f"attention: causal with {length} queries and {keys} keys; the queries must be the last of the keys")
    if window is not None and not causal:
        raise InputError("attention: a window is a limit on causal attention; set causal, or give a mask")
    if isinstance(mask, Segments):
        if (*mask.queries.shape, mask.keys.shape[1]) != (q.shape[0], length, keys):
            raise InputError(
                f"attention: segments are for {tuple(mask.queries.shape)} queries and {tuple(mask.keys.shape)} keys, but "
                f"there are {(q.shape[0], length)} and {(q.shape[0], keys)}"
            )
    elif mask is not None:
        if causal:
            raise InputError("attention: causal is for segments or no mask; a dense mask says by itself what is seen")
        shape = tuple((mask.seen if isinstance(mask, Dense) else mask).shape)
        if any(n not in (1, m) for n, m in zip(shape, (*q.shape[:3], keys), strict=True)):
            raise InputError(f"attention: a mask of shape {shape} does not fit scores of shape {(*q.shape[:3], keys)}")


def _lay_out(
    mask: Mask | None, causal: bool, window: int | None, sizes: tuple[int, int], device: torch.device, triangle: bool
) -> tuple[Dense | None, bool]:
    """What is seen as a mask, None where that is everything; and whether a square causal triangle, which `triangle`
    allows, is left to the kernel."""
    if isinstance(mask, Tensor):
        mask = Dense.of(mask)
    if isinstance(mask, Dense):
        return mask, False
    if isinstance(mask, Segments) and not mask.whole:
        return mask.dense(causal, window), False
    if not causal or (sizes[0] == 1 and window is None):
        return None, False
    if triangle and sizes[0] == sizes[1] and window is None:
        return None, True
    return Dense.of(band(*sizes, window, device)[None, None]), False


def _reference(
    q: Tensor, k: Tensor, v: Tensor, dense: Dense | None, scale: float, dropout: float, softcap: float | None, bias: Tensor | None
) -> Tensor:
    """Written as in the papers, in fp32 (or fp64 where that comes in)."""
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    with torch.autocast(q.device.type, enabled=False):
        heads = (k.shape[1], q.shape[1] // k.shape[1])
        scores = q.to(wide).unflatten(1, heads) @ k.to(wide).unsqueeze(2).mT * scale
        scores = scores.flatten(1, 2)
        if softcap:
            scores = softcap * torch.tanh(scores / softcap)
        if bias is not None:
            scores = scores + bias
        if dense is not None:
            scores = scores.masked_fill(~dense.seen, float("-inf"))
        weights = F.dropout(scores.softmax(-1), dropout)
        out = weights.unflatten(1, heads) @ v.to(wide).unsqueeze(2)
    return out.flatten(1, 2).to(q.dtype)


def _sdpa(
    q: Tensor, k: Tensor, v: Tensor, dense: Dense | None, square: bool, scale: float, dropout: float, bias: Tensor | None
) -> Tensor:
    """torch's scaled_dot_product_attention, which picks a kernel by itself."""
    mask = bias if bias is None else bias.to(q.dtype)
    if dense is not None:
        mask = dense.seen if mask is None else mask.masked_fill(~dense.seen, float("-inf"))
        mask = mask.expand(-1, -1, q.shape[2], -1)
    grouped = q.shape[1] != k.shape[1]
    if grouped and mask is not None and q.device.type == "cuda":
        # With a mask and grouped heads CUDA knows only the math kernel, which holds all scores.
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        grouped = False
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=square, scale=scale, enable_gqa=grouped
    )


def _flash(
    q: Tensor, k: Tensor, v: Tensor, segments: Segments, causal: bool, window: int | None, scale: float
) -> Tensor:
    """FlashAttention over packed sequences, by torch's varlen_attn: padding and other segments cost nothing."""
    varlen = _varlen()
    groups = segments.groups
    rows = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
    out = torch.zeros_like(rows[0])
    if groups.longest_query:
        shared = {"enable_gqa": True} if q.shape[1] != k.shape[1] else {}
        if shared and "enable_gqa" not in signature(varlen).parameters:
            rows[1:] = [x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in rows[1:]]
            shared = {}
        seen = varlen(
            rows[0][groups.queries],
            rows[1][groups.keys],
            rows[2][groups.keys],
            groups.query_starts,
            groups.key_starts,
            groups.longest_query,
            groups.longest_key,
            scale=scale,
            window_size=((-1 if window is None else window - 1), 0) if causal else (-1, -1),
            **shared,
        )
        out = out.index_copy(0, groups.queries, seen)
    return out.unflatten(0, (q.shape[0], q.shape[2])).transpose(1, 2)


def _obstacle(mask: Mask | None, dropout: float, bias: Tensor | None) -> str | None:
    """What in this call keeps flash from computing it."""
    if bias is not None:
        return "the scores carry a bias"
    if dropout:
        return "the varlen kernel has no dropout"
    if mask is not None and not isinstance(mask, Segments):
        return "the mask is not by segments"
    if mask is None and not _wish():
        return "nothing is masked, so sdpa picks its own fused kernel"
    return None


def _choose(
    device: str, dtype: torch.dtype, widths: tuple[int, int], obstacle: str | None, softcap: float | None
) -> tuple[Implementation, str]:
    """The implementation and the reason for it."""
    wish = _wish()
    if softcap:
        if wish not in (None, "reference"):
            raise InputError(f"attention: {wish} was asked for, but only the reference implementation knows softcap={softcap}")
        return "reference", "no fused kernel of torch knows softcap"
    obstacle = obstacle or _no_flash(device, dtype, widths)
    if wish == "flash" and obstacle:
        raise InputError(f"attention: flash was asked for ({_VARIABLE} or forced), but {obstacle}")
    if wish:
        return wish, "asked for"
    return ("sdpa", obstacle) if obstacle else ("flash", "CUDA, half precision, masked by segments")


def _wish() -> Implementation | None:
    """What `forced` or the environment asks for."""
    found = _forced[-1] if _forced else os.environ.get(_VARIABLE, "auto")
    if found != "auto" and found not in get_args(Implementation):
        raise InputError(f"{_VARIABLE}={found!r}; expected auto, {', '.join(get_args(Implementation))}")
    return None if found == "auto" else found  # type: ignore[return-value]


@cache
def _no_flash(device: str, dtype: torch.dtype, widths: tuple[int, int]) -> str | None:
    """What keeps flash from this device, dtype and head width; None where it runs."""
    if device != "cuda":
        return f"flash needs CUDA, not {device}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"flash needs half precision, not {dtype}"
    if widths[0] != widths[1] or widths[0] > 256 or widths[0] % 8:
        return f"flash has no kernel for heads of width {widths[0]} and {widths[1]}"
    if torch.cuda.get_device_capability()[0] < 8:
        return "flash needs a GPU of compute capability 8 or later"
    try:
        known = signature(_varlen()).parameters
    except ImportError:
        return "this torch has no torch.nn.attention.varlen"
    return None if {"scale", "window_size"} <= set(known) else "this torch's varlen_attn takes no scale or window"


def _varlen() -> Callable[..., Tensor]:
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn  # type: ignore[no-any-return]


@cache
def _say(name: str, reason: str, device: str) -> None:
    """Say once per process who computes attention, and why."""
    _log.info("attention on %s: %s (%s)", device, name, reason)


def _ones(x: Float[Tensor, "B H T E"]) -> Tensor:
    return torch.ones(x.shape[0], x.shape[2], dtype=torch.long, device=x.device)
