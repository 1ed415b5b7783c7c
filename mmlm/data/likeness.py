"""Part of the data room: pictures that look alike, found by hashes of what they show and without comparing all pairs.

A print is two hashes of 64 bits: which of the 64 lowest frequencies of the picture's DCT lie above their median (C. Zauner,
"Implementation and Benchmarking of Perceptual Image Hash Functions", 2010), and which of 8 x 8 neighbours in a row are
brighter on the right. Two pictures look alike where at most `FREQUENCIES` bits of the first and `STEPS` of the second
differ. Each picture has a print of the whole and one without a margin of `MARGIN` on each side, so that a crop finds what
it was cut from. Neither hash sees colour; neither knows a picture that was mirrored or turned.
"""

from collections.abc import Sequence

import numpy as np
import PIL.Image
from numpy.typing import NDArray

from mmlm.errors import InputError
from mmlm.media import load_image
from mmlm.sample import Image

FREQUENCIES, STEPS = 10, 12  # bits of 64
MARGIN = 0.03
_FLAT = 2.0  # of 255: pictures of less contrast show nothing that could be recognised
_SIDE = 32
_BANDS = np.arange(0, 64, 16, dtype=np.uint64)
_AT_ONCE = 4096

Prints = NDArray[np.uint64]  # [..., 2 views, 2 hashes]
Numbers = NDArray[np.int64]


def _cosines(n: int) -> NDArray[np.float64]:
    k = np.arange(n)
    waves = np.cos(np.pi * (2 * k[None] + 1) * k[:, None] / (2 * n))
    return np.asarray(waves * np.where(k == 0, 1.0, 2**0.5)[:, None] / n**0.5)


_DCT = _cosines(_SIDE)[:8]


def look(item: Image) -> Prints | str | None:
    """The print of a picture `[2, 2]`; None where it shows nothing, and the reason where it cannot be read."""
    try:
        picture = load_image(item).convert("L")
    except InputError as e:
        return str(e)
    width, height = picture.size
    x, y = round(width * MARGIN), round(height * MARGIN)
    whole = _small(picture, (_SIDE, _SIDE))
    if whole.std() < _FLAT:
        return None
    inner = picture.crop((x, y, width - x, height - y))
    return np.array([[_frequencies(whole), _steps(picture)], [_frequencies(_small(inner, whole.shape)), _steps(inner)]])


def _small(picture: PIL.Image.Image, size: tuple[int, ...]) -> NDArray[np.float64]:
    return np.asarray(picture.resize((size[0], size[1]), PIL.Image.Resampling.LANCZOS), dtype=np.float64)


def _frequencies(pixels: NDArray[np.float64]) -> np.uint64:
    values = (_DCT @ pixels @ _DCT.T).ravel()
    return _packed(values > np.median(values[1:]))  # the mean brightness has no say


def _steps(picture: PIL.Image.Image) -> np.uint64:
    pixels = _small(picture, (9, 8))
    return _packed((pixels[:, 1:] > pixels[:, :-1]).ravel())


def _packed(bits: NDArray[np.bool_]) -> np.uint64:
    return np.uint64(int.from_bytes(np.packbits(bits).tobytes(), "big"))


class Alike:
    """An index of prints, asked for those that look like others.

    Two hashes that differ in at most 10 bits differ in at most 2 in one of their four bands of 16 bits; so each print
    stands under every value that is that near to one of its bands, and a print that is sought looks up four values.
    """

    def __init__(self, prints: Sequence[Prints]) -> None:
        """`prints` are `[2, 2]` each."""
        self._views, self._owner = _flat(prints)
        near = _near(FREQUENCIES // len(_BANDS))
        self._tables = [self._table(band, near) for band in _BANDS]

    def _table(self, band: np.uint64, near: NDArray[np.uint64]) -> tuple[Numbers, Numbers]:
        """Views sorted by the values near to one of their bands, and where each value begins `[65537]`."""
        values = ((self._views[:, :1] >> band & np.uint64(0xFFFF)) ^ near).astype(np.uint16).ravel()
        begins = np.concatenate([[0], np.cumsum(np.bincount(values, minlength=1 << 16))])
        return begins, np.argsort(values, kind="stable") // len(near)

    def find(self, prints: Sequence[Prints]) -> dict[tuple[int, int], int]:
        """Which of `prints` look like which of the index: (number here, number there) -> bits of the first hash that
        differ, at the view where they are fewest."""
        views, owner = _flat(prints)
        found: dict[tuple[int, int], int] = {}
        for start in range(0, len(views), _AT_ONCE):
            block = views[start : start + _AT_ONCE]
            for band, (begins, members) in zip(_BANDS, self._tables, strict=True):
                value = (block[:, 0] >> band & np.uint64(0xFFFF)).astype(np.int64)
                counts = begins[value + 1] - begins[value]
                here = np.repeat(np.arange(len(block)), counts)
                ahead = np.repeat(begins[value] - np.cumsum(counts) + counts, counts) + np.arange(counts.sum())
                there = members[ahead]
                apart = np.bitwise_count(block[here] ^ self._views[there])
                good = (apart[:, 0] <= FREQUENCIES) & (apart[:, 1] <= STEPS)
                for h, t, d in zip(here[good], there[good], apart[good, 0], strict=True):
                    pair = int(owner[start + h]), int(self._owner[t])
                    found[pair] = min(found.get(pair, 64), int(d))
        return found


def _flat(prints: Sequence[Prints]) -> tuple[NDArray[np.uint64], Numbers]:
    """All views `[2 n, 2]`, and whose each is."""
    every = np.array(prints, dtype=np.uint64).reshape(-1, 2)
    return every, np.arange(len(every)) // 2


def _near(most: int) -> NDArray[np.uint64]:
    """The values of 16 bits in which at most `most` are set."""
    values = np.arange(1 << 16, dtype=np.uint64)
    return values[np.bitwise_count(values) <= most]
