"""What the suites hand over as items, turns and samples."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from mmlm.errors import InputError
from mmlm.integrations.messages import item_of, part_of, sample_of, turn_of
from mmlm.media import load_image
from mmlm.sample import Audio, Image, Video

RANDOM = np.random.default_rng(0)
RGB = RANDOM.integers(0, 256, (5, 7, 3), dtype=np.uint8)


def _palette() -> PIL.Image.Image:
    picture = PIL.Image.fromarray(RGB).quantize(8)
    picture.info["transparency"] = 3
    return picture


PICTURES = {
    "RGB": PIL.Image.fromarray(RGB),
    "RGBA": PIL.Image.fromarray(RANDOM.integers(0, 256, (5, 7, 4), dtype=np.uint8), "RGBA"),
    "L": PIL.Image.fromarray(RGB[..., 0]),
    "I;16": PIL.Image.fromarray(RANDOM.integers(0, 65536, (5, 7), dtype=np.uint16)),
    "1": PIL.Image.fromarray(RGB[..., 0]).convert("1"),
    "P": _palette(),
}


@pytest.mark.parametrize("mode", PICTURES)
def test_a_picture_in_memory_is_seen_as_its_file_is(mode: str, tmp_path: Path) -> None:
    picture = PICTURES[mode]
    assert picture.mode == mode
    picture.save(tmp_path / "a.png")
    made = item_of(picture)
    assert isinstance(made, Image)
    assert np.array_equal(load_image(made), load_image(Image(tmp_path / "a.png")))
    with PIL.Image.open(tmp_path / "a.png") as opened:
        assert np.array_equal(load_image(item_of(opened)), load_image(made))


def test_a_picture_that_was_not_read_yet_is_turned_upright(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[274] = 6
    PIL.Image.fromarray(RGB).save(tmp_path / "a.png", exif=exif)
    with PIL.Image.open(tmp_path / "a.png") as opened:
        assert load_image(item_of(opened)).size == (5, 7)


def test_a_picture_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    stream = io.BytesIO()
    PIL.Image.fromarray(RANDOM.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(stream, "PNG")
    (tmp_path / "a.png").write_bytes(stream.getvalue()[:-2000])
    with PIL.Image.open(tmp_path / "a.png") as opened, pytest.raises(InputError, match="the picture is"):
        item_of(opened)


@pytest.mark.parametrize(
    ("value", "modality", "kind"),
    [
        (RGB, None, Image),
        (RGB[None], None, Video),
        ("a/b.JPG", None, Image),
        (Path("b.webp"), None, Image),
        ("c.wav", None, Audio),
        ("d.mp4", None, Video),
        ("e", None, Video),
        ("f.gif", "video", Video),
        (b"bytes", "image", Image),
        ({"array": np.zeros(8), "sampling_rate": 16000}, None, Audio),
    ],
)
def test_the_kind_of_an_item(value: Any, modality: Any, kind: type) -> None:
    assert type(item_of(value, modality)) is kind


def test_a_sound_has_one_channel_of_float32() -> None:
    made = item_of({"array": np.stack([np.ones(4), np.zeros(4)]), "sampling_rate": 8000})
    assert isinstance(made, Audio) and isinstance(made.source, np.ndarray)
    assert made.rate == 8000 and made.source.dtype == np.float32 and made.source.tolist() == [0.5] * 4


@pytest.mark.parametrize(
    ("value", "modality", "told"),
    [
        (RGB[..., 0], None, "expected an item as a picture, array or path, came ndarray"),
        (RGB, "audio", "expected audio as a picture, array or path, came ndarray"),
        (PICTURES["L"], "video", "expected video"),
        (None, "image", "expected image as a picture, array or path, came NoneType"),
        ({"path": "a.mp4", "video_start": 3}, "video", "came a mapping of path, video_start"),
        ({"array": np.zeros(4, np.int16), "sampling_rate": 8000}, "audio", "a sound of floats [S]"),
    ],
)
def test_what_is_no_item_is_refused(value: Any, modality: Any, told: str) -> None:
    with pytest.raises(InputError) as caught:
        item_of(value, modality)
    assert told in str(caught.value)


def test_a_line_break_comes_behind_items_that_open_a_turn() -> None:
    a, b = Image(RGB), Image(RGB[::-1])
    assert turn_of("user", [a, b, "What?"]).parts == (a, b, "\nWhat?")
    assert turn_of("user", [a, "\nWhat?"]).parts == (a, "\nWhat?")
    assert turn_of("user", ["Look:", a, "What?"]).parts == ("Look:", a, "What?")
    assert turn_of("user", [a]).parts == (a,)
    assert turn_of("assistant", ["A hat."]).parts == ("A hat.",)


def test_a_conversation() -> None:
    a = Image(RGB)
    sample = sample_of([("system", ["Be brief."]), ("user", [a, "What?"])], "task:3")
    assert [t.role for t in sample.turns] == ["system", "user"]
    assert (sample.id, sample.origin, sample.items) == ("task:3", "task:3", (a,))


def test_parts_of_messages() -> None:
    assert part_of({"type": "text", "text": "a"}, "url") == "a"
    assert part_of({"type": "text", "value": "a"}, "value") == "a"
    assert isinstance(part_of({"type": "video", "value": "a"}, "value"), Video)
    with pytest.raises(InputError, match="expected text, image, audio, video, came 'box'"):
        part_of({"type": "box"}, "value")
    with pytest.raises(InputError, match="role: expected system, user, assistant, came 'tool'"):
        turn_of("tool", ["a"])
