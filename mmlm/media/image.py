"""The room where a picture becomes RGB pixels; the policy stands in `mmlm.media`."""

import struct
import threading
import warnings
import zlib

import numpy as np
import PIL.Image
from jaxtyping import Num, UInt8
from PIL.Image import Transpose

from mmlm.errors import InputError
from mmlm.media.source import called, opened
from mmlm.sample import Image

MAX_PIXELS = 64_000_000
MAX_BYTES = 256 << 20
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# All that Pillow was seen to raise on damaged files, most of it from deep inside a format's parser.
FAULTS = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, AssertionError,
    ArithmeticError, RuntimeError, MemoryError, struct.error, zlib.error, PIL.Image.DecompressionBombError,
)  # fmt: skip

_ORIENTATION, _TIFF_BITS, _TIFF_PHOTOMETRIC, _TIFF_FORMAT = 274, 258, 262, 339
_TIFF_TILE = (322, 323)
_UPRIGHT = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}

# The filter of warnings belongs to the process: two threads that changed it at once could leave it changed.
_quiet = threading.Lock()


def load_image(item: Image) -> PIL.Image.Image:
    """The picture of `item` in RGB, upright, without alpha. Raises InputError that names the item and the reason."""
    if isinstance(item.source, np.ndarray):
        pixels = item.source
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise InputError(f"{called(item)} of {pixels.dtype}: expected uint8 [H, W, 3] with at least one pixel")
        _allow(item, pixels.shape[1], pixels.shape[0])
        return PIL.Image.fromarray(np.ascontiguousarray(pixels))
    with opened(item, MAX_BYTES) as stream, _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = PIL.Image.open(stream, formats=FORMATS)
            _allow(item, *picture.size)
            _allow(item, *(int(_tag(picture, t, 1)) for t in _TIFF_TILE))
            picture.load()
            return _rgb(_upright(picture))
        except InputError:
            raise
        except FAULTS as e:
            raise InputError(f"{called(item)}: {_reason(e)}") from None


def _allow(item: Image, width: int, height: int) -> None:
    if width < 1 or height < 1:
        raise InputError(f"{called(item)}: the picture has no pixels")
    if width * height > MAX_PIXELS:
        raise InputError(f"{called(item)}: {_TOO_LARGE}")


_TOO_LARGE = f"the picture has more than {MAX_PIXELS // 1_000_000} million pixels; make it smaller"


def _reason(error: BaseException) -> str:
    """Our words for a fault of Pillow's; its own text can hold memory addresses."""
    match error:
        case PIL.UnidentifiedImageError():
            return (
                f"expected a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture, came something else or a broken header"
            )
        case PIL.Image.DecompressionBombError():
            return _TOO_LARGE
        case MemoryError():
            return "the picture needs more memory than there is"
        case EOFError():
            return "the picture is cut short"
        case OSError() if "truncated" in str(error):
            return "the picture is cut short"
        case _:
            return "the picture is damaged"


def _tag(picture: PIL.Image.Image, tag: int, default: int) -> int | float:
    """The first value of a TIFF tag; `default` in other formats, and where the tag is absent or no number."""
    value = getattr(picture, "tag_v2", {}).get(tag, default)
    value = value[0] if isinstance(value, tuple) and value else value
    return value if isinstance(value, int | float) else default


def _upright(picture: PIL.Image.Image) -> PIL.Image.Image:
    """`picture` turned as its EXIF orientation says (TIFF is turned by Pillow); damaged EXIF says nothing."""
    try:
        turn = _UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
    except FAULTS:
        return picture
    return picture if turn is None else picture.transpose(turn)


def _rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    """`picture` in RGB, on white where it is transparent."""
    if picture.mode.startswith(("I", "F")):
        values = np.asarray(picture)
        grey = PIL.Image.fromarray(_grey8(picture, values))
        clear = picture.info.get("transparency")
        if isinstance(clear, int):
            grey.paste(255, mask=PIL.Image.fromarray(values == clear))
        return grey.convert("RGB")
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    ground = PIL.Image.new("RGB", layer.size, (255, 255, 255))
    ground.paste(layer, mask=layer.getchannel("A"))
    return ground


def _grey8(picture: PIL.Image.Image, values: Num[np.ndarray, "H W"]) -> UInt8[np.ndarray, "H W"]:
    """8-bit greys of a picture with deeper ones; the range comes from the file where it says so."""
    if picture.mode.startswith("I;16"):
        top = (1 << min(int(_tag(picture, _TIFF_BITS, 16)), 16)) - 1
        inverted = _tag(picture, _TIFF_PHOTOMETRIC, 1) == 0
        return grey(top - values.astype(np.int64) if inverted else values, top)
    if picture.mode == "I" and _tag(picture, _TIFF_FORMAT, 2) == 1:
        values = values.view(np.uint32)
    return grey(values)


def grey(values: Num[np.ndarray, "H W"], top: float | None = None) -> UInt8[np.ndarray, "H W"]:
    """`values` as 8-bit greys: 0..`top` becomes 0..255.

    Where the file does not say its range, it is taken from the values: floats within 0..1 have the range 0..1, floats
    within 0..255 have 0..255, whole numbers within 0..65535 have 0..65535, and anything else runs from its least to its
    greatest value. Raises ValueError where a value is not finite.
    """
    x = values.astype(np.float64)
    low, high = float(x.min()), float(x.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise ValueError("a grey value is not finite")
    ranges = (1.0, 255.0) if values.dtype.kind == "f" else (65535.0,)
    if top is None:
        top = next((r for r in ranges if low >= 0 and high <= r), None)
    start, span = (0.0, float(top)) if top is not None else (low, high - low)
    return np.clip(np.rint((x - start) * (255.0 / (span or 1.0))), 0, 255).astype(np.uint8)
