"""The Q-Former as output aligner: learned queries read the states of a run through a BERT (MM-Interleaved, Tian et al. 2024)."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor

from mmlm.errors import InputError
from mmlm.interfaces import Condition, ConditionShape, Features, FeatureShape, OutputAligner
from mmlm.weights import Weights

from ..qformer import QFormer as Layers
from .plain import Pooled


class QFormer(OutputAligner):
    """The Q-Former of the input side with as many queries as the decoder's condition has vectors."""

    tiny: ClassVar[dict[str, object]] = {"layers": 3, "heads": 2, "hidden": 16, "dropout": 0.0}

    def __init__(
        self,
        width: int,
        length: int,
        condition: ConditionShape,
        weights: Weights | None = None,
        *,
        every: int = 2,
        layers: int = 12,
        heads: int = 12,
        hidden: int = 768,
        dropout: float = 0.1,
    ) -> None:
        """As of the aligner `qformer`. Raises InputError where a run has no fixed number of states."""
        super().__init__()
        if length < 1:
            raise InputError(
                "output aligner qformer: it reads runs of a fixed number of states; set `read` to another than all"
            )
        self.length = condition.length
        self.layers = Layers(
            FeatureShape(length, width),
            condition.width,
            weights,
            queries=condition.length,
            every=every,
            layers=layers,
            heads=heads,
            hidden=hidden,
            dropout=dropout,
        )
        self.pooled = Pooled(width, condition)

    def forward(self, states: Float[Tensor, "R Q D"], seen: Bool[Tensor, "R Q"] | None = None) -> Condition:
        values: Tensor = self.layers(Features(states, (1,) * len(states)))
        return Condition(values.unflatten(0, (len(states), self.length)), self.pooled(states, seen))
