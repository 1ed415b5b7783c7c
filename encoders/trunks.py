"""The room of what timm's networks have in common: small versions, taps at blocks or stages, another input size."""

import difflib
from collections.abc import Mapping, Sequence
from functools import cache
from itertools import chain
from math import isqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmlm.errors import InputError
from mmlm.interfaces import FeatureShape

from .towers import interpolated

# What makes a network of each class small without changing what it is made of. Sizes: 4 patches or cells a side.
_SMALL: dict[str, dict[str, Any]] = {
    "VisionTransformer": {"embed_dim": 32, "depth": 4, "num_heads": 4},
    "Eva": {"embed_dim": 32, "depth": 4, "num_heads": 4},
    "ConvNeXt": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "SwinTransformer": {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "img_size": 128},
    "ResNet": {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]},
    "EfficientNet": {},
}
_LEAST = "efficientnet_lite0"  # the builders of EfficientNets fix the widths; the least of the family stands for it


def architecture(name: str) -> str:
    """`name` where timm knows a network of that name. Raises InputError with the nearest one."""
    import timm

    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"timm has no network named {name!r}{hint}")
    return name


@cache
def shrunk(name: str) -> tuple[str, Mapping[str, Any], int]:
    """A small relative of the network `name`: a name, the arguments to create it with, and its input size."""
    import timm

    with torch.device("meta"):
        full: Any = timm.create_model(name, num_classes=0)
    kind = type(full).__name__
    if kind not in _SMALL:
        raise InputError(f"there is no tiny version of {name} ({kind}); known are those of {', '.join(_SMALL)}")
    change = dict(_SMALL[kind])
    if kind in ("VisionTransformer", "Eva"):
        change["img_size"] = 4 * full.patch_embed.patch_size[0]
    least = kind == "EfficientNet" and "lite0" not in name
    return _LEAST if least else name, change, change.get("img_size", 128)


def tapped(
    trunk: Any, x: Float[Tensor, "U 3 H W"], wanted: Sequence[int], last: int | None
) -> list[Float[Tensor, "U L C"]]:
    """What leaves the blocks or stages `wanted` (the first is 1), in that order, as rows: first the class token and its
    like, then the grid, row by row. Where stage `last` is among them, it is taken after the network's own last step."""
    prefixed = bool(getattr(trunk, "num_prefix_tokens", 0))
    indices = sorted({k - 1 for k in wanted})
    options = {"return_prefix_tokens": True} if prefixed else {}
    closing = last in wanted
    found = trunk.forward_intermediates(
        x, indices=indices, output_fmt="NCHW", intermediates_only=not closing, stop_early=not closing, **options
    )
    end, maps = found if closing else (None, found)
    rows = {i + 1: _rows(*m) if prefixed else _rows(m) for i, m in zip(indices, maps, strict=True)}
    if last is not None and end is not None:
        rows[last] = _of_end(trunk, end)
    return [rows[k] for k in wanted]


def trim_trunk(trunk: Any, wanted: Sequence[int], last: int | None) -> None:
    """Take away the blocks and norms that `tapped` with the same arguments does not need."""
    closing = last in wanted
    needed = closing and hasattr(trunk, "conv_head")  # an EfficientNet's last step counts as its head, not as its norm
    trunk.prune_intermediate_layers(sorted({k - 1 for k in wanted}), prune_norm=not closing, prune_head=not needed)
    if hasattr(trunk, "head"):
        trunk.head = nn.Identity()  # up to timm 1.0.30 a norm is left in that of a ConvNeXt


def _rows(grid: Float[Tensor, "U C h w"], prefix: Float[Tensor, "U p C"] | None = None) -> Float[Tensor, "U L C"]:
    rows = grid.flatten(2).transpose(1, 2)
    return rows if prefix is None else torch.cat([prefix, rows], dim=1)


def _of_end(trunk: Any, end: Tensor) -> Float[Tensor, "U L C"]:
    """The final features of a network as rows, whichever layout it has."""
    if end.ndim == 3:
        return end
    return end.flatten(1, 2) if getattr(trunk, "output_fmt", "NCHW") == "NHWC" else _rows(end)


def joined(maps: list[Float[Tensor, "U K C"]], prefix: int, dropped: bool) -> Float[Tensor, "U L D"]:
    """Several maps set one behind the other on the channels, with or without the first `prefix` rows."""
    if len({m.shape[1] for m in maps}) > 1:
        raise InputError(
            f"layer: the chosen stages have {[m.shape[1] for m in maps]} features; only stages with one grid can be joined"
        )
    return torch.cat([m[:, prefix:] for m in maps] if dropped and prefix else maps, dim=-1)


def set_size(trunk: Any, size: int) -> None:
    """Give a network another input size, once. Absolute positions are interpolated as in the other towers (timm would
    antialias); windows and rotary tables are timm's own work. Convolutions take any size."""
    if not hasattr(trunk, "set_input_size") or trunk.patch_embed.img_size == (size, size):
        return  # up to timm 1.0.30 a Swin changes its windows even where the size stays
    positions = getattr(trunk, "pos_embed", None)
    try:
        trunk.set_input_size((size, size))
    except (AssertionError, ValueError, RuntimeError) as e:
        raise InputError(f"image_size: {type(trunk).__name__} cannot take {size} pixels ({e})") from e
    if isinstance(positions, nn.Parameter) and positions.ndim == 3 and trunk.pos_embed.shape != positions.shape:
        prefix = 0 if trunk.no_embed_class else trunk.num_prefix_tokens
        side = isqrt(trunk.pos_embed.shape[1] - prefix)
        values = interpolated(positions.detach()[0], prefix, side).unsqueeze(0)
        trunk.pos_embed = nn.Parameter(values, requires_grad=positions.requires_grad)


def measured(encoder: nn.Module, size: int, prefix: int, pooled: bool) -> FeatureShape:
    """The shape of an encoder's features, from a forward on the meta device: nothing is computed, nothing allocated."""
    shadows = {
        n: torch.empty_like(t, device="meta") for n, t in chain(encoder.named_parameters(), encoder.named_buffers())
    }
    with torch.device("meta"), torch.no_grad():
        rows: Tensor = torch.func.functional_call(encoder, shadows, (torch.empty(1, 3, size, size),))
    _, length, channels = rows.shape
    if pooled:
        return FeatureShape(length, channels)
    side = isqrt(length - prefix)
    if side * side != length - prefix:
        raise InputError(f"expected a square grid of features behind {prefix} others, came {length} features")
    return FeatureShape(length, channels, (side, side), prefix)
