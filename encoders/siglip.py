"""The room of SigLIP's vision tower (Zhai et al. 2023, arXiv 2303.15343; SigLIP 2: Tschannen et al. 2025, 2502.14786)."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmlm.errors import InputError
from mmlm.interfaces import Encoder
from mmlm.sample import Modality
from mmlm.weights import Weights

from .pixels import Pixels, Resize, published
from .towers import ClassToken, normed, patches, resized, run, shape_of, taps

FAMILY = Pixels(0, 0, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), resize="squash")


class SiglipEncoder(Encoder):
    """Patch features of a SigLIP vision transformer: `Float [U, 3, H, H]` -> `Float [U, L, C]`.

    There is no class token: `class_token` stands here so that one config can exchange CLIP for SigLIP, and never takes a
    patch away. `final_norm` (on by default, as in the published features) acts only where the last block is taken.
    `pooled` gives the one feature of the attention-pooling head. The other options are those of `clip`. The whole tower
    of so400m-patch14-384 has 428.2 M parameters, 413.0 M without the head that `trim` leaves out.
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
        from transformers import SiglipVisionModel

        super().__init__()
        del class_token  # nothing to keep, nothing to drop
        model: Any = weights.transformers(SiglipVisionModel, "vision_config")
        config = model.config
        if pooled and not model.use_head:
            raise InputError(f"pooled: the SigLIP tower of {weights.name} has no pooling head")
        recipe = published(weights, FAMILY, config.image_size)
        self.transform = recipe.at(image_size or recipe.size, resize)
        if self.transform.size != config.image_size:
            resized(model.embeddings, self.transform.size)
        self.depth, self.pooled = config.num_hidden_layers, pooled
        self.taps = taps(layer, self.depth, weights.tiny)
        self.final_norm = final_norm and self.depth in self.taps
        if trim and not pooled:
            config.num_hidden_layers = max(self.taps)
            model.encoder.layers = model.encoder.layers[: max(self.taps)]
            model.post_layernorm = model.post_layernorm if self.final_norm else nn.Identity()
            model.head, model.use_head, config.vision_use_head = nn.Identity(), False, False
        self.model = model
        side = patches(self.transform.size, config.patch_size)
        channels = config.hidden_size * (1 if pooled else len(self.taps))
        self.shape = shape_of(channels, side, 0, dropped=False, pooled=pooled)

    def forward(self, units: Float[Tensor, "U 3 H W"]) -> Float[Tensor, "U L C"]:
        """Features of each unit."""
        if self.pooled:
            pooled: Tensor = self.model(units).pooler_output
            return pooled.unsqueeze(1)
        states = run(self.model.embeddings(units), self.model.encoder.layers, self.taps)
        states = normed(states, self.taps, self.depth, self.model.post_layernorm if self.final_norm else None)
        return torch.cat(states, dim=-1)
