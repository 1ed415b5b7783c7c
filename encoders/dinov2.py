"""The room of DINOv2's vision transformer (Oquab et al. 2023, arXiv 2304.07193)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmlm.interfaces import Encoder
from mmlm.sample import Modality
from mmlm.weights import Weights

from .pixels import Pixels, Resize, published
from .towers import ClassToken, interpolated, normed, patches, run, shape_of, taps

FAMILY = Pixels(224, 256, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _rename(attention: Any) -> None:
    """Give the projections of an attention the names that newer transformers have for them, so that the checkpoint of a run
    is the same with all. Where an older one computes, they stay within reach, but are no parts of it."""
    if hasattr(attention, "q_proj"):
        return
    inner, outer = attention.attention, attention.output
    for owner, old, new in (
        (inner, "query", "q_proj"),
        (inner, "key", "k_proj"),
        (inner, "value", "v_proj"),
        (outer, "dense", "o_proj"),
    ):
        projection = getattr(owner, old)
        setattr(attention, new, projection)
        delattr(owner, old)
        object.__setattr__(owner, old, projection)


class Dinov2Encoder(Encoder):
    """Patch features of a DINOv2 vision transformer: `Float [U, 3, H, H]` -> `Float [U, L, C]`.

    The published processor resizes to 256 and cuts 224, while the positions were trained for 518: they are interpolated
    once, when the tower is built. `final_norm` (on by default, as in the published features) acts only where the last
    block is taken. `pooled` gives the normed class feature. The other options are those of `clip`; `trim` also leaves out
    the mask token, which only pretraining needs.
    """

    modality: Modality = "image"
    tiny: ClassVar[Mapping[str, object]] = {"image_size": None}

    def __init__(
        self,
        weights: Weights,
        *,
        layer: int | list[int] = -1,
        class_token: ClassToken = "drop",
        final_norm: bool = True,
        pooled: bool = False,
        image_size: int | None = None,
        resize: Resize | None = None,
        trim: bool = True,
    ) -> None:
        from transformers import Dinov2Model

        super().__init__()
        model: Any = weights.transformers(Dinov2Model)
        for block in model.encoder.layer:
            _rename(block.attention)
        config = model.config
        recipe = published(weights, FAMILY, config.image_size)
        self.transform = recipe.at(image_size or recipe.size, resize)
        side = patches(self.transform.size, config.patch_size)
        self._resize(model, self.transform.size, side)
        self.depth, self.pooled, self.dropped = config.num_hidden_layers, pooled, class_token == "drop"
        self.taps = taps(layer, self.depth, weights.tiny)
        self.final_norm = final_norm and self.depth in self.taps
        if trim:
            model.embeddings.mask_token = None
        if trim and not pooled:
            config.num_hidden_layers = max(self.taps)
            model.encoder.layer = model.encoder.layer[: max(self.taps)]
            model.layernorm = model.layernorm if self.final_norm else nn.Identity()
        self.model = model
        channels = config.hidden_size * (1 if pooled else len(self.taps))
        self.shape = shape_of(channels, side, 1, dropped=self.dropped, pooled=pooled)

    @staticmethod
    def _resize(model: Any, size: int, side: int) -> None:
        embeddings = model.embeddings
        old = embeddings.position_embeddings
        values = interpolated(old.detach()[0], 1, side).unsqueeze(0)
        embeddings.position_embeddings = nn.Parameter(values, requires_grad=old.requires_grad)
        embeddings.patch_embeddings.num_patches, embeddings.patch_embeddings.image_size = side * side, (size, size)
        model.config.image_size = size

    def forward(self, units: Float[Tensor, "U 3 H W"]) -> Float[Tensor, "U L C"]:
        """Features of each unit."""
        if self.pooled:
            pooled: Tensor = self.model(units).pooler_output
            return pooled.unsqueeze(1)
        states = run(self.model.embeddings(units), self.model.encoder.layer, self.taps, masked=False)
        states = normed(states, self.taps, self.depth, self.model.layernorm if self.final_norm else None)
        return torch.cat([s[:, 1:] for s in states] if self.dropped else states, dim=-1)
