"""The resampling output aligner: latents look at the states (Kosmos-G's aligner reads so, Pan et al. 2024)."""

from typing import ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmlm.interfaces import Condition, ConditionShape, Features, FeatureShape, OutputAligner

from ..resampler import Resampler as Layers
from .plain import Pooled


class Resampler(OutputAligner):
    """The Perceiver resampler of the input side with as many latents as the decoder's condition has vectors."""

    tiny: ClassVar[dict[str, object]] = {"hidden": 16, "depth": 2, "heads": 2, "head_width": 8}

    def __init__(
        self,
        width: int,
        length: int,
        condition: ConditionShape,
        *,
        hidden: int = 512,
        depth: int = 6,
        heads: int = 8,
        head_width: int = 64,
    ) -> None:
        """hidden: width of the latents, to which the states are brought first; depth: blocks; heads, head_width: of their
        attention."""
        super().__init__()
        self.length = condition.length
        # Each state is a unit of one feature, so that runs of any number of states can be read.
        self.layers = Layers(
            FeatureShape(1, hidden),
            condition.width,
            latents=condition.length,
            depth=depth,
            heads=heads,
            head_width=head_width,
        )
        self.project = nn.Linear(width, hidden)
        self.pooled = Pooled(width, condition)

    def forward(self, states: Float[Tensor, "R Q D"], seen: Bool[Tensor, "R Q"] | None = None) -> Condition:
        units = states.flatten(0, 1) if seen is None else states[seen]
        counts = (states.shape[1],) * len(states) if seen is None else tuple(seen.sum(1).tolist())
        values: Tensor = self.layers(Features(self.project(units)[:, None], counts))
        return Condition(values.unflatten(0, (len(states), self.length)), self.pooled(states, seen))
