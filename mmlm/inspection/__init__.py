"""The inspection room: looking at a folder or file and saying in plain words what it is, without loading it.

Only headers and JSON are read, and torch is not needed. What is looked at is untrusted: sizes are capped before
anything is read, and nothing of it is run.
"""

from pathlib import Path

from mmlm.errors import InputError
from mmlm.inspection.files import look_at_file
from mmlm.inspection.headers import Tensor, header
from mmlm.inspection.models import look_at_adapter, look_at_model
from mmlm.inspection.report import Inspection
from mmlm.inspection.runs import is_run, look_at_checkpoint, look_at_run
from mmlm.training.manifest import MANIFEST


def inspect(path: Path) -> Inspection:
    """What `path` is. Raises InputError where it is nothing that this project knows, or is damaged beyond telling."""
    path = path.expanduser()
    if path.is_file():
        return look_at_file(path)
    if not path.is_dir():
        raise InputError(f"{path} does not exist; expected a run, a checkpoint, a model folder or a file of data")
    if is_run(path):
        return look_at_run(path)
    if (path / MANIFEST).is_file() or (path / "state.json").is_file():
        return look_at_checkpoint(path)
    if (path / "adapter_config.json").is_file():
        return look_at_adapter(path)
    if (path / "config.json").is_file() or any(path.glob("*.safetensors")):
        return look_at_model(path)
    held = sorted(p.name for p in path.iterdir())[:6]
    raise InputError(
        f"{path} is no folder that mmlm knows: a run holds config.yaml beside its checkpoints, a checkpoint manifest.json, "
        f"a model config.json and .safetensors files; this one holds {', '.join(held) or 'nothing'}"
    )


__all__ = ["Inspection", "Tensor", "header", "inspect"]
