"""The room where a picture becomes RGB pixels; the policy stands in `mmlm.media`."""

import struct
import threading
import warnings
import zlib

import numpy as np
import PIL.Image
from PIL.Image import Transpose

from mmlm.errors import InputError
from mmlm.media.grey import Depth, depth_of, flat_grey, tag
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

_ORIENTATION, _TIFF_TILE = 274, (322, 323)
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


def load_image(item: Image, most: int = MAX_PIXELS) -> PIL.Image.Image:
    """The picture of `item` in RGB, upright, without alpha. Raises InputError that names the item and the reason; `most` is
    how many pixels its header may tell of."""
    if isinstance(item.source, np.ndarray):
        pixels = item.source
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
            raise InputError(f"{called(item)} of {pixels.dtype}: expected uint8 [H, W, 3] with at least one pixel")
        _allow(item, pixels.shape[1], pixels.shape[0], most)
        return PIL.Image.fromarray(np.ascontiguousarray(pixels))
    with opened(item, MAX_BYTES) as stream, _quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            picture = PIL.Image.open(stream, formats=FORMATS)
            _allow(item, *picture.size, most)
            width, height = (int(tag(picture, t, 1)) for t in _TIFF_TILE)
            _allow(item, width, height, most)
            picture.load()
            seen, depth = _flat(_upright(picture)), depth_of(picture)
        except InputError:
            raise
        except FAULTS as e:
            raise InputError(f"{called(item)}: {_reason(e)}") from None
    try:
        return _shallow(seen, depth)
    except InputError as e:
        raise InputError(f"{called(item)}: {e}") from None


def rgb(picture: PIL.Image.Image) -> PIL.Image.Image:
    """A picture that somebody else has opened, by the same policy. Raises InputError with the reason."""
    try:
        picture.load()
        return _shallow(_flat(_upright(picture)), depth_of(picture))
    except InputError:
        raise
    except FAULTS as e:
        raise InputError(_reason(e)) from None


def _shallow(seen: PIL.Image.Image, depth: Depth) -> PIL.Image.Image:
    return seen if seen.mode == "RGB" else flat_grey(seen, depth)


def _allow(item: Image, width: int, height: int, most: int) -> None:
    if width < 1 or height < 1:
        raise InputError(f"{called(item)}: the picture has no pixels")
    if width * height > most:
        raise InputError(f"{called(item)}: {_too_large(most)}")


def _too_large(most: int) -> str:
    return f"the picture has more than {most // 1_000_000} million pixels; make it smaller"


def _reason(error: BaseException) -> str:
    """Our words for a fault of Pillow's; its own text can hold memory addresses."""
    match error:
        case PIL.UnidentifiedImageError():
            return (
                f"expected a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture, came something else or a broken header"
            )
        case PIL.Image.DecompressionBombError():
            return _too_large(MAX_PIXELS)
        case MemoryError():
            return "the picture needs more memory than there is"
        case EOFError():
            return "the picture is cut short"
        case OSError() if "truncated" in str(error):
            return "the picture is cut short"
        case _:
            return "the picture is damaged"


def _upright(picture: PIL.Image.Image) -> PIL.Image.Image:
    """`picture` turned as its EXIF orientation says (TIFF is turned by Pillow); damaged EXIF says nothing."""
    try:
        turn = _UPRIGHT.get(picture.getexif().get(_ORIENTATION, 1))
    except FAULTS:
        return picture
    return picture if turn is None else picture.transpose(turn)


def _flat(picture: PIL.Image.Image) -> PIL.Image.Image:
    """`picture` in RGB, on white where it is transparent; greys of more than 8 bits are left as they are."""
    if picture.mode.startswith(("I", "F")):
        return picture
    if not picture.has_transparency_data:
        return picture.convert("RGB")
    layer = picture.convert("RGBA")
    ground = PIL.Image.new("RGB", layer.size, (255, 255, 255))
    ground.paste(layer, mask=layer.getchannel("A"))
    return ground
