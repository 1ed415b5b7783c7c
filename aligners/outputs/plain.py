"""The room of what output aligners have in common: an input aligner's layers on states, and the pooled vector."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mmlm.errors import InputError
from mmlm.interfaces import Condition, ConditionShape, Features, InputAligner, OutputAligner


def enough(name: str, length: int, condition: ConditionShape) -> None:
    """InputError where every run gives fewer states than the decoder's condition has vectors; `length` is 0 for runs of any
    number of states."""
    if length and not 1 <= condition.length <= length:
        raise InputError(
            f"output aligner {name}: it makes one vector of each state, and a run gives {length} states where the decoder asks "
            f"for {condition.length} vectors; set `signals` (or `queries`) to {condition.length}, or use queries, qformer or "
            f"resampler"
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
    """An output aligner that makes one vector of each state, by the layers of an input aligner: of the first K of a run of
    `length` states. Of a run of any length (0) they are the last K, so that a state has its place by how far it is from the
    signal; a shorter run has zeros before its vectors."""

    def __init__(self, layers: InputAligner, width: int, length: int, condition: ConditionShape) -> None:
        super().__init__()
        self.length, self.most = condition.length, 0 if length else condition.length
        self.layers, self.pooled = layers, Pooled(width, condition)

    def forward(self, states: Float[Tensor, "R Q D"], seen: Bool[Tensor, "R Q"] | None = None) -> Condition:
        pooled = self.pooled(states, seen)
        if not self.most:
            return Condition(self._vectors(states[:, : self.length]), pooled)
        rows, most, _ = states.shape
        ends = states.new_full((rows,), most, dtype=torch.long) if seen is None else seen.sum(1)
        at = ends[:, None] + torch.arange(-self.length, 0, device=ends.device)
        last = states.take_along_dim(at.clamp(min=0)[..., None], 1)
        return Condition(self._vectors(last) * (at >= 0)[..., None], pooled)

    def _vectors(self, states: Float[Tensor, "R K D"]) -> Float[Tensor, "R K E"]:
        values: Tensor = self.layers(Features(states, (1,) * len(states)))
        return values.unflatten(0, (len(states), self.length))  # type: ignore[no-any-return]
