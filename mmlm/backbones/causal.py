"""The causal backbone: any decoder-only LLM of transformers."""

import inspect
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, DynamicCache

from mmlm.backbones.backbone import LAST, Backbone, Session
from mmlm.batch import IGNORE, Batch, Memory
from mmlm.blocks import hf
from mmlm.errors import InputError, missing_extra
from mmlm.weights import Weights


class Causal(Backbone):
    """Any causal LM of transformers (Llama, Qwen, Mistral, OPT, MPT ...).

    Attention runs through the project's own entry where the LLM calls transformers' attention interface; the others get a
    dense mask. Either way a row may hold several samples and none sees another.
    """

    def __init__(
        self,
        weights: Weights,
        vocabulary: int | None,
        *,
        quantize: Literal["none", "nf4", "int8"] = "none",
        dtype: Literal["fp32", "bf16"] = "fp32",
    ) -> None:
        """`vocabulary`: ids of the tokenizer without added ones (None: not known, as in a plan). `quantize` stores the frozen LLM in 4 or 8
        bits (bitsandbytes, CUDA only: the base of QLoRA, Dettmers et al. 2023); `dtype` is how its weights are stored."""
        changes: dict[str, Any] = {"vocab_size": vocabulary} if weights.tiny and vocabulary else {}
        if quantize != "none" and weights.load and not weights.tiny:
            changes["quantization_config"] = _quantized(quantize)
        super().__init__(weights.transformers(AutoModelForCausalLM, **changes))
        if dtype == "bf16" and quantize == "none":
            self.llm.to(torch.bfloat16)
        self._interface = hf.adopt(self.llm)
        body: Any = self.llm.base_model
        self._takes_positions = "position_ids" in inspect.signature(body.forward).parameters

    def think(
        self,
        x: Float[Tensor, "B T D"],
        keys: Int[Tensor, "B K"],
        positions: Int[Tensor, "B T"],
        cache: DynamicCache | None = None,
    ) -> Float[Tensor, "B T D"]:
        """States of the last T of K positions; `keys` says which sample each position belongs to (0 = padding)."""
        places = {"position_ids": positions} if self._takes_positions else {}
        body: Any = self.llm.base_model
        x = x.to(body.dtype) if not torch.is_autocast_enabled(x.device.type) else x
        mask = hf.carrier(keys) if self._interface else hf.dense_mask(keys, x.shape[1], x.dtype)
        out = body(inputs_embeds=x, attention_mask=mask, past_key_values=cache, use_cache=cache is not None, **places)
        return out.last_hidden_state  # type: ignore[no-any-return]

    def read(self, x: Float[Tensor, "B T D"], batch: Batch) -> tuple[Float[Tensor, "M D"], Int[Tensor, " M"]]:
        """States one position before each supervised token, and those tokens."""
        return _taught(self.think(x, batch.segments, batch.positions), batch)

    def look(
        self, x: Float[Tensor, "B T D"], batch: Batch, layers: Collection[int]
    ) -> tuple[Float[Tensor, "M D"], Int[Tensor, " M"], dict[int, Float[Tensor, "B T D"]]]:
        with self.watch(layers) as seen:
            states = self.think(x, batch.segments, batch.positions)
        return *_taught(states, batch), {**seen, LAST: states}

    def peek(
        self, x: Float[Tensor, "B T D"], batch: Batch, layers: Collection[int]
    ) -> dict[int, Float[Tensor, "B T D"]]:
        if LAST in layers:
            return self.look(x, batch, layers)[2]
        with self.watch(layers) as seen, suppress(_Seen), ExitStack() as stack:
            last = self.layer_list()[max(layers) - 1]
            stack.callback(last.register_forward_hook(_stop).remove)  # runs behind the one that keeps
            self.think(x, batch.segments, batch.positions)
        return seen

    @contextmanager
    def watch(self, layers: Collection[int]) -> Iterator[dict[int, Tensor]]:
        """What leaves some layers, `[B, T, D]`, counted from 1, in the forward that is made meanwhile. Raises InputError for a layer that
        there is not."""
        seen: dict[int, Tensor] = {}
        with ExitStack() as stack:
            for layer in set(layers) - {LAST}:
                if not 1 <= layer <= self.layers:
                    raise InputError(
                        f"layer {layer} of the LLM: expected 1 to {self.layers}, or -1 for what its head reads"
                    )

                def keep(module: nn.Module, given: Any, out: Any, layer: int = layer) -> None:
                    seen[layer] = out[0] if isinstance(out, tuple) else out

                stack.callback(self.layer_list()[layer - 1].register_forward_hook(keep).remove)
            yield seen

    def start(self, x: Float[Tensor, "B T D"], batch: Batch, memory: Memory | None) -> Session:
        return _CausalSession(self, x, batch, memory)


class _Seen(Exception):
    """Ends a forward of which nothing more is wanted."""


def _stop(module: nn.Module, given: Any, out: Any) -> None:
    raise _Seen


def _taught(states: Float[Tensor, "B T D"], batch: Batch) -> tuple[Float[Tensor, "M D"], Int[Tensor, " M"]]:
    """The states one position before each supervised token, and those tokens."""
    learn = batch.labels[:, 1:] != IGNORE
    return states[:, :-1][learn], batch.labels[:, 1:][learn]


class _CausalSession(Session):
    def __init__(self, backbone: Causal, x: Float[Tensor, "B T D"], batch: Batch, memory: Memory | None) -> None:
        self.backbone, self.keys, self.cache = backbone, batch.segments, DynamicCache(config=backbone.llm.config)
        if not bool((self.keys[:, -1] > 0).all()):
            raise ValueError("prompts must be padded on the left: a row ends with padding")
        self.position = batch.positions[:, -1:]
        self.memory = memory
        backbone.remember(memory)
        self.states = backbone.think(x, self.keys, batch.positions, self.cache)[:, -1]

    def advance(self, ids: Int[Tensor, " B"], x: Float[Tensor, "B D"] | None = None) -> None:
        self.keys = torch.cat([self.keys, self.keys[:, -1:]], 1)
        self.position = self.position + 1
        if self.memory is not None:
            self.backbone.remember(Memory(self.memory.values, self.memory.items, self.memory.latest[:, -1:]))
        x = self.backbone.embed(ids[:, None]) if x is None else x[:, None]
        self.states = self.backbone.think(x, self.keys, self.position, self.cache)[:, -1]


def _quantized(bits: str) -> Any:
    """The bitsandbytes recipe for a frozen LLM."""
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise missing_extra("bitsandbytes", "quantized", f"backbone.quantize={bits}")
    if not torch.cuda.is_available():
        raise InputError(f"backbone.quantize={bits} needs a CUDA device and there is none here; use quantize: none")
    if bits == "int8":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
