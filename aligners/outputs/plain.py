"""The room of what output aligners have in common: an input aligner's layers on states, and the pooled vector."""

from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmlm.errors import InputError
from mmlm.interfaces import Condition, ConditionShape, Features, InputAligner, OutputAligner


def enough(name: str, length: int, condition: ConditionShape) -> None:
    """InputError where a run of signals gives fewer states than the decoder's condition has vectors."""
    if not 1 <= condition.length <= length:
        raise InputError(
            f"output aligner {name}: it makes one vector of each state, and a run gives {length or 'no fixed number of'} "
            f"states where the decoder asks for {condition.length} vectors; set `signals` (or `queries`) to "
            f"{condition.length}, or use queries, qformer or resampler"
        )


class Pooled(nn.Module):
    """The pooled vector of a condition, where the decoder asks for one: W mean(states) + b."""

    def __init__(self, width: int, condition: ConditionShape) -> None:
        super().__init__()
        self.project = nn.Linear(width, condition.pooled) if condition.pooled else None

    def forward(
        self, states: Float[Tensor, "R Q D"], seen: Bool[Tensor, "R Q"] | None = None
    ) -> Float[Tensor, "R F"] | None:
        if self.project is None:
            return None
        if seen is None:
            return self.project(states.mean(1))  # type: ignore[no-any-return]
        kept = seen[..., None].to(states.dtype)
        return self.project((states * kept).sum(1) / kept.sum(1))  # type: ignore[no-any-return]


class Each(OutputAligner):
    """An output aligner that makes one vector of each of the first K states, by the layers of an input aligner."""

    def __init__(self, layers: InputAligner, width: int, condition: ConditionShape) -> None:
        super().__init__()
        self.length = condition.length
        self.layers, self.pooled = layers, Pooled(width, condition)

    def forward(self, states: Float[Tensor, "R Q D"], seen: Bool[Tensor, "R Q"] | None = None) -> Condition:
        first = states[:, : self.length]
        values: Tensor = self.layers(Features(first, (1,) * len(first)))
        return Condition(values.unflatten(0, (len(first), self.length)), self.pooled(states, seen))
