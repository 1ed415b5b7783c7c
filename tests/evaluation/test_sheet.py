"""The contact sheet: where things stand, what is shown in place of what is not there, and what bad input gets."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow
from PIL import ImageFont

from mmlm.errors import InputError
from mmlm.evaluation.sheet import Strip, _spelt, _wrapped, draw, write
from mmlm.sample import Audio, Image, Video

RED, GREEN, BLUE = (250, 0, 0), (0, 240, 0), (0, 0, 230)


def plain(colour: tuple[int, int, int], width: int = 30, height: int = 30) -> Image:
    return Image(np.full((height, width, 3), colour, dtype=np.uint8))


def share(picture: Pillow.Image, colour: tuple[int, int, int]) -> float:
    return float((np.asarray(picture) == colour).all(-1).sum())


def test_items_stand_in_their_columns() -> None:
    strips = [Strip("one", [plain(RED), plain(GREEN)]), Strip("two", [None, plain(BLUE, 60, 30)])]
    sheet = draw(strips, ["true", "drawn"], side=60, width=170)
    assert sheet.width <= 170 and share(sheet, RED) == share(sheet, GREEN) == 60 * 60
    assert share(sheet, BLUE) == 60 * 30, "whole, and in its own shape"
    assert share(sheet, (238, 240, 243)) > 60 * 50, "grey where there is none"
    values = np.asarray(sheet)
    lefts = [int(np.argwhere((values == c).all(-1))[:, 1].min()) for c in (RED, GREEN, BLUE)]
    tops = [int(np.argwhere((values == c).all(-1))[:, 0].min()) for c in (RED, GREEN, BLUE)]
    assert lefts[0] < lefts[1] == lefts[2] and tops[0] == tops[1] < tops[2]
    wide = draw(strips, ["true", "drawn"], side=60, width=400)
    assert wide.width > 2 * 128 and wide.height < sheet.height, "side by side where there is room"


def test_few_pixels_stay_to_be_seen() -> None:
    checks = Image(np.array([[RED, GREEN], [GREEN, RED]], dtype=np.uint8))
    sheet = draw([Strip("a", [checks])], ["made"], side=64)
    assert share(sheet, RED) == share(sheet, GREEN) == 64 * 64 / 2


def test_clips_and_sounds_are_shown(tmp_path: Path) -> None:
    frames = np.stack([np.full((20, 20, 3), c, dtype=np.uint8) for c in (RED, GREEN, BLUE)])
    loud = Audio(np.concatenate([np.zeros(4000), np.full(4000, 0.9)]).astype(np.float32), 8000)
    sheet = draw([Strip("a", [Video(frames, 3.0), loud, Image(tmp_path / "none.png")])], ["a", "b", "c"], side=80)
    said = 15 * 80  # pixels, at most, that tell how long it goes on
    assert 80 * 80 - said < share(sheet, GREEN) < 80 * 80 and not share(sheet, RED), "the middle frame"
    drawn = np.argwhere((np.asarray(sheet) == (102, 112, 122)).all(-1))
    sound = drawn[(drawn[:, 1] >= 16 + 88) & (drawn[:, 1] < 16 + 88 + 80) & (drawn[:, 0] > 60)][:, 1]
    assert (sound > 16 + 88 + 40).mean() > 0.9, "loud in its second half"


def test_words_are_broken_and_spelt() -> None:
    font = ImageFont.load_default(15)
    lines = _wrapped("a very long caption of many words " * 20, font, 200)
    assert len(lines) == 4 and lines[-1].endswith("...") and all(font.getlength(line) <= 200 for line in lines)
    assert _wrapped("x" * 400, font, 120)[0] and all(font.getlength(s) <= 120 for s in _wrapped("x" * 400, font, 120))
    assert _spelt("a\N{EM DASH}b \N{CJK UNIFIED IDEOGRAPH-4E2D} é", font) == "a-b ? e"


@pytest.mark.parametrize(("strips", "columns"), [([], ["a"]), ([Strip("a", [])], [])])
def test_nothing_to_show_is_told(strips: list[Strip], columns: list[str]) -> None:
    with pytest.raises(InputError, match="at least one request and one column"):
        draw(strips, columns)


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    strips = [Strip("a", [plain(RED)])]
    with Pillow.open(write(strips, ["x"], tmp_path / "s.png")) as picture:
        assert picture.format == "PNG"
    with pytest.raises(InputError, match="cannot be written"):
        write(strips, ["x"], tmp_path / "none" / "s.png")
