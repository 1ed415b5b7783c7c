"""What the model knows of an LLM: its widths, its embedding, how it thinks, and how it speaks token by token."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from mmlm.batch import Batch, Memory
from mmlm.errors import InputError
from mmlm.interfaces import Graft


class Session(ABC):
    """A reply under way: `states` are the hidden vectors that the next token is read from."""

    states: Float[Tensor, "B D"]

    @abstractmethod
    def advance(self, ids: Int[Tensor, " B"]) -> None:
        """Take one more token per row and think one step further."""


class Backbone(nn.Module, ABC):
    """A language model of transformers, with its grafts.

    `width` is D, `rows` the rows of its embedding, `layers` its decoder layers; `heads`, `intermediate` and `norm_eps` are
    what grafts that imitate its layers ask for.
    """

    tiny: ClassVar[Mapping[str, object]] = {}
    llm: nn.Module
    grafts: nn.ModuleDict

    def __init__(self, llm: nn.Module) -> None:
        super().__init__()
        self.llm = llm
        self.grafts = nn.ModuleDict()
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
        """Rows of the embedding: every id below it can be embedded."""
        return int(self.embeddings.num_embeddings)

    def grow(self, size: int) -> None:
        """Make room for ids up to `size`; new rows start as the mean of the old ones. Never shrinks."""
        if size <= (old := self.rows):
            return
        self.llm.resize_token_embeddings(size, mean_resizing=False)  # type: ignore[operator]
        with torch.no_grad():
            for table in {id(w): w for w in (self.embeddings.weight, self.head.weight)}.values():
                table[old:] = table[:old].mean(0)

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
        return self.embeddings(ids)  # type: ignore[no-any-return]

    def logits(self, states: Float[Tensor, "... D"]) -> Float[Tensor, "... V"]:
        """What may come next, in fp32."""
        logits = self.head(states * self.logit_scale).float()
        if self.softcap:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits  # type: ignore[no-any-return]

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

    @abstractmethod
    def start(self, x: Float[Tensor, "B T D"], batch: Batch, memory: Memory | None) -> Session:
        """Think over a batch of prompts (one sample per row, padded on the left) and be ready to say the first token."""
