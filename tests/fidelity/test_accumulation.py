"""Accumulation: a step of eight samples has one gradient, however they are shared out over micro-batches and ranks."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from fidelity import accumulating
from ledger import FULL, largest, record
from safetensors.torch import load_file
from systems import pictures, tiny

from mmlm.config import SystemConfig, dump

ANSWERS = (
    "a",
    "a cat",
    "no",
    "two birds sit on the wire above the old street",
    "sea",
    "rain " * 20,
    "a tree",
    "yes, it is",
)
PARTS = {
    "mlp": "{inputs.image.aligner: {lr: 1e-3}, backbone: {lr: 1e-3}}",
    "memory": "{inputs.image.aligner: {lr: 1e-3}, backbone.grafts.xattn: {lr: 1e-3}}",
    "seq2seq": "{inputs.image.aligner: {lr: 1e-3}}",
}
ALLOWED = 1e-6


def prepared(kind: str, folder: Path) -> SystemConfig:
    """A system and eight samples whose answers are of very different lengths; two have no picture, two have the same."""
    paths = pictures(folder / "images", 5)
    rows = [
        {"id": str(i), "question": "What is it?", "answer": a}
        | ({"image": f"images/{paths[i % 5].name}"} if i % 4 else {})
        for i, a in enumerate(ANSWERS)
    ]
    (folder / "qa.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    options = [f"train={PARTS[kind]}", "batch=8", "steps=1", "clip=null", "precision=fp32"]
    return tiny(kind, folder, *(f"stages.0.{o}" for o in options), data=folder / "qa.jsonl")


def over_two_ranks(config: SystemConfig, folder: Path) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """The gradients of two processes with four samples each."""
    path = folder / "whole.yaml"
    path.write_text(dump(config), encoding="utf-8")
    # Not by `accelerate launch --cpu`, which starts one process, however many are asked for.
    ranks = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [sys.executable, *ranks, accumulating.__file__, str(path), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"ACCELERATE_USE_CPU": "true"}
    done = subprocess.run(
        [*command, "4", "2", "1"], env=environment, capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for size in ("4", "2", "1"):
        yield f"2 ranks, {size}", load_file(folder / f"{size}.safetensors")


@pytest.mark.parametrize("kind", PARTS)
def test_a_step_has_one_gradient(kind: str, tmp_path: Path) -> None:
    config = prepared(kind, tmp_path)

    def cut(size: int) -> dict[str, torch.Tensor]:
        stage = config.stages[0].model_copy(update={"micro_batch": size})
        changed = config.model_copy(update={"stages": [stage, *config.stages[1:]]})
        return accumulating.gradients(changed, tmp_path / f"run-of-{size}")

    whole = cut(8)
    assert whole and all(g.abs().sum() > 0 for n, g in whole.items() if n.endswith("weight"))
    ways = [(f"{8 // n} x {n}", cut(n)) for n in ((4, 2, 1) if FULL else (2,))]
    if FULL:
        ways += over_two_ranks(config, tmp_path)
    found = []
    for way, gradients in ways:
        assert gradients.keys() == whole.keys()
        found.append(max(largest(gradients[n], g) for n, g in whole.items()))
        assert found[-1] <= ALLOWED, way
    record(f"system {kind}", "accumulation: 8x1, 4x2, 2x4, 1x8, and over 2 ranks", len(found), max(found), ALLOWED)
