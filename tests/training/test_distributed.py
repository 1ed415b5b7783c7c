"""Two processes on the CPU (gloo) learn what one process learns, whatever each of them has in its batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from systems import tiny
from training.test_loop import data

from mmlm.config import dump
from mmlm.training import train
from mmlm.training.checkpoint import newest

# `accelerate launch --cpu` starts one process, however many are asked for; torch's own launcher starts two.
LAUNCHERS = {
    "ddp": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2"],
    "fsdp": [
        *("accelerate.commands.launch", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"),
        *("--use_fsdp", "--fsdp_version", "2"),
    ],
}


def launch(launcher: str, config: Path, out: Path) -> None:
    """Train with two processes."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
        "CUDA_VISIBLE_DEVICES": "",
    }
    done = subprocess.run(
        [sys.executable, "-m", *LAUNCHERS[launcher], "-m", "mmlm", "train", str(config), "--out", str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=400,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def losses(run: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def weights(run: Path) -> dict[str, torch.Tensor]:
    found, _ = newest(run / "checkpoints")
    assert found is not None
    return found.tensors("weights")


def processes(run: Path) -> int:
    """How many took part: each leaves the state of its random generators in the checkpoint."""
    found, _ = newest(run / "checkpoints")
    assert found is not None
    return len(found.state["rng"])


@pytest.mark.slow
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_two_processes_learn_what_one_learns(launcher: str, tmp_path: Path) -> None:
    config = tiny("mlp", tmp_path, data=data(tmp_path))
    path = tmp_path / "config.yaml"
    path.write_text(dump(config), encoding="utf-8")
    train(config, tmp_path / "one")
    launch(launcher, path, tmp_path / "two")
    # One sample in eight has no picture: in some steps a rank has none at all.
    assert losses(tmp_path / "two") == pytest.approx(losses(tmp_path / "one"), rel=1e-4)
    assert processes(tmp_path / "two") == 2
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert one.keys() == two.keys()
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=1e-4, msg=lambda m, name=name: f"{name}: {m}")
