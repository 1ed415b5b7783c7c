"""The linear aligner: each feature becomes one token by one linear map (LLaVA, Liu et al. 2023; Frozen, Tsimpoukelli et al.
2021)."""

from jaxtyping import Float
from torch import Tensor, nn

from mmlm.interfaces import Features, FeatureShape, InputAligner


class Linear(InputAligner):
    """Each feature becomes one token: W feature + b."""

    def __init__(self, shape: FeatureShape, width: int, *, bias: bool = True) -> None:
        """`bias`: whether there is a b."""
        super().__init__()
        self.width, self.length = width, shape.length
        self.project = nn.Linear(shape.channels, width, bias=bias)

    def tokens(self, units: int) -> int:
        return units * self.length

    def forward(self, features: Features) -> Float[Tensor, "S D"]:
        return self.project(features.values).flatten(0, 1)  # type: ignore[no-any-return]
