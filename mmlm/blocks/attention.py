"""The one attention of the project: self and cross, grouped heads, packed rows; and the choice of who computes it."""

from inspect import signature

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from mmlm.blocks.choice import choose, chosen, forced, say, varlen, wish
from mmlm.blocks.masks import Dense, Segments, band
from mmlm.errors import InputError

Mask = Segments | Dense | Bool[Tensor, "_b _h _t _s"]
Bias = Float[Tensor, "_b _h _t _s"]

__all__ = ["attention", "chosen", "forced"]


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
    name, reason = choose(q.device.type, q.dtype, (q.shape[-1], v.shape[-1]), obstacle, softcap)
    say(name, reason, q.device.type)
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
        raise InputError(
            f"attention: {q.shape[1]} query heads cannot share {k.shape[1]} key heads; expected a multiple"
        )
    if causal and length > keys:
        raise InputError(
            f"attention: causal with {length} queries and {keys} keys; the queries must be the last of the keys"
        )
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
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dense: Dense | None,
    scale: float,
    dropout: float,
    softcap: float | None,
    bias: Tensor | None,
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
        out: Tensor = weights.unflatten(1, heads) @ v.to(wide).unsqueeze(2)
    return out.flatten(1, 2).to(q.dtype)


def _sdpa(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dense: Dense | None,
    square: bool,
    scale: float,
    dropout: float,
    bias: Tensor | None,
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
    kernel = varlen()
    groups = segments.groups
    rows = [x.transpose(1, 2).flatten(0, 1) for x in (q, k, v)]
    out: Tensor = torch.zeros_like(rows[0])
    if groups.longest_query:
        shared = {"enable_gqa": True} if q.shape[1] != k.shape[1] else {}
        if shared and "enable_gqa" not in signature(kernel).parameters:
            rows[1:] = [x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in rows[1:]]
            shared = {}
        seen = kernel(
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
    return out.unflatten(0, (q.shape[0], q.shape[2])).transpose(1, 2)  # type: ignore[no-any-return]


def _obstacle(mask: Mask | None, dropout: float, bias: Tensor | None) -> str | None:
    """What in this call keeps flash from computing it."""
    if bias is not None:
        return "the scores carry a bias"
    if dropout:
        return "the varlen kernel has no dropout"
    if mask is not None and not isinstance(mask, Segments):
        return "the mask is not by segments"
    if mask is None and not wish():
        return "nothing is masked, so sdpa picks its own fused kernel"
    return None


def _ones(x: Float[Tensor, "B H T E"]) -> Tensor:
    return torch.ones(x.shape[0], x.shape[2], dtype=torch.long, device=x.device)
