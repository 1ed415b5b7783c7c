"""What bad input gets, line by line: one clear message with path and line, exit code 2, nothing lost, nothing skipped in
silence."""

import errno
import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from systems import pictures, tiny

from mmlm import cli
from mmlm.config import dump
from mmlm.training import checkpoint
from mmlm.training.checkpoint import newest

Row = dict[str, Any]


def rows() -> list[Row]:
    return [{"id": f"r{i}", "image": f"images/{i}.png", "question": "What?", "answer": f"thing {i}"} for i in range(6)]


def home(folder: Path, records: list[Row], *overrides: str, reader: str = "qa") -> Path:
    """A config on some records, one sample in six of which may be bad before training stops."""
    pictures(folder / "images")
    path = folder / "data.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    data = f"stages.0.data=[{{reader: {reader}, path: {path}}}]"
    few = ["stages.0.steps=3", "stages.0.batch=2", "stages.0.save_every=1"]
    config = tiny("mlp", folder, data, *few, *overrides, data=path)
    (folder / "config.yaml").write_text(dump(config), encoding="utf-8")
    return folder / "config.yaml"


def run(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> tuple[int, str]:
    capsys.readouterr()
    code = cli.main([str(a) for a in arguments])
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err + shown.out
    return code, shown.err.strip()


def truncated(folder: Path) -> None:
    path = folder / "images" / "2.png"
    path.write_bytes(path.read_bytes()[:40])


BAD: dict[str, tuple[Callable[[Path, list[Row]], object], str]] = {
    "a missing picture": (lambda folder, r: r[2].update(image="images/none.png"), r"data.jsonl:3.*none.png"),
    "a broken picture": (lambda folder, r: truncated(folder), r"data.jsonl:3.*2.png"),
    "no answer": (lambda folder, r: r[2].pop("answer"), r"data.jsonl:3: answer"),
    "an empty answer": (lambda folder, r: r[2].update(answer="  "), r"data.jsonl:3"),
    "too long": (lambda folder, r: r[2].update(question="why " * 200), r"data.jsonl:3.*needs \d+ positions.*has 256"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_bad_sample_stops_a_strict_run_and_is_listed_in_a_lenient_one(
    fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    spoil, message = BAD[fault]
    records = rows()
    config = home(tmp_path, records)
    spoil(tmp_path, records)
    config.with_name("data.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    code, said = run(capsys, "train", config, "--out", tmp_path / "strict", "--stage", "align", "stages.0.max_bad=0")
    assert code == 2 and re.search(message, said) and "cannot be used" in said
    listed = [json.loads(line) for line in (tmp_path / "strict" / "quarantine.jsonl").read_text().splitlines()]
    assert [re.search(message, row["reason"]) is not None for row in listed] == [True]
    code, _ = run(capsys, "train", config, "--out", tmp_path / "run", "--stage", "align", "stages.0.max_bad=0.5")
    assert code == 0 and "1 samples were quarantined" in caplog.text
    done = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert sum(line["samples"] for line in done) == 5, "nobody takes its place"
    code, said = run(capsys, "data", "check", config, "--json")
    assert code == 0


def test_a_placeholder_count_that_differs_from_the_items(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    turns = [{"from": "human", "value": "<image><image>\nWhat?"}, {"from": "gpt", "value": "a cat"}]
    records: list[Row] = [{"id": f"{i}", "image": "images/1.png", "conversations": turns} for i in range(6)]
    config = home(tmp_path, records, reader="llava")
    code, said = run(capsys, "train", config, "--out", tmp_path / "run", "--stage", "align")
    assert code == 2 and "data.jsonl:" in said and "2" in said and "1" in said and "<image>" in said


def test_five_mistakes_of_a_config_are_five_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = home(tmp_path, rows())
    text = config.read_text(encoding="utf-8")
    text = text.replace("template: chat", "template: chatt").replace("length: 256", "lenght: 256")
    text = text.replace("type: mlp", "type: mpl").replace("name: tune", "nme: tune").replace("seed: 0", "seed: zero")
    config.write_text(text, encoding="utf-8")
    code, said = run(capsys, "plan", config)
    lines = said.splitlines()
    assert code == 2 and len(lines) == 5 and all("config.yaml:" in line for line in lines)
    assert all(word in said for word in ("chat", "length", "mlp", "name", "zero"))


def change(path: Path, **tensors: torch.Tensor | None) -> None:
    """Change tensors of a checkpoint, and its manifest with them, as somebody would who means it."""
    file = path / "weights.safetensors"
    state = load_file(file)
    for name, value in tensors.items():
        key = next(k for k in state if k.endswith("aligner.layers.0.weight")) if name == "first" else name
        state.pop(key, None) if value is None else state.update({key: value})
    save_file(state, file, metadata={"format": "pt"})
    renew(path)


def renew(path: Path) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    for name in manifest["files"]:
        file = path / name
        manifest["files"][name] = {"sha256": checkpoint.digest(file), "bytes": file.stat().st_size}
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    "tensors, message",
    [
        ({"first": None}, "Missing: inputs.image.aligner.layers.0.weight"),
        ({"stranger": torch.ones(2)}, "Surplus: stranger"),
        ({"first": torch.ones(2, 2)}, "inputs.image.aligner.layers.0.weight is (2, 2), expected"),
    ],
)
def test_a_checkpoint_with_a_wrong_tensor(
    tensors: dict[str, torch.Tensor | None], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = home(tmp_path, rows())
    assert run(capsys, "train", config, "--out", tmp_path / "run", "--stage", "align")[0] == 0
    found, _ = newest(tmp_path / "run" / "checkpoints")
    assert found is not None
    change(found.path, **tensors)
    for command in (["reply", tmp_path / "run", "--text", "?"], ["train", config, "--out", tmp_path / "run"]):
        code, said = run(capsys, *command)
        assert code == 2 and message in said and str(found.path) in said


def test_a_pickle_in_place_of_safetensors(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = home(tmp_path, rows())
    assert run(capsys, "train", config, "--out", tmp_path / "run", "--stage", "align")[0] == 0
    found, _ = newest(tmp_path / "run" / "checkpoints")
    assert found is not None
    (found.path / "weights.safetensors").write_bytes(pickle.dumps({"a": 1}))
    renew(found.path)
    code, said = run(capsys, "reply", tmp_path / "run", "--text", "?")
    assert code == 2 and "weights.safetensors is not a readable safetensors file" in said


def test_a_full_disk_during_a_save_loses_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = home(tmp_path, rows())
    original, calls = checkpoint.save_file, []

    def full(*args: Any, **kwargs: Any) -> None:
        calls.append(1)
        if len(calls) > 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        original(*args, **kwargs)

    monkeypatch.setattr(checkpoint, "save_file", full)
    code, said = run(capsys, "train", config, "--out", tmp_path / "run", "--stage", "align")
    assert code == 2 and "the disk is full" in said and "the last complete checkpoint is 00-align-00000001" in said
    monkeypatch.undo()
    assert run(capsys, "train", config, "--out", tmp_path / "run", "--stage", "align")[0] == 0
    assert run(capsys, "train", config, "--out", tmp_path / "whole", "--stage", "align")[0] == 0
    ends = [newest(tmp_path / r / "checkpoints")[0] for r in ("run", "whole")]
    assert ends[0] is not None and ends[1] is not None
    for name in ("weights", "optimizer", "rng"):
        assert (ends[0].path / f"{name}.safetensors").read_bytes() == (
            ends[1].path / f"{name}.safetensors"
        ).read_bytes()


def test_an_empty_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = home(tmp_path, rows())
    (tmp_path / "data.jsonl").write_text("")
    for command in (["train", config, "--out", tmp_path / "run"], ["data", "check", config]):
        code, said = run(capsys, *command)
        assert code == 2 and "data.jsonl" in said
