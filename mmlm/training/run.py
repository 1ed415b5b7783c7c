"""The folder of a run: its config, its vocabulary, its checkpoints, and the way back to a model."""

import fcntl
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from mmlm.assemble import Assembly, assemble, vocabulary_of
from mmlm.caches import FeatureCache
from mmlm.config import SystemConfig, dump, load
from mmlm.errors import InputError
from mmlm.jsonfile import read_json
from mmlm.model import MultimodalModel
from mmlm.training import checkpoint, policy
from mmlm.training.checkpoint import Checkpoint
from mmlm.training.manifest import MANIFEST

# What may change between two sittings of one run, because it changes no weight.
_FREE = ("workers", "log_every", "save_every", "validate_every")


@contextmanager
def open_run(out: Path, config: SystemConfig) -> Iterator[None]:
    """Create or continue the run folder `out`. Refuses a second process in it, and another config than it was begun with. What
    cannot be trained is forgotten again, so that the folder is free for the config that is mended."""
    began = not out.exists()
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"--out {out} cannot be made: {e.strerror}") from e
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as e:
            raise InputError(f"{out} is in use by another process; wait for it, or train into another folder") from e
        written = out / "config.yaml"
        if written.is_file():
            _same(load(written), config, out)
        else:
            draft = out / ".config.yaml"
            draft.write_text(dump(config, out), encoding="utf-8")
            draft.rename(written)
        try:
            yield
        except InputError:
            if not any((out / "checkpoints").glob("*")):
                _forget(out, began)
            raise


def _forget(out: Path, whole: bool) -> None:
    """Take away what a run folder begins with; where this process made the folder and nothing else is in it, that too."""
    (out / "config.yaml").unlink()
    shutil.rmtree(out / "vocabulary", ignore_errors=True)
    if whole and {p.name for p in out.iterdir()} <= {".lock"}:
        shutil.rmtree(out, ignore_errors=True)


def _same(old: SystemConfig, new: SystemConfig, out: Path) -> None:
    def flat(value: object, at: str = "") -> dict[str, object]:
        if isinstance(value, dict):
            return {k: v for n, x in value.items() for k, v in flat(x, f"{at}.{n}" if at else str(n)).items()}
        if isinstance(value, list):
            return {k: v for n, x in enumerate(value) for k, v in flat(x, f"{at}.{n}").items()}
        return {at: value}

    a, b = flat(old.model_dump(mode="json")), flat(new.model_dump(mode="json"))
    differs = [k for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k) and k.rpartition(".")[2] not in _FREE]
    if differs:
        shown = "; ".join(f"{k}: {a.get(k)!r} there, {b.get(k)!r} now" for k in differs[:5])
        raise InputError(
            f"{out} was begun with another config ({shown}); use another --out, or the config it was begun with ({out / 'config.yaml'})"
        )


def carried(model: MultimodalModel, borrowed: Mapping[str, str], trained: set[str]) -> dict[str, Tensor]:
    """What a checkpoint holds: every tensor but those of parts that come from `weights` and that no stage has trained."""
    untouched = {n for found in _lent(model, borrowed, trained).values() for n, _ in found}
    touched = _touched(model, trained)
    lent_modules = [f"{p}." if p != "backbone" else "backbone.llm." for p in borrowed if p not in touched]
    tensors: dict[str, Tensor] = {n: p.detach() for n, p in model.named_parameters() if n not in untouched}
    for name, buffer in _buffers(model).items():
        if not any(name.startswith(m) for m in lent_modules):
            tensors[name] = buffer
    return tensors


def _lender(part: str, borrowed: Mapping[str, str]) -> str | None:
    """The borrowed part that `part` belongs to: the LLM's embedding and head are lent with the LLM; rows that were added to
    them are the run's own."""
    return (
        part
        if part in borrowed
        else ("backbone" if part in ("backbone.embeddings", "backbone.head") and "backbone" in borrowed else None)
    )


def _touched(model: MultimodalModel, trained: set[str]) -> set[str]:
    """The parts that hold a parameter which one of the ids `trained` means."""
    parts = model.parts()
    names = {n for t in trained for n in policy.named(parts, t)}
    return {p for p, found in parts.items() if any(n in names for n, _ in found)}


def _lent(model: MultimodalModel, borrowed: Mapping[str, str], trained: set[str]) -> dict[str, policy.Named]:
    """The parts that come from `weights` and that no stage has trained."""
    touched = _touched(model, trained)
    return {p: found for p, found in model.parts().items() if _lender(p, borrowed) and p not in touched}


def _buffers(model: MultimodalModel) -> dict[str, Tensor]:
    """The buffers that a state dict holds."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    buffers = dict(model.named_buffers())
    return {n: buffers[n] for n in model.state_dict(keep_vars=True) if n in buffers and n not in parameters}


def lent(
    model: MultimodalModel, borrowed: Mapping[str, str], trained: set[str], known: Mapping[str, str] | None = None
) -> dict[str, str]:
    """A hash of each part that the checkpoint does not hold, so that another base is refused when it is loaded. `known`
    are hashes of `policy.frozen`, taken over as they are: reading a 7B LLM once more takes as long as the first time."""
    made = known or {}
    return {p: made.get(p) or policy.fingerprint(found) for p, found in _lent(model, borrowed, trained).items()}


def whole(borrowed: Mapping[str, str], trained: set[str]) -> set[str]:
    """Borrowed parts whose every value the checkpoint holds, so that their `weights` need not be read again."""
    return {p for p in borrowed if p in trained}


def load_run(run: Path, device: torch.device | str | None = None) -> Assembly:
    """The system of a RUN folder with the weights of its newest complete checkpoint, ready to reply."""
    if not (run / "config.yaml").is_file():
        raise InputError(
            f"{run} is not a run: config.yaml is missing; expected a folder made by `mmlm train CONFIG --out {run}`"
        )
    place = device or ("cuda" if torch.cuda.is_available() else "cpu")
    assembly = restore(run, load(run / "config.yaml"), place)
    # One by one where that costs little, so that an answer never depends on what it was asked with.
    assembly.model.cache = FeatureCache(alone=assembly.model.device.type == "cpu")
    return assembly


def restore(run: Path, config: SystemConfig, device: torch.device | str) -> Assembly:
    """The run's system with the values of its newest complete checkpoint."""
    found, passed = checkpoint.newest(run / "checkpoints")
    if found is None:
        reasons = "; ".join(passed) or "there is none"
        raise InputError(f"{run} has no complete checkpoint ({reasons}); run `mmlm train` again to go on")
    return load_checkpoint(run, config, found, device)


def load_checkpoint(run: Path, config: SystemConfig, found: Checkpoint, device: torch.device | str) -> Assembly:
    """Build the system of `config` and put the values of one checkpoint in. Strict: one source for every tensor."""
    state = found.state
    vocabulary = vocabulary_of(config, run / "vocabulary") if (run / "vocabulary").is_dir() else None
    trained = set(state["trained"])
    # An aligner's values are always the run's own; where its `weights` are a folder here, its config lies there too.
    started = {f"inputs.{n}.aligner" for n, s in config.inputs.items() if Path(s.aligner.weights or "-").is_dir()}
    assembly = assemble(config, device=device, vocabulary=vocabulary, held=set(state["whole"]) | started)
    model = assembly.model
    wanted = set(carried(model, assembly.borrowed, trained))
    checkpoint.load_into(model, found.tensors("weights"), wanted, found.path / "weights.safetensors")
    now = lent(model, assembly.borrowed, trained)
    for part, expected in state["lent"].items():
        if (got := now.get(part)) != expected:
            source = assembly.borrowed.get(part) or assembly.borrowed.get("backbone")
            raise InputError(
                f"{found.path}: the run was trained on other values of {part} than {source} holds now (hash {got}, the "
                f"run says {expected}); give the weights that it was trained on"
            )
    name = hashlib.sha256(json.dumps([read_hash(found), dump(config, run)]).encode()).hexdigest()[:16]
    return replace(assembly, fingerprint=name)


def read_hash(found: Checkpoint) -> str:
    """What identifies a checkpoint's values: the hash of its weights."""
    return str(read_json(found.path / MANIFEST)["files"]["weights.safetensors"]["sha256"])
