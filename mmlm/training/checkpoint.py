"""Checkpoints: weights, optimiser, every RNG, the data cursor and the config - whole, or not there at all.

Written as safetensors and JSON into a hidden folder, flushed to disk, listed with hashes in manifest.json (written last),
then renamed. A kill or a full disk at any instant leaves the last complete checkpoint as it was.
"""

import errno
import json
import os
import random
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmlm.errors import InputError
from mmlm.jsonfile import read_json
from mmlm.training.manifest import FORMAT, MANIFEST, damage, digest


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A complete checkpoint on disk."""

    path: Path

    @property
    def state(self) -> dict[str, Any]:
        """Stage, step, cursor and what else is not a tensor."""
        return read_json(self.path / "state.json")

    def tensors(self, name: str) -> dict[str, Tensor]:
        """The tensors of one file."""
        return read_tensors(self.path / f"{name}.safetensors")


def read_tensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file; InputError where it is absent, damaged, or something else (a pickle)."""
    try:
        with safe_open(path, framework="pt") as f:  # checks the header before anything is allocated
            f.keys()
        return load_file(path)
    except FileNotFoundError as e:
        raise InputError(f"{path} does not exist; the checkpoint is not complete") from e
    except (SafetensorError, OSError) as e:
        raise InputError(
            f"{path} is not a readable safetensors file ({e}); pickles and damaged files are not read"
        ) from e


def write(folder: Path, name: str, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]) -> Checkpoint:
    """Write a checkpoint named `name` into `folder`, atomically. Raises InputError where the disk is full."""
    folder.mkdir(parents=True, exist_ok=True)
    final, draft = folder / name, folder / f".{name}.draft"
    shutil.rmtree(draft, ignore_errors=True)
    try:
        draft.mkdir()
        for file, values in tensors.items():
            save_file(
                {k: v.contiguous() for k, v in values.items()}, draft / f"{file}.safetensors", metadata={"format": "pt"}
            )
            (draft / f"{file}.safetensors").chmod(0o644)
        (draft / "state.json").write_text(json.dumps(state, indent=1, sort_keys=True), encoding="utf-8")
        files = {p.name: {"sha256": digest(p), "bytes": p.stat().st_size} for p in sorted(draft.iterdir())}
        for file in files:
            _flush(draft / file)
        (draft / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": files}, indent=1), encoding="utf-8")
        _flush(draft / MANIFEST)
        _flush(draft)
        if final.exists():  # left by an earlier, damaged or superseded attempt at this very step
            shutil.rmtree(final)
        draft.rename(final)
        _flush(folder)
    except (OSError, SafetensorError) as e:
        shutil.rmtree(draft, ignore_errors=True)
        if getattr(e, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(e):
            size = sum(v.nbytes for t in tensors.values() for v in t.values())
            raise InputError(
                f"the disk is full: {final} needs {size / 1e6:.0f} MB and {shutil.disk_usage(folder).free / 1e6:.0f} MB are "
                f"free. Nothing was lost: {_last(folder)}. Free some space and run the same command again"
            ) from e
        raise
    return Checkpoint(final)


def _last(folder: Path) -> str:
    kept = sorted(p.name for p in folder.iterdir() if (p / MANIFEST).is_file() and not p.name.startswith("."))
    return f"the last complete checkpoint is {kept[-1]}" if kept else "no checkpoint was written before"


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest complete checkpoint of a run, and what was passed over on the way to it with the reason."""
    passed: list[str] = []
    names = (
        sorted((p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")), reverse=True)
        if folder.is_dir()
        else []
    )
    for path in names:
        if (wrong := damage(path)) is None:
            return Checkpoint(path), passed
        passed.append(f"{path}: {wrong}")
    return None, passed


def prune(folder: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints, and drafts that a kill left behind."""
    for draft in folder.glob(".*.draft"):
        shutil.rmtree(draft, ignore_errors=True)
    whole = sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))
    for path in whole[:-keep]:
        (path / MANIFEST).unlink(missing_ok=True)  # first, so that a kill here leaves no half-deleted "complete" one
        shutil.rmtree(path, ignore_errors=True)


def load_into(model: torch.nn.Module, values: Mapping[str, Tensor], wanted: set[str], origin: Path) -> None:
    """Copy `values` into the parameters and buffers `wanted` of `model`: each exactly once, of the right shape."""
    own = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    missing, extra = sorted(wanted - values.keys()), sorted(values.keys() - wanted)
    wrong = [
        f"{n} is {tuple(v.shape)}, expected {tuple(own[n].shape)}"
        for n, v in sorted(values.items())
        if n in own and own[n].shape != v.shape
    ]
    if missing or extra or wrong:
        raise InputError(
            f"{origin} does not fit this config. Missing: {_few(missing)}. Surplus: {_few(extra)}. Of another shape: {_few(wrong)}. "
            f"Nothing was loaded; use the config that the run was made with"
        )
    with torch.no_grad():
        for name, value in values.items():
            own[name].copy_(value)


def _few(names: list[str]) -> str:
    return (", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")) or "none"


def rng_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Every random number generator of this process."""
    tensors = {"torch": torch.get_rng_state()}
    for i, state in enumerate(torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []):
        tensors[f"cuda.{i}"] = state
    kind, keys, pos, has_gauss, cached = np.random.get_state()
    version, internal, gauss = random.getstate()
    tensors["numpy"] = torch.from_numpy(np.asarray(keys, dtype=np.uint32).astype(np.int64))
    rest = {"numpy": [str(kind), int(pos), int(has_gauss), float(cached)], "python": [version, list(internal), gauss]}
    return tensors, rest


def set_rng_state(tensors: Mapping[str, Tensor], rest: Mapping[str, Any]) -> None:
    """Put every random number generator back."""
    torch.set_rng_state(tensors["torch"])
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        if f"cuda.{i}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda.{i}"], i)
    kind, pos, has_gauss, cached = rest["numpy"]
    np.random.set_state((kind, tensors["numpy"].numpy().astype(np.uint32), pos, has_gauss, cached))
    version, internal, gauss = rest["python"]
    random.setstate((version, tuple(internal), gauss))


def seed_everything(*key: int) -> None:
    """Seed every generator from a few integers."""
    seed = int(np.random.SeedSequence(list(key)).generate_state(1)[0])
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)
