"""The linear output aligner: each state becomes one vector of the condition (DreamLLM, Dong et al. 2024; Emu, Sun et al. 2023)."""

from mmlm.interfaces import ConditionShape, FeatureShape

from ..linear import Linear as Layers
from .plain import Each, enough


class Linear(Each):
    """c_k = W s_k + b for the first K of the Q states, K being the decoder's; for the last K of a run of any length."""

    def __init__(self, width: int, length: int, condition: ConditionShape, *, bias: bool = True) -> None:
        """`bias`: whether there is a b. Raises InputError where every run has Q < K."""
        enough("linear", length, condition)
        layers = Layers(FeatureShape(condition.length, width), condition.width, bias=bias)
        super().__init__(layers, width, length, condition)
