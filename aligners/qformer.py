"""The Q-Former: learned queries read the features through a BERT (BLIP-2, Li et al. 2023), which may also be told the
instruction (InstructBLIP, Dai et al. 2023)."""

from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmlm.blocks.masks import Segments
from mmlm.blocks.mlp import MLP
from mmlm.blocks.multihead import MultiHead
from mmlm.blocks.norms import norm
from mmlm.blocks.ragged import places
from mmlm.errors import InputError
from mmlm.interfaces import Features, FeatureShape, InputAligner
from mmlm.weights import Weights

from . import bert

EPS = 1e-12  # of BERT's norms
POSITIONS = 512


class Block(nn.Module):
    """A layer of BERT for queries, with text after them where there is any. Norms stand after the sums.

    Queries and text attend to each other; only queries read the features (where the block has `cross`), and each kind has
    a feed-forward part of its own.
    """

    def __init__(self, width: int, heads: int, memory: int | None, text: bool, dropout: float) -> None:
        super().__init__()
        head_width = width // heads
        self.attention = MultiHead(width, heads=heads, head_width=head_width, bias=True, dropout=dropout)
        self.attention_norm = norm("layer", width, EPS)
        self.cross = None
        if memory is not None:
            self.cross = MultiHead(width, memory, heads=heads, head_width=head_width, bias=True, dropout=dropout)
            self.cross_norm = norm("layer", width, EPS)
        self.ffn, self.ffn_norm = MLP(width, 4 * width), norm("layer", width, EPS)
        if text:
            self.text_ffn, self.text_norm = MLP(width, 4 * width), norm("layer", width, EPS)
        self.drop = nn.Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "U X W"], memory: Float[Tensor, "U L C"], queries: int, mask: Segments | None
    ) -> Float[Tensor, "U X W"]:
        x = self.attention_norm(x + self.drop(self.attention(x, x, mask)))
        query, text = x[:, :queries], x[:, queries:]
        if self.cross is not None:
            query = self.cross_norm(query + self.drop(self.cross(query, memory)))
        query = self.ffn_norm(query + self.drop(self.ffn(query)))
        if not text.shape[1]:
            return query  # type: ignore[no-any-return]
        return torch.cat([query, self.text_norm(text + self.drop(self.text_ffn(text)))], dim=1)


class QFormer(InputAligner):
    """Learned queries that read the features of a unit through a BERT, and one linear layer to the LLM's width.

    `weights` names a BERT to start from: its attention, and its feed-forward parts for text and queries alike; what reads
    the features starts at random. BLIP-2: the defaults. InstructBLIP: instruction=True.
    """

    tiny: ClassVar[dict[str, object]] = {"queries": 4, "layers": 3, "heads": 2, "hidden": 16, "dropout": 0.0}

    def __init__(
        self,
        shape: FeatureShape,
        width: int,
        weights: Weights | None = None,
        *,
        queries: int = 32,
        every: int = 2,
        layers: int = 12,
        heads: int = 12,
        hidden: int = 768,
        instruction: bool = False,
        norm_features: bool = True,
        dropout: float = 0.1,
    ) -> None:
        """
        queries: tokens of a unit.
        every: each so many layers, from the first on, there is one that reads the features.
        layers: layers of the BERT.
        heads: heads of its attention.
        hidden: its width.
        instruction: the BERT also reads the user's words about the item.
        norm_features: a LayerNorm on the features first (BLIP-2's ln_vision).
        dropout: on what is added in each layer and on the attention, in training only.

        Raises InputError where these contradict each other or the checkpoint.
        """
        super().__init__()
        if min(queries, every, layers, heads) < 1 or hidden % heads:
            raise InputError(
                f"aligner qformer: queries={queries}, every={every}, layers={layers}, heads={heads}, hidden={hidden}; "
                f"expected at least 1 of each, and hidden a multiple of heads"
            )
        self.width = width
        # 1e-6 as in transformers' Blip2VisionModel.post_layernorm; LAVIS has 1e-5 here.
        self.features_norm = norm("layer", shape.channels, 1e-6) if norm_features else nn.Identity()
        self.queries = nn.Parameter(torch.randn(queries, hidden) * 0.02)
        self.norm = norm("layer", hidden, EPS)
        self.drop = nn.Dropout(dropout)
        self.blocks = nn.ModuleList(
            Block(hidden, heads, shape.channels if i % every == 0 else None, instruction, dropout)
            for i in range(layers)
        )
        borrowed = None if weights is None or weights.tiny else weights
        self.words: nn.Embedding | None = None
        if instruction:
            # One row more than BERT has: LAVIS adds [DEC], the start of a caption, and its checkpoints hold it.
            rows = bert.Letters.size if borrowed is None else int(borrowed.config()["vocab_size"]) + 1
            self.words, self.places = nn.Embedding(rows, hidden, padding_idx=0), nn.Embedding(POSITIONS, hidden)
            self.tokenize = bert.Letters() if borrowed is None else bert.Words(borrowed)
        self.apply(bert.initialise)
        self.project = nn.Linear(hidden, width)
        if borrowed is not None:
            bert.check(borrowed, layers, hidden, heads)
            if borrowed.load:
                self._start_from(borrowed)

    def tokens(self, units: int) -> int:
        return units * len(self.queries)

    def forward(self, features: Features) -> Float[Tensor, "S D"]:
        """Raises InputError where the aligner reads instructions and none are given."""
        memory = self.features_norm(features.values)
        x, mask = self.queries.expand(len(memory), -1, -1), None
        if self.words is not None:
            ids = self._instructions(features)
            text = self.words(ids) + self.places.weight[: ids.shape[1]]
            x = torch.cat([x, text], dim=1)
            keys = torch.cat([ids.new_ones(len(ids), len(self.queries)), (ids != 0).long()], dim=1)
            mask = Segments(keys, keys)
        x = self.drop(self.norm(x))
        for block in self.blocks:
            x = block(x, memory, len(self.queries), mask)
        return self.project(x[:, : len(self.queries)]).flatten(0, 1)  # type: ignore[no-any-return]

    def _instructions(self, features: Features) -> Int[Tensor, "U I"]:
        """The ids for each unit: those of its item."""
        ids = features.instruction
        if ids is None or len(ids) != len(features.counts) or ids.shape[1] > POSITIONS:
            came = "none" if ids is None else f"{tuple(ids.shape)} ids"
            raise InputError(
                f"aligner qformer: instruction=true reads one instruction of at most {POSITIONS} ids for each of "
                f"{len(features.counts)} items; came: {came}"
            )
        return ids[places(features.counts, ids.device)[0]]

    def _start_from(self, weights: Weights) -> None:
        """Take over what a BERT has of this. Every tensor that should be there must be."""
        found = bert.read(weights)
        with torch.no_grad():
            for name, own in self.state_dict(keep_vars=True).items():
                if name == "queries" or name.startswith(("features_norm.", "project.")) or ".cross" in name:
                    continue
                source = name.replace(".ffn.", ".text_ffn.").replace(".ffn_norm.", ".text_norm.")
                value = found.get(source)
                rows = len(own) - 1 if name == "words.weight" else len(own)
                if value is None or value.shape != own[:rows].shape:
                    came = "is missing" if value is None else f"is {tuple(value.shape)}"
                    raise InputError(
                        f"aligner qformer: in weights {weights.name!r} the tensor for {name} {came}; expected "
                        f"{tuple(own[:rows].shape)}"
                    )
                own[:rows] = value
