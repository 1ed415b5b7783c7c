"""The room of BLIP-2's vision tower (Li et al. 2023, arXiv 2301.12597): EVA-CLIP's ViT-g as transformers has it."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmlm.interfaces import Encoder
from mmlm.sample import Modality
from mmlm.weights import Weights

from .clip import FAMILY
from .pixels import Resize, published
from .towers import ClassToken, interpolated, normed, patches, run, shape_of, taps


class Blip2Encoder(Encoder):
    """Patch features of the vision tower of a BLIP-2 or InstructBLIP: `Float [U, 3, H, H]` -> `Float [U, L, C]`.

    `weights` is a checkpoint of transformers, whole or the tower alone. Its `post_layernorm` is the norm that stands between
    tower and Q-Former; here it is the Q-Former's (`norm_features`), so that `final_norm` is off. EVA-CLIP has no bias for
    keys; transformers stores one of zeros. The options are those of `clip`.
    """

    modality: Modality = "image"
    tiny: ClassVar[Mapping[str, object]] = {"image_size": None}

    def __init__(
        self,
        weights: Weights,
        *,
        layer: int | list[int] = -1,
        class_token: ClassToken = "keep",
        final_norm: bool = False,
        image_size: int | None = None,
        resize: Resize | None = None,
        trim: bool = True,
    ) -> None:
        from transformers import Blip2VisionModel

        super().__init__()
        model: Any = weights.transformers(Blip2VisionModel, "vision_config", names={r"^vision_model\.": ""})
        config = model.config
        recipe = published(weights, FAMILY, config.image_size)
        self.transform = recipe.at(image_size or recipe.size, resize)
        side = patches(self.transform.size, config.patch_size)
        self._resize(model, self.transform.size, side)
        self.depth, self.dropped = config.num_hidden_layers, class_token == "drop"
        self.taps = taps(layer, self.depth, weights.tiny)
        self.final_norm = final_norm and self.depth in self.taps
        if trim:
            config.num_hidden_layers = max(self.taps)
            model.encoder.layers = model.encoder.layers[: max(self.taps)]
            model.post_layernorm = model.post_layernorm if self.final_norm else nn.Identity()
        self.model = model
        channels = config.hidden_size * len(self.taps)
        self.shape = shape_of(channels, side, 1, dropped=self.dropped, pooled=False)

    @staticmethod
    def _resize(model: Any, size: int, side: int) -> None:
        old = model.embeddings.position_embedding
        values = interpolated(old.detach()[0], 1, side).unsqueeze(0)
        model.embeddings.position_embedding = nn.Parameter(values, requires_grad=old.requires_grad)
        model.embeddings.image_size = model.config.image_size = size

    def forward(self, units: Float[Tensor, "U 3 H W"]) -> Float[Tensor, "U L C"]:
        """Features of each unit."""
        states = run(self.model.embeddings(units), self.model.encoder.layers, self.taps, masked=False)
        states = normed(states, self.taps, self.depth, self.model.post_layernorm if self.final_norm else None)
        return torch.cat([s[:, 1:] for s in states] if self.dropped else states, dim=-1)
