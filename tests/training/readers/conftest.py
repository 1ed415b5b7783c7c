"""Small data sets that the tests of the readers share."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from training.readers.records import picture, sound

Write = Callable[..., Path]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A folder with pictures a.png, b.png, c/d.png and a sound s.wav."""
    (tmp_path / "c").mkdir()
    for name, colour in (("a", "red"), ("b", "green"), ("c/d", "blue")):
        (tmp_path / f"{name}.png").write_bytes(picture(colour))
    (tmp_path / "s.wav").write_bytes(sound())
    return tmp_path


@pytest.fixture
def lines(home: Path) -> Write:
    """Write records as JSON Lines into the folder `home`."""

    def write(*records: Any, name: str = "data.jsonl") -> Path:
        path = home / name
        path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
        return path

    return write


@pytest.fixture
def whole(home: Path) -> Write:
    """Write one JSON value into the folder `home`."""

    def write(value: Any, name: str = "data.json") -> Path:
        (home / name).write_text(json.dumps(value))
        return home / name

    return write
