"""A conversation as a file: training's reader reads the same sample, and the page reads its own files back."""

import json
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image as Pillow

from mmlm.demo.history import answered, ask, failed, record
from mmlm.demo.saved import NAME, load, save
from mmlm.demo.uploads import Limits
from mmlm.errors import InputError
from mmlm.media import digest
from mmlm.sample import Image, Sample
from mmlm.training.readers.messages import Messages


@pytest.fixture
def pictures(tmp_path: Path) -> list[Image]:
    folder = tmp_path / "up"
    folder.mkdir()
    for i, colour in enumerate(((200, 0, 0), (0, 0, 200))):
        Pillow.new("RGB", (9 + i, 7), colour).save(folder / f"{i}.png")
    return [Image(p) for p in sorted(folder.iterdir())]


def same(one: Sample, other: Sample) -> None:
    """Equal turns; items are equal where their content is, and what stands beside another does so."""

    def plain(sample: Sample) -> list[object]:
        return [(t.role, [p if isinstance(p, str) else (digest(p), p.beside) for p in t.parts]) for t in sample.turns]

    assert plain(one) == plain(other)


def test_the_reader_of_training_reads_the_same_sample(pictures: list[Image], tmp_path: Path) -> None:
    talk = (
        answered(ask(pictures, "Which is red?\nThink."), [" the first <image>\n"]),
        failed(ask([], "And?"), "No answer: busy"),
        answered(ask([pictures[0]], ""), ["red, \u00e9\u202e <b>{{x}}</b>"]),
        answered(ask([], "Draw."), [pictures[0], replace(pictures[1], beside=True)]),
    )
    file = save(talk, "Be brief.", tmp_path)
    with zipfile.ZipFile(file) as box:
        box.extractall(tmp_path / "out")
    assert len(list((tmp_path / "out" / "media").iterdir())) == 2  # the same picture once
    same(Messages(tmp_path / "out" / NAME)[0], record(talk, "Be brief."))


def test_it_is_loaded_back(pictures: list[Image], tmp_path: Path) -> None:
    talk = (answered(ask(pictures, "Which?"), ["both"]), answered(ask([], "Sure?"), ["yes"]))
    system, found = load(save(talk, "Be brief.", tmp_path), tmp_path, {"image"}, Limits())
    assert system == "Be brief."
    same(record(found, system), record(talk, system))
    assert all(i.source.is_relative_to(tmp_path) for e in found for i in e.asked.items if isinstance(i.source, Path))


def test_an_item_that_is_gone_is_told(pictures: list[Image], tmp_path: Path) -> None:
    talk = (answered(ask(pictures, "Which?"), ["both"]),)
    assert isinstance(pictures[0].source, Path)
    pictures[0].source.unlink()
    with pytest.raises(InputError, match="no longer here"):
        save(talk, "", tmp_path)


def told(content: object) -> str:
    return json.dumps({"messages": [{"role": "user", "content": content}, {"role": "assistant", "content": "x"}]})


@pytest.mark.parametrize(
    ("entries", "reason"),
    [
        ({"other.jsonl": "{}"}, "is no saved conversation"),
        ({NAME: "not json"}, "JSON"),
        ({NAME: ""}, "no record"),
        ({NAME: told("a") + "\n" + told("b")}, "2 conversations"),
        ({NAME: told([{"type": "image", "path": "media/gone.png"}])}, "gone.png"),
        ({NAME: told([{"type": "image", "path": "../../../etc/passwd"}])}, "conversation.jsonl"),
        ({NAME: told([{"type": "image", "path": "/etc/passwd"}])}, "conversation.jsonl"),
        ({NAME: told([{"type": "image_url", "image_url": {"url": "http://10.0.0.1/x.png"}}])}, "conversation.jsonl"),
        ({NAME: told([{"type": "image", "base64": "aGVsbG8="}])}, "items as files"),
        ({NAME: told([{"type": "image", "path": "a.png"}]), "a.png": "no picture"}, "a.png: "),
        ({NAME: json.dumps({"messages": [{"role": "user", "content": "x"}]})}, "conversation.jsonl"),
        ({"../conversation.jsonl": told("a")}, "leads out"),
    ],
)
def test_foreign_files_are_refused_in_a_sentence(entries: dict[str, str], reason: str, tmp_path: Path) -> None:
    home = tmp_path / "secret-home"
    home.mkdir()
    path = home / "talk.zip"
    with zipfile.ZipFile(path, "w") as box:
        for name, text in entries.items():
            box.writestr(name, text)
    with pytest.raises(InputError, match=reason) as raised:
        load(path, home, {"image"}, Limits())
    assert "secret-home" not in str(raised.value)
    assert [p.name for p in home.iterdir()] == ["talk.zip"]  # nothing stays
