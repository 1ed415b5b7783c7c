"""Items that a reply made, written as files: what is read back is what was made."""

from pathlib import Path

import numpy as np
import pytest

from mmlm.errors import InputError
from mmlm.media import load_audio, load_image, load_video
from mmlm.media.saving import save_item
from mmlm.sample import Audio, Image, Video


def test_a_picture_comes_back_as_it_was(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (7, 11, 3), dtype=np.uint8)
    file = save_item(Image(pixels), tmp_path / "0")
    assert file.suffix == ".png" and np.array_equal(np.asarray(load_image(Image(file))), pixels)


def test_a_sound_comes_back_to_16_bits(tmp_path: Path) -> None:
    sound = np.sin(np.arange(900, dtype=np.float32) / 7) * 0.9
    file = save_item(Audio(sound, 16_000), tmp_path / "0")
    assert file.suffix == ".wav" and np.abs(load_audio(Audio(file), 16_000) - sound).max() < 2 / 32767


def test_a_clip_comes_back_with_its_frames(tmp_path: Path) -> None:
    frames = np.zeros((5, 33, 48, 3), np.uint8)
    for i in range(5):
        frames[i, :, : 9 * (i + 1)] = 200
    file = save_item(Video(frames, 4.0), tmp_path / "0")
    found = load_video(Video(file), 5)
    assert file.suffix == ".mp4" and found.shape == (5, 32, 48, 3)
    assert all(abs(float(found[i].mean()) - float(frames[i, :32].mean())) < 8 for i in range(5))


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written"):
        save_item(Image(np.zeros((3, 3, 3), np.uint8)), tmp_path / "none" / "0")
