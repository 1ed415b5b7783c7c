"""The room of open_clip's vision towers: OpenCLIP ViTs and ResNets, EVA-CLIP, CLIP ConvNeXt and the rest of its list."""

import difflib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmlm.errors import InputError
from mmlm.interfaces import Encoder
from mmlm.jsonfile import read_json
from mmlm.sample import Modality
from mmlm.weights import PACKAGE, Weights

from .loading import fill, tensors_of
from .pixels import FILTERS, Pixels, Resize
from .towers import ClassToken, interpolated, patches, taps
from .trunks import architecture, joined, measured, set_size, shrunk, tapped, trim_trunk

_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.safetensors")
_WAYS: dict[str, Resize] = {"shortest": "crop", "squash": "squash"}
_NO_TEXT = {"width": 8, "heads": 1, "layers": 1, "vocab_size": 8, "context_length": 4}
_SMALL_VIT = {"width": 32, "head_width": 8, "layers": 4, "attn_pooler_heads": 4}
_SMALL_RESNET = {"width": 8, "layers": [1, 1, 1, 1], "image_size": 128}


class OpenClipEncoder(Encoder):
    """Features of an open_clip vision tower: `Float [U, 3, H, H]` -> `Float [U, L, C]`; the grid of a convolutional tower is
    laid out row by row.

    weights: "MODEL/PRETRAINED" as open_clip names them ("EVA01-g-14/laion400m_s11b_b41k"), or a folder with
        open_clip_config.json and a .safetensors file. Pickles are never read.
    layer: the block of a transformer or the stage of a pyramid to take: 1 is the first, -1 the last. Several are set one
        behind the other on the channels, where they have one grid.
    final_norm: apply the tower's last norm to what leaves the last block, where it is taken.
    pooled: give one feature instead: the tower's image embedding, projection included.
    class_token, image_size, resize, trim: as in `clip`.

    The EVA-g of BLIP-2 (985.9 M: 39 of 40 blocks, no final norm, class feature kept) is "EVA01-g-14/laion400m_s11b_b41k"
    at layer -2 with class_token "keep". Batch norm must not move: keep a frozen ResNet in eval mode.
    """

    modality: Modality = "image"
    tiny: ClassVar[Mapping[str, object]] = {"image_size": None}

    def __init__(
        self,
        weights: Weights,
        *,
        layer: int | list[int] = -1,
        class_token: ClassToken = "drop",
        final_norm: bool = False,
        pooled: bool = False,
        image_size: int | None = None,
        resize: Resize | None = None,
        trim: bool = True,
    ) -> None:
        super().__init__()
        config, preparation, hub = _described(weights)
        file = tensors_of(replace(weights, name=hub).folder(), _FILES) if weights.load and not weights.tiny else None
        visual, native = _built(config, weights)
        if file:
            fill(visual, file, prefix="visual.")
        self.transform = _recipe(preparation, native, weights.name).at(image_size or native, resize)
        self.kind = _kind(visual)
        self.pooled, self.dropped = pooled, class_token == "drop"
        self.prefix: int = 1 if self.kind == "vit" else getattr(getattr(visual, "trunk", None), "num_prefix_tokens", 0)
        if self.transform.size != native:
            _resize(visual, self.kind, self.transform.size, pooled)
        self.depth = _depth(visual, self.kind)
        self.taps = taps(layer, self.depth, weights.tiny, first=1)
        self.last = self.depth if final_norm and self.depth in self.taps else None
        if self.last and (self.kind == "resnet" or getattr(visual, "attn_pool", None) is not None):
            raise InputError(f"final_norm: the tower of {weights.name} has no norm that fits its last block")
        if trim and not pooled:
            _trim(visual, self.kind, self.taps, self.last)
        self.visual = visual
        self.shape = measured(self, self.transform.size, 0 if self.dropped else self.prefix, pooled)

    def forward(self, units: Float[Tensor, "U 3 H W"]) -> Float[Tensor, "U L C"]:
        """Features of each unit."""
        if self.pooled:
            embedding: Tensor = self.visual(units)
            return embedding.unsqueeze(1)
        maps = tapped(self.visual.trunk, units, self.taps, self.last) if self.kind == "timm" else self._own(units)
        return joined(maps, self.prefix, self.dropped)

    def _own(self, units: Float[Tensor, "U 3 H W"]) -> list[Float[Tensor, "U L C"]]:
        """The taps of a tower of open_clip's own."""
        indices = sorted({k - 1 for k in self.taps})
        found = self.visual.forward_intermediates(
            units, indices=indices, stop_early=True, intermediates_only=True, output_extra_tokens=True
        )
        maps = [m.flatten(2).transpose(1, 2) for m in found["image_intermediates"]]
        if self.prefix:
            maps = [torch.cat(both, dim=1) for both in zip(found["image_intermediates_prefix"], maps, strict=True)]
        rows = dict(zip((i + 1 for i in indices), maps, strict=True))
        if self.last is not None:
            rows[self.last] = self.visual.ln_post(rows[self.last])
        return [rows[k] for k in self.taps]


def _kind(visual: Any) -> str:
    """Which of the three classes a tower is of: "vit" and "resnet" are open_clip's own, "timm" holds a timm network."""
    if hasattr(visual, "trunk"):
        return "timm"
    return "vit" if hasattr(visual, "transformer") else "resnet"


def _depth(visual: Any, kind: str) -> int:
    if kind == "timm":
        return len(visual.trunk.feature_info)
    return len(visual.transformer.resblocks) if kind == "vit" else 5  # a ResNet's stem counts as its first stage


def _resize(visual: Any, kind: str, size: int, pooled: bool) -> None:
    """Another input size, once; convolutions take any."""
    if kind == "timm":
        set_size(visual.trunk, size)
    elif kind == "vit":
        side = patches(size, visual.patch_size[0])
        old = visual.positional_embedding
        visual.positional_embedding = nn.Parameter(interpolated(old.detach(), 1, side), requires_grad=old.requires_grad)
        visual.grid_size, visual.image_size = (side, side), (size, size)
    elif pooled:
        raise InputError(f"image_size: the pooling of this ResNet takes {visual.image_size} pixels only; came {size}")


def _trim(visual: Any, kind: str, wanted: tuple[int, ...], last: int | None) -> None:
    """Take away what no chosen feature needs."""
    if kind == "timm":
        trim_trunk(visual.trunk, wanted, last)
        visual.head = nn.Identity()
    elif kind == "vit":
        visual.prune_intermediate_layers(sorted({k - 1 for k in wanted}), prune_norm=last is None, prune_head=True)
        visual.attn_pool = None
    else:
        visual.attnpool = nn.Identity()
        for k in range(max(wanted), 5):
            setattr(visual, f"layer{k}", nn.Identity())


def _described(weights: Weights) -> tuple[dict[str, Any], dict[str, Any], str]:
    """The config of the model, how its pictures are prepared, and where its tensors are on the hub; open_clip knows them
    without a network."""
    import open_clip

    if weights.local or weights.name.startswith(PACKAGE):
        raw = read_json(weights.folder() / "open_clip_config.json")
        config, preparation = raw.get("model_cfg", raw), raw.get("preprocess_cfg", {})
        if not (
            isinstance(config, dict) and isinstance(config.get("vision_cfg"), dict) and isinstance(preparation, dict)
        ):
            raise InputError(f"{weights.name}: expected an open_clip_config.json with a vision_cfg")
        return config, preparation, weights.name
    model, _, tag = weights.name.partition("/")
    if model not in open_clip.list_models():
        near = difflib.get_close_matches(model, open_clip.list_models(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"open_clip has no model named {model!r}{hint} Expected MODEL/PRETRAINED, or a folder")
    known = open_clip.list_pretrained_tags_by_model(model)
    preparation = open_clip.get_pretrained_cfg(model, tag)
    if (tag or weights.load) and not preparation:
        raise InputError(f"open_clip has no weights {tag!r} of {model}; known are {', '.join(known)}")
    hub = "/".join(preparation.get("hf_hub", "").split("/")[:2])
    if weights.load and not weights.tiny and not hub:
        raise InputError(
            f"{weights.name} are published as a pickle only, which is not read; convert them to safetensors"
        )
    config = open_clip.get_model_config(model)
    if preparation:  # the weights know which of the two GELUs they were trained with
        config["quick_gelu"] = bool(preparation.get("quick_gelu", False))
    return config, preparation, hub


def _built(config: dict[str, Any], weights: Weights) -> tuple[Any, int]:
    """The vision tower alone, with random values, and its own input size."""
    from open_clip.model import CustomTextCLIP

    vision = dict(config["vision_cfg"], timm_model_pretrained=False, output_tokens=False)
    network = vision.get("timm_model_name")
    if network is not None:
        architecture(str(network))
    try:
        with tempfile.TemporaryDirectory() as folder:
            if weights.tiny:
                vision |= _small(vision, Path(folder))
            whole: Any = CustomTextCLIP(
                config.get("embed_dim"), vision, _NO_TEXT, quick_gelu=config.get("quick_gelu", False)
            )
    except TypeError as e:
        raise InputError(f"{weights.name}: open_clip cannot build this vision_cfg ({e})") from e
    visual: Any = whole.visual.float().eval()
    native = visual.image_size
    return visual, native if isinstance(native, int) else native[0]


def _small(vision: dict[str, Any], folder: Path) -> dict[str, Any]:
    """What changes in a vision_cfg at tiny scale. open_clip takes a timm network by name only, so that a small one is
    described to it in a folder."""
    import timm

    if not vision.get("timm_model_name"):
        layers = vision.get("layers", 12)
        return (
            _SMALL_RESNET if isinstance(layers, list) else _SMALL_VIT | {"image_size": 4 * vision.get("patch_size", 16)}
        )
    name, change, size = shrunk(vision["timm_model_name"])
    cfg = timm.get_pretrained_cfg(name).to_dict(remove_source=True)
    described = {"architecture": name, "model_args": dict(change), "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps(described), encoding="utf-8")
    return {"timm_model_name": f"local-dir:{folder}", "image_size": size}


def _recipe(preparation: Mapping[str, Any], native: int, name: str) -> Pixels:
    """How pictures were prepared in training: open_clip's evaluation pipeline."""
    from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

    way, kernel = preparation.get("resize_mode", "shortest"), preparation.get("interpolation", "bicubic")
    mean, std = preparation.get("mean", OPENAI_DATASET_MEAN), preparation.get("std", OPENAI_DATASET_STD)
    if way not in _WAYS or kernel not in FILTERS or len(mean) != 3 or len(std) != 3:
        raise InputError(f"{name}: pictures are prepared by {way!r} with {kernel!r}, which is not known here")
    return Pixels(native, native, tuple(mean), tuple(std), FILTERS[kernel], _WAYS[way], even=True)
