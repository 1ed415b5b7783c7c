"""Which pictures look alike: real transformations are found, other pictures are not, and the index misses no pair."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import pytest

from mmlm.data.likeness import FREQUENCIES, STEPS, Alike, Prints, look
from mmlm.data.scenes import compose, draw
from mmlm.sample import Image

Picture = PIL.Image.Image


def jpeg(picture: Picture, quality: int) -> Picture:
    stream = io.BytesIO()
    picture.save(stream, "JPEG", quality=quality)
    return PIL.Image.open(stream).convert("RGB")


def crop(picture: Picture, share: float) -> Picture:
    w, h = picture.size
    return picture.crop((round(w * share), round(h * share), round(w * (1 - share)), round(h * (1 - share))))


CHANGES: dict[str, Callable[[Picture], Picture]] = {
    "half the size": lambda p: p.resize((max(p.width // 2, 1), max(p.height // 2, 1))),
    "larger": lambda p: p.resize((p.width * 7 // 4, p.height * 7 // 4), PIL.Image.Resampling.BICUBIC),
    "square": lambda p: p.resize((224, 224)),
    "JPEG of quality 30": lambda p: jpeg(p, 30),
    "JPEG of quality 10": lambda p: jpeg(p, 10),
    "2 % cut off each side": lambda p: crop(p, 0.02),
    "4 % cut off each side": lambda p: crop(p, 0.04),
    "darker": lambda p: PIL.ImageEnhance.Brightness(p).enhance(0.7),
    "brighter": lambda p: PIL.ImageEnhance.Brightness(p).enhance(1.3),
    "less contrast": lambda p: PIL.ImageEnhance.Contrast(p).enhance(0.7),
    "grey": lambda p: p.convert("L").convert("RGB"),
    "smaller, cut, brighter, JPEG": lambda p: jpeg(
        PIL.ImageEnhance.Brightness(crop(CHANGES["half the size"](p), 0.02)).enhance(1.15), 50
    ),
}


def see(picture: Picture) -> Prints:
    found = look(Image(np.asarray(picture)))
    assert isinstance(found, np.ndarray)
    return found


@pytest.fixture(scope="module")
def real(stamps: Path) -> list[Picture]:
    """Every fourth stamp."""
    rows = [json.loads(line) for line in (stamps / "stamps.jsonl").read_text(encoding="utf-8").splitlines()]
    found = [PIL.Image.open(stamps / r["image"]).convert("RGB") for r in rows[::4]]
    return [p for p in found if np.asarray(p).std() > 20]  # of the palest nothing is left once they are brightened


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_picture_is_found_and_no_other(real: list[Picture], change: str) -> None:
    index = Alike([see(p) for p in real])
    pairs = index.find([see(CHANGES[change](p)) for p in real])
    found = sum((i, i) in pairs for i in range(len(real)))
    assert found >= 0.9 * len(real), f"{found} of {len(real)}"
    others = {frozenset(pair) for pair in pairs if pair[0] != pair[1]}
    assert len(others) <= 3, "of more than ten thousand pairs; some stamps are drawn alike"


@pytest.mark.parametrize("change", CHANGES)
def test_drawn_pictures(change: str) -> None:
    scenes = [draw(compose(f"like/{k}"), f"like/{k}").resize((192, 160)) for k in range(12)]
    noise = [
        PIL.Image.fromarray(np.uint8(255 * np.random.default_rng(k).random((6, 6, 3)))).resize((192, 160))
        for k in range(12)
    ]
    every = [PIL.Image.blend(s, n, 0.4) for s, n in zip(scenes, noise, strict=True)]
    pairs = Alike([see(p) for p in every]).find([see(CHANGES[change](p)) for p in every])
    assert {a for a, b in pairs if a == b} == set(range(len(every))) and all(a == b for a, b in pairs)


def test_what_was_cut_out_finds_the_whole_in_either_direction(real: list[Picture]) -> None:
    whole, cut = [see(p) for p in real], [see(crop(p, 0.035)) for p in real]
    for first, second in ((whole, cut), (cut, whole)):
        pairs = Alike(first).find(second)
        assert sum((i, i) in pairs for i in range(len(real))) >= 0.95 * len(real)


def test_the_index_finds_what_comparing_all_pairs_finds() -> None:
    rng = np.random.default_rng(0)
    first = rng.integers(0, 2**64, (300, 2, 2), dtype=np.uint64)
    flips = rng.integers(0, 12, (200, 2, 2))
    second = first[:200].copy()
    for i, view, hash_ in np.ndindex(200, 2, 2):
        for bit in rng.choice(64, flips[i, view, hash_], replace=False):
            second[i, view, hash_] ^= np.uint64(1) << np.uint64(bit)
    slow: dict[tuple[int, int], int] = {}
    for i, j, u, v in np.ndindex(200, 300, 2, 2):
        apart = np.bitwise_count(second[i, u] ^ first[j, v])
        if apart[0] <= FREQUENCIES and apart[1] <= STEPS:
            slow[i, j] = min(slow.get((i, j), 64), int(apart[0]))
    assert Alike(list(first)).find(list(second)) == slow
    assert 100 < len(slow) < 300
    assert Alike(list(first)).find([]) == {}


def test_pictures_without_contrast_and_without_content_have_no_print(tmp_path: Path) -> None:
    assert look(Image(np.full((40, 30, 3), 200, dtype=np.uint8))) is None
    (tmp_path / "x.png").write_bytes(b"no picture")
    assert "x.png" in str(look(Image(tmp_path / "x.png")))
    assert isinstance(look(Image(np.arange(12, dtype=np.uint8).reshape(2, 2, 3) * 20)), np.ndarray)
