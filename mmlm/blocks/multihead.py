"""Attention with its projections: what Q-Formers, resamplers and cross-attention blocks share."""

from jaxtyping import Float
from torch import Tensor, nn

from mmlm.blocks.attention import Mask, attention
from mmlm.blocks.norms import Norm, norm


class MultiHead(nn.Module):
    """x of `width` looks at memory of `memory` (its own width where that is not given) through `heads` of `head_width`.

    `qk_norm` normalises queries and keys head by head before they meet. `dropout` acts on the attention in training.
    """

    def __init__(
        self,
        width: int,
        memory: int | None = None,
        *,
        heads: int,
        head_width: int,
        bias: bool = False,
        qk_norm: Norm | None = None,
        eps: float = 1e-5,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.heads, self.dropout = heads, dropout
        inner, memory = heads * head_width, memory or width
        self.q = nn.Linear(width, inner, bias=bias)
        self.k = nn.Linear(memory, inner, bias=bias)
        self.v = nn.Linear(memory, inner, bias=bias)
        self.o = nn.Linear(inner, width, bias=bias)
        self.q_norm, self.k_norm = (norm(qk_norm, head_width, eps) if qk_norm else nn.Identity() for _ in "qk")

    def forward(
        self, x: Float[Tensor, "B T W"], memory: Float[Tensor, "B S C"], mask: Mask | None = None
    ) -> Float[Tensor, "B T W"]:
        q, k, v = (
            f(y).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for f, y in ((self.q, x), (self.k, memory), (self.v, memory))
        )
        out = attention(self.q_norm(q), self.k_norm(k), v, mask=mask, dropout=self.dropout if self.training else 0.0)
        return self.o(out.transpose(1, 2).flatten(2))  # type: ignore[no-any-return]
