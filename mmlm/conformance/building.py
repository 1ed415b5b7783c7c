"""Part of the conformance room: building a part small, the way the assembler would."""

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from mmlm.backbones.backbone import Backbone
from mmlm.config.problems import one_of
from mmlm.errors import InputError
from mmlm.registry import component
from mmlm.weights import Weights

LLM = "HuggingFaceTB/SmolLM2-135M"
VOCABULARY = 61
# Checkpoints whose shape is known without a download, of which a part that asks for weights gets the first that fits.
_CANDIDATES = {
    "encoders": (
        "openai/clip-vit-base-patch32",
        "google/siglip-base-patch16-224",
        "facebook/dinov2-small",
        "openai/whisper-tiny",
        "timm/vit_tiny_patch16_224.augreg_in21k",
        "ViT-B-32/laion2b_s34b_b79k",
    ),
    "aligners": ("bert-base-uncased",),
    "backbones": (LLM, "google/flan-t5-small"),
    "grafts": (),
}


class _Fitting(Weights):
    """Weights that refuse to shape a module of another family: the class of a SigLIP would take a CLIP's config."""

    __slots__ = ()

    def transformers(self, cls: Any, part: str | None = None, **changes: Any) -> nn.Module:
        kind = getattr(getattr(cls, "config_class", None), "model_type", None)
        own = self.config().get("model_type")
        if kind and kind != own and not kind.startswith(f"{own}_"):
            raise InputError(f"{self.name} is a {own}, and {cls.__name__} is made of a {kind}")
        return Weights.transformers(self, cls, part, **changes)


@dataclass(frozen=True, slots=True)
class Maker:
    """Builds one class small: hands over by name what its constructor asks for, with `tiny` as its options.

    `known` is what the constructor gets beside `weights` and `encoder`; `seed` is that of its random values.
    """

    cls: type[Any]
    weights: Weights | None = None
    encoder: "Maker | None" = None

    def __call__(self, seed: int = 0, **known: Any) -> Any:
        asked = inspect.signature(self.cls.__init__).parameters
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            known |= {"weights": self.weights, "encoder": self.encoder(seed) if self.encoder else None}
            made = self.cls(**{k: v for k, v in known.items() if k in asked}, **getattr(self.cls, "tiny", {}))
        return made.eval() if isinstance(made, nn.Module) else made

    def reads(self, name: str) -> bool:
        """Whether the constructor asks for `name`."""
        return name in inspect.signature(self.cls.__init__).parameters


def maker(kind: str, cls: type[Any], weights: str | None = None) -> Maker:
    """How to build a class of a kind. A class that needs weights gets those given, or the first candidate that fits."""
    encoder = (
        maker("encoders", component("encoders", "clip")) if kind == "encoders" and _needs(cls, "encoder") else None
    )
    if weights:
        return Maker(cls, Weights(weights, load=False, tiny=True), encoder)
    if not _needs(cls, "weights"):
        return Maker(cls, None, encoder)
    for name in _CANDIDATES.get(kind, ()):
        made = Maker(cls, _Fitting(name, load=False, tiny=True), encoder)
        try:
            made(vocabulary=VOCABULARY)
        except (ValueError, KeyError, AttributeError):
            continue  # the shape of another family
        return made
    raise InputError(
        f"{cls.__qualname__} asks for weights, and the shape of none that is known here "
        f"({one_of(_CANDIDATES.get(kind, ()))}) fits; name some whose config.json is in a folder here"
    )


def _needs(cls: type[Any], name: str) -> bool:
    """Whether the constructor cannot do without `name`."""
    asked = inspect.signature(cls.__init__).parameters.get(name)
    return asked is not None and asked.default is inspect.Parameter.empty and "None" not in str(asked.annotation)


def tiny_backbone(seed: int = 0) -> Backbone:
    """A causal LLM of a few layers, for grafts to be hung into."""
    made: Backbone = Maker(component("backbones", "causal"), Weights(LLM, load=False, tiny=True))(
        seed, vocabulary=VOCABULARY
    )
    return made
