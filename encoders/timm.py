"""The room of timm's feature extractors: ViT, ConvNeXt, Swin, EfficientNet, ResNet and their like."""

from collections.abc import Mapping
from dataclasses import replace
from math import floor
from pathlib import Path
from typing import Any, ClassVar

from jaxtyping import Float
from torch import Tensor

from mmlm.errors import InputError
from mmlm.interfaces import Encoder
from mmlm.sample import Modality
from mmlm.weights import PACKAGE, Weights

from .loading import fill, tensors_of
from .pixels import FILTERS, Pixels, Resize
from .towers import ClassToken, taps
from .trunks import architecture, joined, measured, set_size, shrunk, tapped, trim_trunk

# What a config.json may say about the network itself; all else there (paths, flags of loading) is not passed on.
_DIMENSIONS = {
    "img_size", "patch_size", "embed_dim", "embed_dims", "depth", "depths", "dims", "num_heads", "mlp_ratio", "window_size",
    "layers", "channels", "class_token", "reg_tokens", "init_values", "qkv_bias", "no_embed_class", "global_pool",
}  # fmt: skip


class TimmEncoder(Encoder):
    """Features of a timm network: `Float [U, 3, H, H]` -> `Float [U, L, C]`; the grid of a convolutional network is laid
    out row by row.

    weights: a name of timm's ("timm/vit_base_patch16_224.augreg_in21k"), or a folder with config.json ("architecture",
        "pretrained_cfg", dimensions in "model_args") and one .safetensors file.
    layer: the block of a transformer or the stage of a pyramid to take: 1 is the first, -1 the last. Several are set one
        behind the other on the channels, where they have one grid.
    head: take the last one after the network's own last step before pooling: the final norm of a transformer or Swin,
        the head convolution of an EfficientNet (Lite0: 1280 channels in place of 320).
    class_token: "keep" leaves class, distillation and register tokens in front of the grid, "drop" takes them away.
    pooled: give one feature instead, as the network's classifier would read it; the options above then play no part.
    image_size, resize, trim: as in `clip`. The classifier is never built.

    Batch norm must not move: keep a frozen encoder in eval mode (its statistics are buffers, which no optimiser holds back).
    """

    modality: Modality = "image"
    tiny: ClassVar[Mapping[str, object]] = {"image_size": None}

    def __init__(
        self,
        weights: Weights,
        *,
        layer: int | list[int] = -1,
        head: bool = False,
        class_token: ClassToken = "drop",
        pooled: bool = False,
        image_size: int | None = None,
        resize: Resize | None = None,
        trim: bool = True,
    ) -> None:
        import timm

        super().__init__()
        name, cfg, change = _described(weights)
        recipe = _recipe(cfg, name)
        size = image_size or recipe.size
        file = _file(weights) if weights.load and not weights.tiny else None
        if weights.tiny:
            name, change, size = shrunk(name)
        trunk: Any = timm.create_model(name, pretrained=False, num_classes=0, **change).eval()
        if file:
            fill(trunk, file, ignored=_classifier(cfg))
        self.transform = recipe.at(size, resize)
        set_size(trunk, size)
        self.depth = len(trunk.feature_info)
        self.taps = taps(layer, self.depth, weights.tiny, first=1)
        self.last = self.depth if head else None
        self.pooled, self.dropped = pooled, class_token == "drop"
        self.prefix: int = getattr(trunk, "num_prefix_tokens", 0)
        if trim and not pooled:
            trim_trunk(trunk, self.taps, self.last)
        self.trunk = trunk
        self.shape = measured(self, self.transform.size, 0 if self.dropped else self.prefix, pooled)

    def forward(self, units: Float[Tensor, "U 3 H W"]) -> Float[Tensor, "U L C"]:
        """Features of each unit."""
        if self.pooled:
            pooled: Tensor = self.trunk.forward_head(self.trunk.forward_features(units), pre_logits=True)
            return pooled.unsqueeze(1)
        return joined(tapped(self.trunk, units, self.taps, self.last), self.prefix, self.dropped)


def _described(weights: Weights) -> tuple[str, dict[str, Any], Mapping[str, Any]]:
    """The name of the network, how it was trained, and the dimensions that differ from the name's."""
    import timm

    if _of_timm(weights):
        name = weights.name.removeprefix("timm/")
        base = architecture(name.partition(".")[0])
        try:
            return base, timm.get_pretrained_cfg(name).to_dict(), {}
        except RuntimeError as e:
            raise InputError(
                f"timm has no weights named {name!r}; known are {', '.join(timm.list_pretrained(f'{base}.*'))}"
            ) from e
    raw = weights.config()
    args, cfg = raw.get("model_args", {}), raw.get("pretrained_cfg", {})
    if not (isinstance(raw.get("architecture"), str) and isinstance(args, dict) and isinstance(cfg, dict)):
        raise InputError(f'{weights.name}: expected the config.json of a timm network, with "architecture" in it')
    if unknown := set(args) - _DIMENSIONS:
        raise InputError(
            f"{weights.name}: config.json has {sorted(unknown)} in model_args; expected some of {sorted(_DIMENSIONS)}"
        )
    name = architecture(raw["architecture"])
    return name, timm.get_pretrained_cfg(name).to_dict() | cfg, args


def _of_timm(weights: Weights) -> bool:
    """Whether the name is one of timm's own, whose shape is known without a file."""
    elsewhere = weights.local or weights.name.startswith(PACKAGE)
    return not elsewhere and (weights.name.startswith("timm/") or "/" not in weights.name)


def _file(weights: Weights) -> Path:
    """The file of the tensors, fetched where need be: timm's own stand on the hub under "timm/"."""
    hub = f"timm/{weights.name.removeprefix('timm/')}" if _of_timm(weights) else weights.name
    return tensors_of(replace(weights, name=hub).folder(), ["model.safetensors"])


def _classifier(cfg: dict[str, Any]) -> list[str]:
    """What the tensors of the classifier begin with, by what timm says of the network."""
    names = cfg.get("classifier") or ()
    return [f"{n}." for n in ([names] if isinstance(names, str) else names)]


def _recipe(cfg: dict[str, Any], name: str) -> Pixels:
    """How pictures were prepared in training: timm's evaluation pipeline."""
    from timm.data import resolve_data_config

    said = resolve_data_config({}, pretrained_cfg=cfg)
    size, mode = said["input_size"][-1], said["crop_mode"]
    if mode not in ("center", "squash") or said["interpolation"] not in FILTERS:
        raise InputError(
            f"{name}: pictures are prepared by {mode!r} with {said['interpolation']!r}, which is not known here"
        )
    way: Resize = "crop" if mode == "center" else "squash"
    short = floor(size / said["crop_pct"])
    return Pixels(size, short, tuple(said["mean"]), tuple(said["std"]), FILTERS[said["interpolation"]], way, even=True)
