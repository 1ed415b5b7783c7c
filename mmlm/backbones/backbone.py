"""What the model knows of an LLM: its widths, its embedding, how it thinks, and how it speaks token by token."""

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from mmlm.backbones.rows import AddedRows
from mmlm.batch import Batch, Memory
from mmlm.blocks.loss import linear_cross_entropy
from mmlm.errors import InputError
from mmlm.interfaces import Graft

LAST = -1  # the layer whose states the head reads: the last one, with the final norm


class Session(ABC):
    """A reply under way: `states` are the hidden vectors that the next token is read from."""

    states: Float[Tensor, "B D"]

    @abstractmethod
    def advance(self, ids: Int[Tensor, " B"], x: Float[Tensor, "B D"] | None = None) -> None:
        """Take one more token per row and think one step further; `x` stands in for the embedding of the ids."""


class Backbone(nn.Module, ABC):
    """A language model of transformers, with its grafts, and with the rows of ids that it has none for.

    `width` is D, `rows` the ids that it embeds and says, `layers` its decoder layers; `heads`, `intermediate` and `norm_eps`
    are what grafts that imitate its layers ask for. `added` is None where the LLM's own tables hold every id.
    """

    tiny: ClassVar[Mapping[str, object]] = {}
    llm: nn.Module
    grafts: nn.ModuleDict
    added: AddedRows | None

    def __init__(self, llm: nn.Module) -> None:
        super().__init__()
        self.llm = llm
        self.grafts = nn.ModuleDict()
        self.register_module("added", None)
        self._recomputes = False
        config: Any = llm.config
        self.width: int = int(self.embeddings.embedding_dim)
        self.layers: int = int(config.num_hidden_layers)
        self.heads: int = int(config.num_attention_heads)
        self.intermediate: int = next(
            (int(v) for n in ("intermediate_size", "ffn_dim", "d_ff", "n_inner") if (v := getattr(config, n, None))),
            4 * self.width,
        )
        self.norm_eps: float = next(
            (
                float(v)
                for n in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon")
                if (v := getattr(config, n, None))
            ),
            1e-6,
        )

    @property
    def embeddings(self) -> nn.Embedding:
        """The input embedding."""
        return self.llm.get_input_embeddings()  # type: ignore[operator,no-any-return]

    @property
    def head(self) -> nn.Linear:
        """The output head: states to logits."""
        return self.llm.get_output_embeddings()  # type: ignore[operator,no-any-return]

    @property
    def rows(self) -> int:
        """Rows of the embedding with those that were added: every id below it can be embedded, and said."""
        held = len(self.embeddings.weight)
        return held if self.added is None else max(held, self.added.first + len(self.added))

    def add_rows(self, own: int | None, new: int) -> None:
        """Give rows to the `new` ids that follow the `own` ids of a tokenizer (None: not known, as in a plan; then they follow
        the table), and to ids of its own that the LLM's table does not reach. An LLM whose config says that it has rows
        beside its table (IDEFICS's additional_vocab_size) gets as many. Called once, before any graft."""
        held = len(self.embeddings.weight)
        beside = int(getattr(self.llm.config, "additional_vocab_size", 0))
        first = held if own is None or beside else min(own, held)
        if count := max((held if own is None else own) + new - first, beside):
            self.added = AddedRows(self.embeddings, self.head, first, count)

    def layer_list(self) -> nn.ModuleList:
        """The decoder layers, where grafts are hung. Raises InputError where they cannot be told apart."""
        found = [m for m in self.llm.modules() if isinstance(m, nn.ModuleList) and len(m) == self.layers]
        if len(found) != 1:
            raise InputError(
                f"{type(self.llm).__name__} has {len(found)} lists of {self.layers} modules; grafts need exactly one list "
                f"of decoder layers, so this LLM takes none"
            )
        return found[0]

    def add_graft(self, name: str, graft: Graft) -> None:
        """Hang `graft` into the layers and keep its parameters under grafts.<name>."""
        self.grafts[name] = graft
        graft.attach(self)

    def remember(self, memory: Memory | None) -> None:
        """Hand the memory of the coming forward to the grafts that read it."""
        readers = [g for g in self.grafts.values() if isinstance(g, Graft) and g.reads_memory]
        if memory is not None and not readers:
            raise InputError("a stream feeds memory, but no graft of this backbone reads it; add gated_cross_attention")
        for graft in readers:
            graft.remember(memory)

    def embed(self, ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Embed text ids."""
        x: Tensor = self.embeddings(ids) if self.added is None else self.added.embed(ids, self.embeddings)
        return x

    def logits(self, states: Float[Tensor, "*M D"]) -> Float[Tensor, "*M V"]:
        """What may come next, in fp32."""
        states = states * self.logit_scale
        logits: Tensor = self.head(states)
        if self.added is not None:
            logits = self.added.spoken(self.head.weight.dtype).join(logits, states)
        logits = logits.float()
        if self.softcap:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    def loss(self, states: Float[Tensor, "M D"], targets: Int[Tensor, " M"]) -> Float[Tensor, ""]:
        """The sum of -log p(target) over M states, without the logits of all of them at once."""
        head, added = self.head, self.added
        return linear_cross_entropy(
            states,
            head.weight,
            targets,
            bias=head.bias,
            softcap=self.softcap,
            scale=self.logit_scale,
            added=None if added is None else added.spoken(head.weight.dtype),
        )

    @property
    def softcap(self) -> float | None:
        """Gemma 2's cap on the logits, tanh(x / cap) * cap."""
        return getattr(self.llm.config, "final_logit_softcapping", None)

    @property
    def logit_scale(self) -> float:
        """A constant that the LLM multiplies its logits with."""
        config: Any = self.llm.config
        if divisor := getattr(config, "logits_scaling", None):
            return 1.0 / float(divisor)
        return float(getattr(config, "logit_scale", None) or 1.0)

    def recompute(self, on: bool) -> None:
        """Whether the backward pass computes the layers' activations again instead of keeping them."""
        llm: Any = self.llm
        kind = "activation" if hasattr(llm, "activation_checkpointing_enable") else "gradient"  # the older name
        if on:
            getattr(llm, f"{kind}_checkpointing_enable")({"use_reentrant": False})
        elif self._recomputes:
            getattr(llm, f"{kind}_checkpointing_disable")()
        self._recomputes = on

    def wake_layers(self) -> None:
        """Layers recompute only in training mode. Where the LLM is frozen, and so in evaluation mode, this puts the layers
        that recompute back into training mode, and nothing inside them: no dropout is switched on."""
        for module in self.llm.modules():
            if isinstance(module, GradientCheckpointingLayer) and module.gradient_checkpointing:
                module.training = True

    @abstractmethod
    def read(self, x: Float[Tensor, "B T D"], batch: Batch) -> tuple[Float[Tensor, "M D"], Int[Tensor, " M"]]:
        """The states that the supervised tokens are read from, and those tokens, in reading order."""

    def look(
        self, x: Float[Tensor, "B T D"], batch: Batch, layers: Collection[int]
    ) -> tuple[Float[Tensor, "M D"], Int[Tensor, " M"], dict[int, Float[Tensor, "B T D"]]]:
        """As `read`, and all states of some layers, for output streams: -1 is what the head reads, k what leaves layer k."""
        raise InputError(f"{type(self).__name__} takes no output streams; use a causal backbone")

    def peek(
        self, x: Float[Tensor, "B T D"], batch: Batch, layers: Collection[int]
    ) -> dict[int, Float[Tensor, "B T D"]]:
        """All states of some layers, as of `look`, and no thought about those above them: for an LLM that learns nothing."""
        return self.look(x, batch, layers)[2]

    @abstractmethod
    def start(self, x: Float[Tensor, "B T D"], batch: Batch, memory: Memory | None) -> Session:
        """Think over a batch of prompts (one sample per row, padded on the left) and be ready to say the first token."""
