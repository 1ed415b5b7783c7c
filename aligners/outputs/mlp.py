"""The MLP output aligner: each state becomes one vector of the condition by an MLP (CoDi-2, Tang et al. 2023)."""

from mmlm.blocks.mlp import Activation
from mmlm.interfaces import ConditionShape, FeatureShape

from ..mlp import Mlp as Layers
from .plain import Each, enough


class Mlp(Each):
    """c_k = W_depth f(... f(W_1 s_k)) for the first K of the Q states, K being the decoder's; for the last K of a run of any length."""

    def __init__(
        self,
        width: int,
        length: int,
        condition: ConditionShape,
        *,
        depth: int = 2,
        activation: Activation = "gelu",
        inner_norm: bool = False,
    ) -> None:
        """
        depth: linear layers.
        activation: f, between them.
        inner_norm: a LayerNorm behind each f (CoDi-2).

        Raises InputError where every run has Q < K.
        """
        enough("mlp", length, condition)
        shape = FeatureShape(condition.length, width)
        layers = Layers(shape, condition.width, depth=depth, activation=activation, inner_norm=inner_norm)
        super().__init__(layers, width, length, condition)
