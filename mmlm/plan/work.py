"""Part of the plan: what one call costs. Encoders and aligners are run on shapes (meta tensors), an LLM by formula.

A product of [m, k] with [k, n] counts 2 m k n FLOPs; everything else is neglected.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from mmlm.backbones.backbone import Backbone
from mmlm.backbones.seq2seq import Seq2Seq
from mmlm.interfaces import Graft


@dataclass(frozen=True, slots=True)
class Work:
    """FLOPs of a call and of its backward, and how many values (not bytes) the call keeps for the backward."""

    forward: float = 0.0
    backward: float = 0.0
    kept: float = 0.0

    def __add__(self, other: "Work") -> "Work":
        return Work(self.forward + other.forward, self.backward + other.backward, self.kept + other.kept)

    def __mul__(self, times: float) -> "Work":
        return Work(self.forward * times, self.backward * times, self.kept * times)


class _Fused(torch.autograd.Function):
    """Attention as a fused kernel leaves it: queries, keys, values and output are kept, scores are not."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out = q.new_empty(*q.shape[:-1], v.shape[-1])
        ctx.save_for_backward(q, k, v, out)
        return out

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


class _Attention(TorchFunctionMode):
    """Counts attention by formula, whatever kernel would run: 2 (E + W) a query, key and head; twice that backward."""

    def __init__(self) -> None:
        super().__init__()
        self.forward = self.backward = 0.0

    def __torch_function__(
        self, func: Callable[..., Any], types: Iterable[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func is not nn.functional.scaled_dot_product_attention:
            return func(*args, **(kwargs or {}))
        q, k, v = args[:3]
        flops = 2.0 * q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1])
        self.forward += flops
        if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
            self.backward += 2 * flops
        return _Fused.apply(q, k, v)  # type: ignore[no-untyped-call]


def on_shapes(module: nn.Module, *given: Any) -> tuple[Float[Tensor, "..."], Work]:
    """Call `module` on meta tensors, and its backward if anything in it or before it is trained."""
    own = {p.untyped_storage()._cdata for p in module.parameters()}
    kept: dict[int, int] = {}

    def keep(x: Tensor) -> Tensor:
        storage = x.untyped_storage()
        if x.is_floating_point() and storage._cdata not in own:
            kept[storage._cdata] = storage.nbytes() // x.element_size()
        return x

    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # the fast path is one operation that no counter can look into
    try:
        with (
            FlopCounterMode(display=False) as counter,
            _Attention() as attention,
            saved_tensors_hooks(keep, lambda x: x),
        ):
            out = module(*given)
            forward, values = counter.get_total_flops(), sum(kept.values())
            if out.requires_grad:
                out.sum().backward()
                module.zero_grad(set_to_none=True)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    backward = counter.get_total_flops() - forward
    return out.detach(), Work(forward + attention.forward, backward + attention.backward, values)


@dataclass(frozen=True, slots=True)
class Matrix:
    """A weight that is multiplied with `rows` positions of a sample. `shares`: what it takes, a sister takes too (query,
    key and value; gate and up). `joins`: what it gives is added to what another gives (LoRA), so it need not be kept."""

    out: int
    into: int
    rows: int
    trained: bool
    shares: bool = False
    joins: bool = False

    @property
    def forward(self) -> float:
        return 2.0 * self.out * self.into * self.rows


def matrices(
    module: nn.Module,
    rows: Callable[[str], int],
    skip: Iterable[Tensor],
    joins: Callable[[str], bool] = lambda _: False,
) -> list[Matrix]:
    """All matrices of `module` but embedding tables and `skip`; by name, `rows` tells how many positions each meets, and
    `joins` whether what it gives is added to what another gives."""
    tables = {id(m.weight) for m in module.modules() if isinstance(m, nn.Embedding)} | {id(p) for p in skip}
    found, taken = [], set()
    for name, p in module.named_parameters():
        if p.ndim == 2 and id(p) not in tables:
            place = (name.rsplit(".", 2)[0], p.shape[1])
            found.append(Matrix(p.shape[0], p.shape[1], rows(name), p.requires_grad, place in taken, joins(name)))
            taken.add(place)
    return found


def dense(found: Iterable[Matrix], flows: bool) -> Work:
    """Products with weights: 2 per weight and position forward; backward the same for the gradient of the input, where
    a gradient flows, and the same again for the gradient of a trained weight.

    Kept: what each matrix gives, since the next operation needs it, and half as much again for norms and activation
    functions; and once for each set of sisters what trained ones take.
    """
    work = Work()
    for m in found:
        backward = m.forward * (flows + m.trained)
        kept = m.rows * (1.5 * m.out * (flows and not m.joins) + m.into * (m.trained and not m.shares))
        work += Work(m.forward, backward, kept)
    return work


def attention(queries: int, keys: int, width: int, layers: int, flows: bool) -> Work:
    """Scores and their sum of values: 4 per query, key and channel of all heads, the causal half not left out. Backward
    has two products for each. The values that it keeps are given by matrices, so they are counted there."""
    forward = 4.0 * queries * keys * width * layers
    return Work(forward, 2 * forward * flows)


@dataclass(frozen=True, slots=True)
class Places:
    """Positions of one sample: all of them, those with text; and the rows of memory that grafts read, with their width."""

    all: int
    text: int
    memory: int = 0
    memory_width: int = 0


def ends(backbone: Backbone) -> tuple[list[Tensor], list[Tensor]]:
    """The tables that ids are looked up in, and those that states are multiplied with to become logits: the LLM's own, and
    the rows added to them. One that serves as both is in both."""
    tables, heads = [backbone.embeddings.weight], [backbone.head.weight]
    if (added := backbone.added) is not None:
        tables.append(added.embedding)
        heads.append(added.embedding if added.head is None else added.head)
    return tables, heads


def llm(backbone: Backbone, places: Places, flows: bool) -> tuple[Work, Work]:
    """The layers of an LLM with its grafts, and its head, on one sample. `flows`: a gradient goes through the layers.

    A graft's matrices meet every position, those that take the memory every row of it. An encoder-decoder reads all
    positions and learns the text. Every position with text counts as learnt, so the head's share is an upper bound.
    """
    config: Any = backbone.llm.config
    width = backbone.heads * int(
        getattr(config, "head_dim", None) or getattr(config, "d_kv", None) or backbone.width // backbone.heads
    )
    tables, heads = ends(backbone)
    both = [*tables, *heads]

    def joins(name: str) -> bool:
        return any(isinstance(g, Graft) and g.owns(name) for g in backbone.grafts.values())

    if isinstance(backbone, Seq2Seq):
        given, learnt, depth = places.all, places.text, int(config.num_decoder_layers)

        def rows(name: str) -> int:
            crossing = "EncDecAttention.k." in name or "EncDecAttention.v." in name
            return given if name.startswith("encoder.") or crossing else learnt

        layers = dense(matrices(backbone.llm, rows, both, joins), flows)
        for queries, keys, n in ((given, given, backbone.layers), (learnt, learnt, depth), (learnt, given, depth)):
            layers += attention(queries, keys, width, n, flows)
    else:
        layers = dense(matrices(backbone.llm, lambda _: places.all, both, joins), flows)
        layers += attention(places.all, places.all, width, backbone.layers, flows)
    for graft in backbone.grafts.values():
        found = matrices(graft, lambda _: places.all, [])
        layers += dense([_placed(m, backbone.width, places) for m in found], flows)
    read = [Matrix(p.shape[0], p.shape[1], places.text, p.requires_grad) for p in heads]
    return layers, Work(sum(m.forward for m in read), sum(m.forward * (flows + m.trained) for m in read))


def _placed(m: Matrix, width: int, places: Places) -> Matrix:
    """The same matrix; on the rows of the memory if it takes what is as wide as that, and not as wide as the LLM."""
    reads = places.memory and m.into == places.memory_width != width
    return replace(m, rows=places.memory) if reads else m
