"""Checkpoints: whole or not there; strict; nothing but tensors and JSON is read."""

import errno
import json
import pickle
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mmlm.errors import InputError
from mmlm.training import checkpoint

STATE = {"step": 3, "stage": "align"}


def written(folder: Path, step: int = 1) -> checkpoint.Checkpoint:
    tensors = {"weights": {"a": torch.arange(6.0).reshape(2, 3)}, "optimizer": {"m": torch.ones(5)}}
    return checkpoint.write(folder, f"00-align-{step:08d}", tensors, STATE)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    made = written(tmp_path)
    found, passed = checkpoint.newest(tmp_path)
    assert found == made and not passed and found.state == STATE
    torch.testing.assert_close(found.tensors("weights")["a"], torch.arange(6.0).reshape(2, 3), rtol=0, atol=0)
    assert not list(tmp_path.glob(".*"))


DAMAGES = {
    "truncated": lambda p: p.write_bytes(p.read_bytes()[:-7]),
    "zeroed": lambda p: p.write_bytes(bytes(p.stat().st_size)),
    "one bit": lambda p: p.write_bytes(bytes([p.read_bytes()[0], p.read_bytes()[1] ^ 1, *p.read_bytes()[2:]])),
    "missing": Path.unlink,
    "empty": lambda p: p.write_bytes(b""),
}


@pytest.mark.parametrize("file", ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path: Path, damage: str, file: str) -> None:
    good = written(tmp_path, 1)
    bad = written(tmp_path, 2)
    DAMAGES[damage](bad.path / file)
    found, passed = checkpoint.newest(tmp_path)
    assert found == good
    assert len(passed) == 1 and str(bad.path) in passed[0] and (file in passed[0])


def test_a_manifest_cannot_point_elsewhere(tmp_path: Path) -> None:
    made = written(tmp_path / "run")
    manifest = json.loads((made.path / "manifest.json").read_text())
    manifest["files"]["../../secret"] = {"sha256": "", "bytes": 0}
    (made.path / "manifest.json").write_text(json.dumps(manifest))
    (tmp_path / "secret").touch()
    assert "../../secret" in str(checkpoint.damage(made.path))


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    good = written(tmp_path, 1)

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(
        InputError,
        match=r"the disk is full: .*00-align-00000002 needs .* the last complete checkpoint is 00-align-00000001",
    ):
        written(tmp_path, 2)
    assert checkpoint.newest(tmp_path) == (good, []) and not list(tmp_path.glob(".*"))


def test_drafts_and_old_checkpoints_are_pruned(tmp_path: Path) -> None:
    for step in range(1, 6):
        written(tmp_path, step)
    shutil.copytree(tmp_path / "00-align-00000005", tmp_path / ".00-align-00000006.draft")
    checkpoint.prune(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00-align-00000004", "00-align-00000005"]


def test_a_pickle_is_not_read(tmp_path: Path) -> None:
    sentinel = tmp_path / "sentinel"

    class Gadget:
        def __reduce__(self) -> tuple[object, ...]:
            return (sentinel.touch, ())

    path = tmp_path / "weights.safetensors"
    path.write_bytes(pickle.dumps(Gadget()))
    with pytest.raises(
        InputError, match=r"weights.safetensors is not a readable safetensors file .* pickles .* not read"
    ):
        checkpoint.read_tensors(path)
    torch.save({"a": torch.ones(2)}, path)
    with pytest.raises(InputError, match="not a readable safetensors file"):
        checkpoint.read_tensors(path)
    assert not sentinel.exists()


def test_loading_is_strict(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    before = {n: p.clone() for n, p in model.named_parameters()}
    wanted = {"weight", "bias"}
    good = {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}
    cases = {
        r"Missing: bias\.": {"weight": good["weight"]},
        r"Surplus: extra\.": {**good, "extra": torch.zeros(1)},
        r"weight is \(3, 2\), expected \(2, 3\)": {**good, "weight": torch.zeros(3, 2)},
    }
    for message, values in cases.items():
        with pytest.raises(InputError, match=message):
            checkpoint.load_into(model, values, wanted, tmp_path / "weights.safetensors")
        assert all(torch.equal(p, before[n]) for n, p in model.named_parameters()), "nothing is half loaded"
    checkpoint.load_into(model, good, wanted, tmp_path)
    assert not model.weight.any()


def test_every_generator_goes_back() -> None:
    checkpoint.seed_everything(7, 1)
    torch.randn(3), np.random.rand(), random.gauss(0, 1)
    tensors, rest = checkpoint.rng_state()
    rest = json.loads(json.dumps(rest))
    first = torch.randn(4).tolist(), np.random.rand(), random.random(), random.gauss(0, 1)
    checkpoint.set_rng_state(tensors, rest)
    assert first == (torch.randn(4).tolist(), np.random.rand(), random.random(), random.gauss(0, 1))
