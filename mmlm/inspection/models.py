"""Part of the inspection: model folders as transformers, timm and peft write them."""

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mmlm.inspection.headers import Tensor, headers
from mmlm.inspection.report import Fact, Inspection
from mmlm.jsonfile import read_json

PICKLES = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


def look_at_model(path: Path) -> Inspection:
    """A folder with config.json, .safetensors files, or both."""
    config = read_json(path / "config.json") if (path / "config.json").is_file() else {}
    here = sorted(path.glob("*.safetensors"))
    listed = _listed(path)
    facts: dict[str, Fact] = {}
    if kind := config.get("model_type") or config.get("architecture"):
        facts["type"] = str(kind)
    if isinstance(architectures := config.get("architectures"), list):
        facts["architectures"] = ", ".join(map(str, architectures))
    facts |= sizes(headers([f for f in here if not listed or f.name in listed]))
    facts["files"] = [f.name for f in here]
    warnings = list(_dangers(path, config))
    if not config:
        warnings.append("there is no config.json, so no model can be built from it")
    if missing := sorted(listed - {f.name for f in here}):
        warnings.append(f"the index names files that are not here: {', '.join(missing)}")
    if not here:
        warnings.append("there are no .safetensors files: it has a shape, but no values that are read")
    maker = "timm" if "architecture" in config else "Hugging Face"
    return Inspection(path, "model folder", f"{path} is a {maker} model folder.", facts, tuple(warnings))


def look_at_adapter(path: Path) -> Inspection:
    """A folder with a peft adapter."""
    config = read_json(path / "adapter_config.json")
    base = config.get("base_model_name_or_path")
    facts: dict[str, Fact] = {
        "type": str(config.get("peft_type")),
        "made for": str(base or "a model that is not named"),
    }
    facts |= sizes(headers(sorted(path.glob("*.safetensors"))))
    sentence = f"{path} is a folder with a peft adapter, which is of use only with the model it was made for."
    return Inspection(path, "adapter folder", sentence, facts, tuple(_dangers(path, config)))


def sizes(tensors: Mapping[str, Tensor]) -> dict[str, Fact]:
    """How many tensors and parameters there are, and how they are stored."""
    kinds: Counter[str] = Counter()
    for tensor in tensors.values():
        kinds[tensor.dtype] += tensor.values
    stored = ", ".join(f"{kind} ({n:,})" if len(kinds) > 1 else kind for kind, n in sorted(kinds.items()))
    return {"tensors": len(tensors), "parameters": kinds.total(), "stored as": stored or "nothing"}


def _listed(path: Path) -> set[str]:
    """The files that an index of shards names."""
    index = path / "model.safetensors.index.json"
    named = read_json(index).get("weight_map") if index.is_file() else None
    return {str(v) for v in named.values()} if isinstance(named, dict) else set()


def _dangers(path: Path, config: Mapping[str, Any]) -> Iterator[str]:
    """What in a model folder is never read or run."""

    def asks(value: Any) -> bool:
        return isinstance(value, dict) and ("auto_map" in value or any(map(asks, value.values())))

    if asks(config):
        yield "its config asks for code from the folder (auto_map), which is never run, so the model cannot be loaded"
    if code := sorted(p.name for p in path.glob("*.py")):
        yield f"Python files, which are never run: {', '.join(code)}"
    if pickles := sorted(p.name for p in path.iterdir() if p.suffix in PICKLES):
        yield f"pickles, which are never read: {', '.join(pickles)}"
