"""Time and peak memory of a function, each in a process of its own, so that no run sees what another left behind."""

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

SEEDS = (0, 1, 2)


def measure(work: Callable[[], object], device: str) -> dict[str, float]:
    """Seconds of the second call, and the MiB that both calls together took beyond what was there before."""
    before = _held(device)
    work()
    _wait(device)
    begin = time.perf_counter()
    work()
    _wait(device)
    return {"seconds": time.perf_counter() - begin, "mib": _held(device) - before}


def compare(script: str, variants: list[str], arguments: list[str]) -> dict[str, dict[str, float]]:
    """Run `script --variant V --seed S ARGUMENTS` for every variant and seed; medians over the seeds."""
    medians = {}
    for variant in variants:
        runs = []
        for seed in SEEDS:
            command = [
                sys.executable,
                str(Path(script).resolve()),
                "--variant",
                variant,
                "--seed",
                str(seed),
                *arguments,
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
            runs.append(json.loads(done.stdout.splitlines()[-1]))
        medians[variant] = {k: statistics.median(r[k] for r in runs) for k in runs[0]}
    return medians


def show(title: str, medians: dict[str, dict[str, float]]) -> None:
    """One line per variant."""
    print(f"{title}; torch {torch.__version__}, {torch.get_num_threads()} threads, median of {len(SEEDS)} seeds")
    print(f"{'variant':<12}{'seconds':>10}{'peak MiB':>10}")
    for variant, found in medians.items():
        print(f"{variant:<12}{found['seconds']:>10.3f}{found['mib']:>10.0f}")


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _held(device: str) -> float:
    """The most memory held so far, in MiB."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
