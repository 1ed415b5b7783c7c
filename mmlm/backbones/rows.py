"""Rows of the vocabulary that an LLM does not have: learned beside its own tables, which stay as they are."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmlm.blocks.loss import Rows


class AddedRows(nn.Module):
    """Embedding and head of the ids `first`, `first` + 1 ...: N rows that stand behind the LLM's tables or, where those
    have spare rows there, in their place (the decoupled vocabulary of IDEFICS, Laurençon et al. 2023).

    `embedding` is [N, D]; `head` is [N, D] where the LLM's head is a table of its own, and None where it is tied to the
    embedding; `bias` is [N] where the head has one. New rows start as the mean of the LLM's rows below `first`.
    """

    head: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(self, embeddings: nn.Embedding, head: nn.Linear, first: int, count: int) -> None:
        """For `count` ids from `first` on, beside these two tables of an LLM."""
        super().__init__()

        def mean(table: Tensor) -> nn.Parameter:
            return nn.Parameter(table[:first].detach().float().mean(0).repeat(count, *[1] * (table.ndim - 1)))

        self.first, self.held = first, len(embeddings.weight)
        self.embedding = mean(embeddings.weight)
        self.register_parameter("head", None if head.weight is embeddings.weight else mean(head.weight))
        self.register_parameter("bias", None if head.bias is None else mean(head.bias))
        # Gemma multiplies in its embedding; it keeps the factor as a number, beside a tensor that a plan has no value of.
        factor = getattr(embeddings, "scalar_embed_scale", getattr(embeddings, "embed_scale", 1.0))
        self.factor = float(factor)

    def __len__(self) -> int:
        return len(self.embedding)

    def embed(self, ids: Int[Tensor, "B T"], llm: nn.Module) -> Float[Tensor, "B T D"]:
        """Embed added ids by these rows, and all others by the embedding of the LLM. A batch without added ids gives the rows
        a gradient of zeros."""
        x: Tensor = llm(ids.clamp(max=self.held - 1))
        place = ids - self.first
        rows = F.embedding(place.clamp(0, len(self) - 1), self.embedding).to(x.dtype)
        if self.factor != 1.0:
            rows = rows * torch.tensor(self.factor, dtype=x.dtype)  # rounded like the LLM's own
        mine = (place >= 0) & (place < len(self))
        return torch.where(mine[..., None], rows, x)

    def spoken(self, dtype: torch.dtype) -> Rows:
        """The head's rows for added ids, in the dtype of the LLM's head."""
        weight = self.embedding if self.head is None else self.head
        return Rows(self.first, weight.to(dtype), None if self.bias is None else self.bias.to(dtype))
