"""The room of greys deeper than 8 bits: what range they have, and how they become 8-bit ones."""

from typing import NamedTuple

import numpy as np
import PIL.Image
from jaxtyping import Num, UInt8

from mmlm.errors import InputError

_BITS, _PHOTOMETRIC, _FORMAT = 258, 262, 339  # tags of TIFF


class Depth(NamedTuple):
    """What a file says about its deep greys: the greatest value (None: nothing is said), and how to read them."""

    top: int | None
    inverted: bool
    unsigned: bool


def tag(picture: PIL.Image.Image, number: int, default: int) -> int | float:
    """The first value of a TIFF tag; `default` in other formats, and where the tag is absent or no number."""
    value = getattr(picture, "tag_v2", {}).get(number, default)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int | float) else default


def depth_of(picture: PIL.Image.Image) -> Depth:
    """Read from the tags of a TIFF; the deep greys of a PNG have 16 bits."""
    if not picture.mode.startswith("I;16"):
        return Depth(None, False, picture.mode == "I" and tag(picture, _FORMAT, 2) == 1)
    top = (1 << min(int(tag(picture, _BITS, 16)), 16)) - 1
    return Depth(top, tag(picture, _PHOTOMETRIC, 1) == 0, True)


def flat_grey(picture: PIL.Image.Image, depth: Depth) -> PIL.Image.Image:
    """RGB of a picture of 16-bit, 32-bit or float greys; a colour key is white. InputError where a grey is not finite."""
    values = np.asarray(picture)
    clear = picture.info.get("transparency")
    hidden = values == clear if isinstance(clear, int) else None
    if depth.unsigned and values.dtype == np.int32:
        values = values.view(np.uint32)
    if not np.isfinite(values).all():
        raise InputError("some greys are not finite numbers")
    greys = PIL.Image.fromarray(grey(values, depth.top, depth.inverted))
    if hidden is not None:
        greys.paste(255, mask=PIL.Image.fromarray(hidden))
    return greys.convert("RGB")


def grey(values: Num[np.ndarray, "H W"], top: int | None = None, inverted: bool = False) -> UInt8[np.ndarray, "H W"]:
    """`values` (finite) as 8-bit greys: 0..`top` becomes 0..255, or 255..0 where `inverted`.

    Where the file does not say its range, it is taken from the values: floats within 0..1 have the range 0..1, floats
    within 0..255 have 0..255, whole numbers within 0..65535 have 0..65535, and anything else runs from its least to its
    greatest value.
    """
    x = values.astype(np.float64)
    low, high = float(x.min()), float(x.max())
    ranges = (1, 255) if values.dtype.kind == "f" else (65535,)
    if top is None:
        top = next((r for r in ranges if low >= 0 and high <= r), None)
    start, span = (0.0, float(top)) if top is not None else (low, high - low)
    greys = np.clip(np.rint((x - start) * (255.0 / (span or 1.0))), 0, 255).astype(np.uint8)
    return 255 - greys if inverted else greys
