"""The spatiotemporal aligner: what happens over time and what is where, each as means, and one linear layer."""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import pad

from mmlm.errors import InputError
from mmlm.interfaces import Features, FeatureShape, InputAligner


class Spatiotemporal(InputAligner):
    """Video-ChatGPT's pooling (Maaz et al. 2023, section 3.1). With x[f, l] the patch features of frame f:

        temporal tokens  t_f = mean over l of x[f, l]     zero rows after the last frame, up to `frames` of them
        spatial tokens   z_l = mean over f of x[f, l]     one for each of the L patches

    and tokens = W [t; z] + b, so every clip becomes `frames` + L tokens, temporal ones first. The zero rows go through
    W too, as they do in the authors' code. Class tokens and registers before the grid take no part in the means.
    """

    tiny: ClassVar[dict[str, object]] = {"frames": 8}

    def __init__(self, shape: FeatureShape, width: int, *, frames: int = 100) -> None:
        """`frames`: the most units an item may have. Raises InputError where it is not positive."""
        super().__init__()
        if frames < 1:
            raise InputError(f"spatiotemporal: frames is {frames}; expected at least 1")
        self.width, self.frames, self.prefix = width, frames, shape.prefix
        self.patches = shape.length - shape.prefix
        self.project = nn.Linear(shape.channels, width)

    def tokens(self, units: int) -> int:
        """`frames` + L, however many frames a clip has."""
        return self.frames + self.patches

    def forward(self, features: Features) -> Float[Tensor, "S D"]:
        """Raises InputError for a clip of more than `frames` frames."""
        if (longest := max(features.counts)) > self.frames:
            raise InputError(
                f"spatiotemporal: a clip of {longest} frames came, expected at most {self.frames}; give the encoder "
                f"and this aligner the same `frames`"
            )
        pooled = []
        for clip in features.values[:, self.prefix :].split(features.counts):
            temporal, spatial = clip.mean(1), clip.mean(0)
            pooled += [pad(temporal, (0, 0, 0, self.frames - len(temporal))), spatial]
        return self.project(torch.cat(pooled))  # type: ignore[no-any-return]
