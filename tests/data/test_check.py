"""The look at a config's data before training."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from training.readers.records import picture, sound, talk

from mmlm.config import DataConfig
from mmlm.data import check
from mmlm.errors import InputError
from mmlm.sample import Sample


def config(*sets: DataConfig, validation: tuple[DataConfig, ...] = (), length: int = 100) -> Any:
    """As much of a config as the check looks at."""
    stage = SimpleNamespace(name="tune", data=list(sets), validation=list(validation), length=None)
    return SimpleNamespace(name="small", stages=[stage], length=length)


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """Eight records: four good ones, four of which something is wrong."""
    (tmp_path / "a.png").write_bytes(picture())
    (tmp_path / "s.wav").write_bytes(sound())
    (tmp_path / "half.png").write_bytes(picture()[:-30])
    (tmp_path / "text.png").write_text("not a picture")
    records = [
        talk("<image>", "A.", image="a.png", id=1),
        talk("<image>", "B.", image="a.png", id=2),
        talk("<audio>", "C.", audio="s.wav", id=1),
        talk("Hi.", "D."),
        talk("<image>", "E.", image="half.png"),
        talk("<image>", "F.", image="text.png"),
        talk("<image>", "G.", image="none.png"),
        talk("Hi.", ""),
    ]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return DataConfig(reader="llava", path=str(tmp_path / "d.jsonl"))


def test_every_record_is_read_and_every_item_decoded(data: DataConfig) -> None:
    report = check(config(data))
    (row,) = report.rows
    assert row.values["records"] == 8 and row.values["ok"] == 4 and row.values["bad"] == 4 and row.values["items"] == 3
    assert [r.split(": ")[0].rpartition(":")[2] for r in row.bad] == ["5", "6", "7", "8"]
    assert "half.png" in row.bad[0] and "text.png" in row.bad[1] and "none.png" in row.bad[2] and "empty" in row.bad[3]
    assert row.notes == ("1 ids stand more than once, such as 1",)
    assert not report.ok and "d.jsonl:5" in report.table() and json.dumps(report.as_json())


def test_measure_gives_shares_lengths_and_reasons(data: DataConfig) -> None:
    def measure(sample: Sample, stage: Any) -> tuple[int, int]:
        if sample.turns[1].text == "D.":
            raise InputError(f"{sample.origin}: nothing to learn")
        return (101 if sample.turns[1].text == "A." else 49), 10

    (row,) = check(config(data), measure=measure).rows
    assert row.values["ok"] == 3 and row.values["too long"] == 1 and row.values["learnt"] == 30 / 199
    assert any("nothing to learn" in r for r in row.bad)
    assert check(config(data), measure=measure, length=200).rows[0].values["too long"] == 0


def test_validation_and_several_sets(data: DataConfig, tmp_path: Path) -> None:
    missing = DataConfig(reader="qa", path=str(tmp_path / "none.jsonl"))
    report = check(config(data, missing, validation=(data,)))
    assert [row.values["use"] for row in report.rows] == ["train", "train", "validate"]
    assert [row.values["ok"] for row in report.rows] == [4, 0, 4]
    assert "none.jsonl does not exist" in report.rows[1].bad[0]


def test_a_picture_is_decoded_once(data: DataConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib

    module = importlib.import_module("mmlm.data.check")
    seen = []
    real = module.load_image
    monkeypatch.setattr(module, "load_image", lambda item: (seen.append(item.source), real(item))[1])
    monkeypatch.setattr(module.os, "cpu_count", lambda: 1)
    check(config(data, validation=(data,)))
    assert len(seen) == len(set(seen)) == 3


def test_nothing_readable_is_an_error(data: DataConfig, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("\n")
    (tmp_path / "bad.jsonl").write_text("{}\n")
    for name, said in (
        ("empty.jsonl", "holds no record"),
        ("none.jsonl", "does not exist"),
        ("bad.jsonl", "expected a list"),
    ):
        with pytest.raises(InputError, match=name) as e:
            check(config(DataConfig(reader="llava", path=str(tmp_path / name))))
        assert said in str(e.value)
    with pytest.raises(InputError, match="no stage names any data"):
        check(config())
