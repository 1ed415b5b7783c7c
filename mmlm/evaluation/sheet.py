"""Evaluation room: a contact sheet - requests with the true items and those that were made, side by side in one picture."""

import textwrap
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
from PIL import ImageDraw, ImageFont

from mmlm.errors import InputError
from mmlm.media import load_audio, load_image
from mmlm.media.video import load_frames, positions
from mmlm.sample import Audio, Image, Item, Video

SHEET = "sheet.png"
Font = ImageFont.ImageFont | ImageFont.FreeTypeFont
_PAPER, _INK, _SOFT, _NONE = (255, 255, 255), (28, 33, 38), (102, 112, 122), (238, 240, 243)
_GAP, _EDGE, _LETTERS, _LINE, _MOST_LINES = 8, 16, 15, 19, 4
_RATE = 8000  # Hz, at which a sound is read to be drawn


@dataclass(frozen=True, slots=True)
class Strip:
    """One request: its words, and an item for each column; None where there is none."""

    words: str
    items: Sequence[Item | None]


def draw(strips: Sequence[Strip], columns: Sequence[str], *, side: int = 144, width: int = 1200) -> PIL.Image.Image:
    """The sheet, about `width` pixels wide: strips in the order of reading, each with its words above its items, of which
    each is a square of `side`; the columns are named over the top. Of a clip the middle frame is shown, of a sound how
    loud it is over time, of both for how long they go on. Raises InputError where nothing is to be shown."""
    if not strips or not columns:
        raise InputError("a contact sheet needs at least one request and one column")
    across = len(columns) * (side + _GAP) - _GAP
    beside = min(len(strips), max(1, width // (across + 2 * _EDGE)))
    font = ImageFont.load_default(_LETTERS)
    texts = [_wrapped(s.words, font, across) for s in strips]
    rows = [range(i, min(i + beside, len(strips))) for i in range(0, len(strips), beside)]
    words = [max(len(texts[i]) for i in row) * _LINE + _GAP for row in rows]  # how high those of a row stand
    height = _LINE + sum(words) + len(rows) * (side + _EDGE) + _EDGE
    sheet = PIL.Image.new("RGB", (beside * (across + 2 * _EDGE), height), _PAPER)
    pen = ImageDraw.Draw(sheet)
    lefts = [_EDGE + n * (across + 2 * _EDGE) for n in range(beside)]
    for left in lefts:
        for k, name in enumerate(columns):
            pen.text((left + k * (side + _GAP), _GAP), _cut(_spelt(name, font), font, side), _SOFT, font)
    below = _LINE + _EDGE
    for row, high in zip(rows, words, strict=True):
        below += high
        for left, i in zip(lefts, row, strict=False):
            at = below - _GAP - len(texts[i]) * _LINE
            pen.multiline_text((left, at), "\n".join(texts[i]), _INK, font, spacing=_LINE - _LETTERS)
            for k, item in enumerate(strips[i].items):
                sheet.paste(_tile(item, side), (left + k * (side + _GAP), below))
        below += side + _EDGE
    return sheet


def write(strips: Sequence[Strip], columns: Sequence[str], file: Path, *, side: int = 144, width: int = 1200) -> Path:
    """`draw` as a PNG. Raises InputError where it cannot be written."""
    try:
        draw(strips, columns, side=side, width=width).save(file, "PNG", optimize=True)
    except OSError as e:
        raise InputError(f"{file} cannot be written: {e.strerror or e}") from e
    return file


def _wrapped(words: str, font: Font, width: int) -> list[str]:
    """A text as lines that are no wider than `width`; what is too long ends in dots."""
    broad = max(8, int(width / max(1.0, font.getlength("abcdefghijklmnopqrstuvwxyz") / 26)))
    lines = [_cut(line, font, width) for line in textwrap.wrap(" ".join(_spelt(words, font).split()), broad)]
    return lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 1], lines[_MOST_LINES - 1][:-3] + "..."]


def _spelt(text: str, font: Font) -> str:
    """A text in letters that the font has: others without their accents, a dash for a dash, else a question mark."""
    missing = bytes(font.getmask("\uffff"))

    def spelt(letter: str) -> str:
        if letter.isspace() or bytes(font.getmask(letter)) != missing:
            return letter
        bare = unicodedata.normalize("NFKD", letter)[0]
        return bare if bare.isascii() else "-" if unicodedata.category(letter) == "Pd" else "?"

    return "".join(map({c: spelt(c) for c in set(text)}.__getitem__, text))


def _cut(text: str, font: Font, width: int) -> str:
    """A line that is no wider than `width`."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(text + "...") > width:
        text = text[:-1]
    return text + "..."


def _tile(item: Item | None, side: int) -> PIL.Image.Image:
    """An item as a square: whole, in its middle, on grey where there is none or it cannot be read."""
    tile = PIL.Image.new("RGB", (side, side), _NONE)
    font = ImageFont.load_default(_LETTERS - 4)
    try:
        picture, told = (None, "none") if item is None else _seen(item, side)
    except InputError as e:
        picture, told = None, str(e)
    if picture is None:
        lines = textwrap.wrap(_spelt(told, font), max(8, side // 6))[: side // _LETTERS]
        ImageDraw.Draw(tile).multiline_text((4, 4), "\n".join(lines), _SOFT, font)
        return tile
    scale = side / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    # Few pixels stay to be seen as such; of many the mean of an area is shown.
    small = picture.resize(size, PIL.Image.Resampling.NEAREST if scale >= 2 else PIL.Image.Resampling.LANCZOS)
    tile.paste(small, ((side - size[0]) // 2, (side - size[1]) // 2))
    if told:
        pen = ImageDraw.Draw(tile)
        pen.rectangle((0, side - _LETTERS, font.getlength(told) + 7, side), _PAPER)
        pen.text((4, side - _LETTERS), told, _SOFT, font)
    return tile


def _seen(item: Item, side: int) -> tuple[PIL.Image.Image, str]:
    """A picture for an item of any kind, and what it does not show."""
    if isinstance(item, Image):
        return load_image(item), ""
    if not isinstance(item, Audio):
        return _frame(item)
    sound = load_audio(item, _RATE)
    loud = [float(np.abs(part).max(initial=0.0)) for part in np.array_split(sound, side)]
    tile = PIL.Image.new("RGB", (side, side), _NONE)
    pen = ImageDraw.Draw(tile)
    for x, high in enumerate(loud):
        reach = min(1.0, high) * (side / 2 - 4)
        pen.line((x, side / 2 - reach, x, side / 2 + reach), _SOFT)
    return tile, f"sound, {len(sound) / _RATE:.1f} s{'' if max(loud) else ', silent'}"


def _frame(clip: Video) -> tuple[PIL.Image.Image, str]:
    """The middle frame of a clip, and for how long it goes on."""
    told = ""

    def middle(total: int, rate: float) -> list[int]:
        nonlocal told
        told = f"clip, {total / rate:.1f} s" if rate else f"clip, {total} frames"
        return positions(total, 1)

    return PIL.Image.fromarray(load_frames(clip, middle)[0]), told
