"""The room of CLIP's vision tower (Radford et al. 2021, arXiv 2103.00020), as LLaVA and its kin read it."""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmlm.interfaces import Encoder
from mmlm.sample import Modality
from mmlm.weights import Weights

from .pixels import Pixels, Resize, published
from .towers import ClassToken, normed, patches, resized, run, shape_of, taps

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FAMILY = Pixels(0, 0, MEAN, STD)


class ClipEncoder(Encoder):
    """Patch features of a CLIP vision transformer: `Float [U, 3, H, H]` -> `Float [U, L, C]`.

    layer: the hidden state to take, counted as transformers counts (-2: what leaves the last block but one, LLaVA's
        choice); of several, the channels are set one behind the other.
    class_token: "keep" leaves the class feature in front of the patches, "drop" takes it away.
    final_norm: apply `post_layernorm` to what leaves the last block, where it is taken (mPLUG-Owl).
    pooled: give one feature instead, the normed class feature of the last block; the options above then play no part.
    image_size: another resolution; position embeddings are interpolated once, when the tower is built.
    resize: how a picture becomes a square; None is the way of the published image processor.
    trim: build no block or norm that the chosen features do not need. A parameter that is trained then always gets a
        gradient; False keeps the whole tower, which is what published parameter counts count (303.5 M for CLIP-L/14-336;
        290.9 M trimmed at layer -2).
    """

    modality: Modality = "image"
    tiny: ClassVar[Mapping[str, object]] = {"image_size": None}

    def __init__(
        self,
        weights: Weights,
        *,
        layer: int | list[int] = -2,
        class_token: ClassToken = "drop",
        final_norm: bool = False,
        pooled: bool = False,
        image_size: int | None = None,
        resize: Resize | None = None,
        trim: bool = True,
    ) -> None:
        from transformers import CLIPVisionModel

        super().__init__()
        model: Any = weights.transformers(CLIPVisionModel, "vision_config")
        config = model.config
        recipe = published(weights, FAMILY, config.image_size)
        self.transform = recipe.at(image_size or recipe.size, resize)
        if self.transform.size != config.image_size:
            resized(model.embeddings, self.transform.size)
        self.depth, self.pooled, self.dropped = config.num_hidden_layers, pooled, class_token == "drop"
        self.taps = taps(layer, self.depth, weights.tiny)
        self.final_norm = final_norm and self.depth in self.taps
        if trim and not pooled:
            config.num_hidden_layers = max(self.taps)
            model.encoder.layers = model.encoder.layers[: max(self.taps)]
            model.post_layernorm = model.post_layernorm if self.final_norm else nn.Identity()
        self.model = model
        side = patches(self.transform.size, config.patch_size)
        channels = config.hidden_size * (1 if pooled else len(self.taps))
        self.shape = shape_of(channels, side, 1, dropped=self.dropped, pooled=pooled)

    def forward(self, units: Float[Tensor, "U 3 H W"]) -> Float[Tensor, "U L C"]:
        """Features of each unit."""
        if self.pooled:
            pooled: Tensor = self.model(units).pooler_output
            return pooled.unsqueeze(1)
        x = self.model.pre_layrnorm(self.model.embeddings(units))
        states = run(x, self.model.encoder.layers, self.taps)
        states = normed(states, self.taps, self.depth, self.model.post_layernorm if self.final_norm else None)
        return torch.cat([s[:, 1:] for s in states] if self.dropped else states, dim=-1)
