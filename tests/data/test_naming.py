"""Data named on a command line: by reader, by task, as an entry, by a config."""

import json
from pathlib import Path
from typing import Any

import pytest
from systems import pictures, tiny

from mmlm.config import dump
from mmlm.data.naming import named
from mmlm.errors import InputError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    pictures(tmp_path / "images")
    rows = [{"id": str(i), "image": f"images/{i}.png", "question": "What?", "answer": f"thing {i}"} for i in range(4)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return tmp_path / "d.jsonl"


def one(text: str) -> Any:
    ((_, reader),) = named(text)
    return reader


def test_a_reader_a_task_and_an_entry_name_the_same_records(data: Path) -> None:
    readers = [one(f"qa:{data}"), one(f"{{reader: qa, path: {data}}}"), one(f"{{task: vqa, path: {data}}}")]
    for reader in readers:
        assert len(reader) == 4
        assert [t.text for t in reader[2].turns][1] == "thing 2" and reader.where(2).endswith("d.jsonl:3")
    short = one(f"{{reader: qa, path: {data}, prompt: '{{items}} Q {{question}}'}}")
    assert short[0].turns[0].text == " Q What?"


def test_a_question_whose_picture_is_not_there_is_an_error(data: Path) -> None:
    (data.parent / "images/1.png").unlink()
    questions = one(f"{{task: vqa, path: {data}}}")
    assert questions[0].turns[1].text == "thing 0"
    with pytest.raises(InputError, match=r"1\.png"):
        questions[1]


def test_a_config_stands_for_its_data(data: Path) -> None:
    entry = f"{{reader: qa, path: {data}}}"
    config = tiny("mlp", data.parent, f"stages.0.data=[{entry}]", f"stages.0.validation=[{entry}]", data=data)
    (data.parent / "c.yaml").write_text(dump(config))
    assert [name for name, _ in named(str(data.parent / "c.yaml"))] == [str(data)], "two stages on the same data"
    assert [name for name, _ in named(str(data.parent / "c.yaml"), "validation")] == [str(data)]
    (data.parent / "c.yaml").write_text(dump(tiny("mlp", data.parent, data=data)))
    with pytest.raises(InputError, match="no stage names any validation data"):
        named(str(data.parent / "c.yaml"), "validation")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("qq:d.jsonl", r"expected NAME:PATH with a reader or task, got 'qq'; did you mean `qa`"),
        ("qa:", "expected a path behind the name"),
        ("qa:none.jsonl", "none.jsonl does not exist"),
        ("none.yaml", "expected a config file"),
        ("{reader: qa}", "expected {reader: NAME, path: PATH}"),
        ("{reader: qa, task: vqa, path: d.jsonl}", "expected {reader: NAME, path: PATH}"),
        ("{reader: qaa, path: d.jsonl}", "no reader named 'qaa'; did you mean 'qa'"),
        ("{reader: qa, path: d.jsonl, image: x}", "qa has no option 'image'; did you mean `images`"),
        ("{reader: qa, path: d.jsonl, unanswered: 3}", "option unanswered=3"),
        ("{reader: qa, path: d.jsonl", "command line"),
        ("{reader: qa, path: &a d.jsonl}", "expected a plain value"),
        ("pope:none.json", "none.json"),
    ],
)
def test_what_names_nothing(data: Path, monkeypatch: pytest.MonkeyPatch, text: str, said: str) -> None:
    monkeypatch.chdir(data.parent)
    with pytest.raises(InputError, match=said):
        named(text)


def test_an_option_that_is_needed(data: Path) -> None:
    with pytest.raises(InputError, match=r"parquet|webdataset|vqa|questions"):
        named(f"vqa:{data}")
