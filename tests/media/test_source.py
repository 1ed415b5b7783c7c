"""Hashes and opening of items."""

import os
from pathlib import Path

import numpy as np
import pytest

from mmlm.errors import InputError
from mmlm.media import digest, load_audio, load_image, load_video, source
from mmlm.sample import Audio, Image, Video


def test_a_path_and_its_bytes_have_one_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"content")
    assert digest(Image(path)) == digest(Image(b"content")) == digest(Image(path, caption="other words"))
    assert digest(Image(b"content")) != digest(Image(b"Content"))


def test_a_file_is_read_once_until_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    reads: list[int] = []
    plain = source.hashlib.file_digest
    monkeypatch.setattr(source.hashlib, "file_digest", lambda *a: reads.append(1) or plain(*a))
    first = digest(Image(path))
    assert digest(Image(path)) == first and len(reads) == 1
    path.write_bytes(b"two")
    os.utime(path, ns=(1, 1))
    assert digest(Image(path)) != first and len(reads) == 2


def test_arrays_differ_by_values_shape_type_and_rate() -> None:
    a = np.arange(24, dtype=np.uint8)
    items = [
        Image(a.reshape(2, 4, 3)),
        Image(a.reshape(4, 2, 3)),
        Video(a.reshape(1, 2, 4, 3), rate=1.0),
        Video(a.reshape(1, 2, 4, 3), rate=2.0),
    ]
    sounds = [Audio(a.astype(np.float32), rate=r) for r in (8, 16)]
    assert len({digest(i) for i in items + sounds}) == 6
    flipped = a.reshape(2, 4, 3)[:, ::-1]
    assert digest(Image(flipped)) == digest(Image(flipped.copy()))


@pytest.mark.parametrize(
    "read", [digest, load_image, lambda i: load_audio(Audio(i.source), 8), lambda i: load_video(Video(i.source), 1)]
)
def test_what_is_no_readable_file_is_named(read: object, tmp_path: Path) -> None:
    assert callable(read)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "empty").touch()
    for name, reason in (
        ("absent", "no such file"),
        ("pipe", "a folder or a device"),
        ("", "a folder or a device"),
        ("empty", "empty"),
    ):
        path = tmp_path / name
        with pytest.raises(InputError, match=reason) as caught:
            read(Image(path))
        assert str(path) in str(caught.value)
    with pytest.raises(InputError, match="cannot be reached"):
        read(Image(Path("a\0b")))


def test_a_file_above_the_limit_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as stream:
        stream.truncate(300 << 20)
    with pytest.raises(InputError, match="300 MiB; expected at most 256 MiB"):
        load_image(Image(path))
