"""The assembled model: encode, align, splice or remember, think, and sum the loss."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal, Self

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from mmlm.backbones.backbone import Backbone
from mmlm.batch import NOWHERE, Batch, Memory, Targets, Units
from mmlm.caches import FeatureCache, GoalCache, StateCache
from mmlm.interfaces import Condition, Decoder, Encoder, Features, Graft, InputAligner, OutputAligner
from mmlm.objectives import looks
from mmlm.objectives.losses import objective
from mmlm.splice import splice


@dataclass(frozen=True, slots=True)
class Losses:
    """Sums, and the counts they are sums over, so that micro-batches and ranks add up exactly."""

    total: Mapping[str, Float[Tensor, ""]]
    count: Mapping[str, int]


class Stream(nn.Module):
    """One way in: an encoder, an input aligner, and where the tokens go. A stream may use another stream's encoder (`shared`),
    and its aligner (`tied`)."""

    aligner: InputAligner

    def __init__(
        self,
        encoder: Encoder,
        aligner: InputAligner,
        into: Literal["slots", "memory"],
        shared: bool = False,
        tied: bool = False,
    ) -> None:
        super().__init__()
        # What is another stream's is hidden from torch, so that its parameters keep the one name they have there.
        if shared:
            self._encoder = (encoder,)
        else:
            self.encoder = encoder
        if tied:
            self.__dict__["aligner"] = aligner
        else:
            self.aligner = aligner
        self.into = into
        self.shared, self.tied = shared, tied

    @property
    def eyes(self) -> Encoder:
        """The encoder, own or shared."""
        return self._encoder[0] if self.shared else self.encoder


class Output(nn.Module):
    """One way out: learned queries where there are any, an output aligner, a decoder, and which states they are steered by:
    those of `layers`, one beside the other, plus the input embedding where `embed` says so.

    Without an aligner the decoder is steered by a text that the LLM says. With `feeds`, an input stream, each state predicts
    the vector of that stream that the LLM reads next (Emu, Sun et al. 2023, arXiv 2307.05222).
    """

    queries: nn.Parameter | None

    def __init__(
        self,
        aligner: OutputAligner | None,
        decoder: Decoder,
        layers: Sequence[int],
        embed: bool,
        queries: Float[Tensor, "K D"] | None,
        feeds: str = "",
    ) -> None:
        super().__init__()
        self.aligner, self.decoder = aligner, decoder
        self.layers, self.embed, self.feeds = tuple(layers), embed, feeds
        self.register_parameter("queries", None if queries is None else nn.Parameter(queries))

    def condition(
        self,
        layers: Mapping[int, Float[Tensor, "B T D"]],
        x: Float[Tensor, "B T D"],
        where: Int[Tensor, "R Q"],
    ) -> Condition:
        """What the decoder is steered by, for each run, from the states of the LLM's layers and its input `x`. Raises ValueError
        where that is a text."""
        if self.aligner is None:
            raise ValueError("a decoder that is steered by a text reads no states")
        at = where.clamp(min=0)
        states = torch.cat([layers[n].flatten(0, 1)[at] for n in self.layers], dim=-1)
        if self.embed:
            states = states + torch.cat([x.flatten(0, 1)[at].to(states.dtype)] * len(self.layers), dim=-1)
        if self.feeds:
            return self.whole(self.predict(states.flatten(0, 1)).unflatten(0, where.shape))
        seen = where != NOWHERE
        return self.aligner(self._cast(states), None if bool(seen.all()) else seen)  # type: ignore[no-any-return]

    def predict(self, states: Float[Tensor, "S D"]) -> Float[Tensor, "S E"]:
        """The vectors that the LLM reads next, each from a state of its own."""
        if self.aligner is None:
            raise ValueError("a decoder that is steered by a text predicts no vectors")
        return self.aligner(self._cast(states)[:, None]).values[:, 0]  # type: ignore[no-any-return]

    def whole(self, vectors: Float[Tensor, "R K E"]) -> Condition:
        """Predicted vectors as a condition; the pooled one, where the decoder asks for it, is their mean (Emu2, Sun et al. 2024,
        arXiv 2312.13286)."""
        return Condition(vectors, vectors.mean(1) if self.decoder.condition.pooled else None)

    def _cast(self, states: Tensor) -> Tensor:
        """States of an LLM that is kept in another number format than the aligner."""
        held = states if self.aligner is None else next(self.aligner.parameters(), states)
        return states if torch.is_autocast_enabled(states.device.type) else states.to(held.dtype)


class MultimodalModel(nn.Module):
    """Streams, a backbone, and streams out. Names of parameters are the part ids of the config: inputs.<stream>.encoder...,
    backbone..., outputs.<stream>.aligner...

    `objectives` are those that the forward computes beside the loss of text: "<output stream>.<name>".
    """

    def __init__(
        self, inputs: Mapping[str, Stream], backbone: Backbone, outputs: Mapping[str, Output] | None = None
    ) -> None:
        super().__init__()
        self.inputs = nn.ModuleDict(inputs)
        self.outputs = nn.ModuleDict(outputs)
        self.objectives: Mapping[str, Sequence[str]] = {}  # of each output stream, for the stage
        self.spoken = True  # whether the loss of text is wanted
        self.backbone = backbone
        self.cache: FeatureCache | None = None
        self.thoughts: StateCache | None = None
        self.goals: GoalCache | None = None
        self.anchored = False  # set where several processes train together

    @property
    def streams(self) -> Mapping[str, Stream]:
        """The streams by name."""
        return dict(self.inputs.items())  # type: ignore[arg-type]

    @property
    def ways_out(self) -> Mapping[str, Output]:
        """The output streams by name."""
        return dict(self.outputs.items())  # type: ignore[arg-type]

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        return next(self.parameters()).device

    def parts(self) -> dict[str, list[tuple[str, nn.Parameter]]]:
        """Every parameter under exactly one part id, with its name in this model. Tables tied to the embedding count there."""
        names = [
            f"inputs.{n}.{k}"
            for n, s in self.streams.items()
            for k in ("encoder", "aligner")
            if not (s.shared if k == "encoder" else s.tied)
        ]
        names += [f"outputs.{n}.{k}" for n, o in self.ways_out.items() for k in ("queries", "aligner", "decoder")]
        grafts = {f"backbone.grafts.{n}": g for n, g in self.backbone.grafts.items()}
        parts: dict[str, list[tuple[str, nn.Parameter]]] = {
            n: [] for n in [*names, "backbone", "backbone.embeddings", "backbone.head", "backbone.added", *grafts]
        }
        tables = {
            id(self.backbone.head.weight): "backbone.head",
            id(self.backbone.embeddings.weight): "backbone.embeddings",
        }
        for name, parameter in self.named_parameters():
            inside = name.removeprefix("backbone.llm.")
            owner = next(
                (p for p, g in grafts.items() if isinstance(g, Graft) and inside != name and g.owns(inside)), None
            )
            owner = owner or tables.get(id(parameter))
            owner = owner or max((p for p in parts if f"{name}.".startswith(p + ".")), key=len)
            parts[owner].append((name, parameter))
        return {p: found for p, found in parts.items() if found or not p.startswith(("backbone.", "outputs."))}

    def train(self, mode: bool = True) -> Self:
        """Training mode for what is trained; what is frozen stays in evaluation mode (batch statistics, dropout). In encoders
        and aligners that goes module by module; an LLM of which anything is trained, adapters too, is in training mode whole.
        """
        super().train(mode)
        if mode:
            for stream in self.streams.values():
                _wake(stream.eyes)
                _wake(stream.aligner)
            for way in self.ways_out.values():
                if way.aligner is not None:
                    _wake(way.aligner)
                _wake(way.decoder)
            if not any(p.requires_grad for p in self.backbone.llm.parameters()):
                self.backbone.llm.eval()
            self.backbone.wake_layers()
        return self

    def tokens(self, name: str, units: Units) -> Float[Tensor, "S D"]:
        """Encode and align the items of one stream."""
        return self.streams[name].aligner(self._encoded(name, units))  # type: ignore[no-any-return]

    def _encoded(self, name: str, units: Units) -> Features:
        """What the aligner of one stream reads."""
        values = self._features(self.streams[name].eyes, units)
        return Features(values, units.counts, units.instruction, units.extents)

    def _features(self, encoder: Encoder, units: Units) -> Float[Tensor, "U L C"]:
        """What an encoder says: with a gradient where it is trained, from the cache where it is not."""
        trained = any(p.requires_grad for p in encoder.parameters()) and torch.is_grad_enabled()
        with torch.set_grad_enabled(trained):
            cache = None if trained else self.cache
            return cache.features(encoder, units) if cache else encoder(units.values)  # type: ignore[no-any-return]

    def embed(self, batch: Batch) -> tuple[Float[Tensor, "B T D"], Memory | None]:
        """The LLM's input: text embedded, tokens of items in their slots; and the memory, if a stream feeds one."""
        x, memory, _ = self._embed(batch, ())
        return x, memory

    def _embed(
        self, batch: Batch, feeding: Collection[str]
    ) -> tuple[Float[Tensor, "B T D"], Memory | None, dict[str, Float[Tensor, "S E"]]]:
        """As `embed`, and what the aligners of the `feeding` streams have inside, for each of their tokens."""
        x = self.backbone.embed(batch.ids)
        for name, target in batch.targets.items():
            if (queries := self.ways_out[name].queries) is not None:
                x = splice(x, target.queries.flatten(), queries.repeat(len(target.queries), 1))
            if target.spots is not None and target.said is not None:
                x = splice(x, target.spots, target.said)
        remembered: list[tuple[int, Tensor]] = []
        inside: dict[str, Tensor] = {}
        for name, units in batch.streams.items():
            stream, features = self.streams[name], self._encoded(name, units)
            tokens: Tensor = stream.aligner(features)
            if name in feeding:
                inside[name] = tokens if stream.aligner.inner is None else stream.aligner.inside(features)
            if stream.into == "slots":
                x = splice(x, units.where, tokens)
            else:
                extents = units.extents or ((),) * len(units.counts)
                lengths = [stream.aligner.number(n, e) for n, e in zip(units.counts, extents, strict=True)]
                remembered += zip(units.starts.tolist(), tokens.split(lengths), strict=True)
        return x, memorise(remembered, batch) if remembered else None, inside

    def states(self, batch: Batch) -> tuple[Float[Tensor, "M D"], Int[Tensor, " M"]]:
        """The states that supervised tokens are read from, and those tokens."""
        x, memory = self.embed(batch)
        self.backbone.remember(memory)
        return self.backbone.read(x, batch)

    def forward(self, batch: Batch) -> Losses:
        """Sums of losses: of text, over supervised tokens of -log p; of each objective of an output stream, over its runs."""
        wanted = {n: t for n, t in batch.targets.items() if self.objectives.get(n)}
        read: tuple[Tensor, Tensor] | None
        if not wanted:
            read = self.states(batch)
            losses = {"text": self.backbone.loss(*read)}
        else:
            steered = {n for n in wanted if looks(self.objectives[n])}
            read, conditions, inside = self._look(batch, wanted, steered, self.spoken or self.anchored)
            losses = {} if read is None else {"text": self.backbone.loss(*read)}
            for name, target in wanted.items():
                losses |= self._compare(name, target, conditions.get(name), self._fed(name, batch, inside))
        if self.anchored and torch.is_grad_enabled():
            losses["text"] = losses["text"] + self._anchor(batch)
        counts = {"text": 0 if read is None else len(read[1])}
        return Losses(
            losses, counts | {n: len(batch.targets[n.partition(".")[0]].where) for n in losses if n != "text"}
        )

    def conditions(self, batch: Batch) -> dict[str, Condition]:
        """What steers the decoders, for each run of signals in the batch; those of texts are not among them."""
        return self._look(batch, batch.targets, batch.targets, spoken=False)[1]

    def _look(
        self, batch: Batch, wanted: Mapping[str, Targets], steered: Collection[str], spoken: bool
    ) -> tuple[
        tuple[Float[Tensor, "M D"], Int[Tensor, " M"]] | None, dict[str, Condition], dict[str, Float[Tensor, "S E"]]
    ]:
        """As `states`, and the conditions of the `steered` of some output streams, and what the aligners of the streams that feed
        them have inside, from one forward. Where what is `spoken` is not asked for and the LLM learns nothing, it thinks only up
        to the last layer that steers a decoder, if there is one, and there are no states."""
        ways = {n: self.ways_out[n] for n in wanted}
        x, memory, inside = self._embed(batch, {w.feeds for w in ways.values()})
        self.backbone.remember(memory)
        layers = {k for n in steered for k in ways[n].layers}
        learns = torch.is_grad_enabled() and (
            x.requires_grad or any(p.requires_grad for p in self.backbone.parameters())
        )
        read: tuple[Tensor, Tensor] | None = None
        seen: Mapping[int, Tensor] = {}
        if spoken or learns:
            states, targets, seen = self.backbone.look(x, batch, layers)
            read = (states, targets)
        elif layers and self.thoughts and memory is None:
            seen = self.thoughts.states(self.backbone, x, batch, layers)
        elif layers:
            seen = self.backbone.peek(x, batch, layers)
        return read, {n: ways[n].condition(seen, x, wanted[n].where) for n in steered}, inside

    def _fed(self, name: str, batch: Batch, inside: Mapping[str, Float[Tensor, "S E"]]) -> Condition | None:
        """The vectors that the LLM read of the items of an output stream, for each run: what its states should have predicted.
        None for a stream that predicts none."""
        way, target = self.ways_out[name], batch.targets[name]
        if not way.feeds:
            return None
        units = batch.streams[way.feeds]
        # Their slots stand in reading order, and a vector follows the state that predicts it.
        vectors = inside[way.feeds].detach()[torch.searchsorted(units.where, target.where + 1)]
        return way.whole(vectors)

    def _compare(
        self, name: str, target: Targets, condition: Condition | None, fed: Condition | None
    ) -> dict[str, Float[Tensor, ""]]:
        """The sums of an output stream's objectives; `fed` is the goal where the stream predicts vectors. There is no condition
        where none of them looks at one."""
        decoder: Decoder = self.ways_out[name].decoder
        if decoder.eyes is not None and target.units is not None:
            nowhere = target.queries.new_zeros(0)
            units = Units(target.units, (1,) * len(target.keys), nowhere, nowhere, target.keys)
            target = replace(target, units=self._features(decoder.eyes, units))

        @cache
        def goal() -> Condition:
            if fed is not None:
                return fed
            return self.goals.of(name, decoder, target) if self.goals else decoder.goal(target.captions, target.units)

        given = goal() if condition is None else condition
        return {f"{name}.{kind}": objective(kind)(decoder, given, target, goal).sum() for kind in self.objectives[name]}

    def _anchor(self, batch: Batch) -> Float[Tensor, ""]:
        """Zero, as a function of the trained parameters that this batch does not reach: where several processes average
        their gradients, each must give every parameter one, also the process whose samples hold no picture."""
        absent = [s for n, s in self.streams.items() if n not in batch.streams]
        idle: list[nn.Module] = [m for s in absent for m in (s.eyes, s.aligner)]
        if not any(s.into == "memory" for n, s in self.streams.items() if n in batch.streams):
            idle += [g for g in self.backbone.grafts.values() if isinstance(g, Graft) and g.reads_memory]
        idle += [w for n, w in self.ways_out.items() if n not in batch.targets]
        parameters = [p for m in idle for p in m.parameters() if p.requires_grad]
        return sum((p.sum() for p in parameters), torch.zeros((), device=self.device)) * 0.0


def _wake(module: nn.Module) -> None:
    """Training mode for `module` where anything in it is trained, and inside it again by the same rule. What has no parameters
    (a dropout) is awake where all of the module that it stands in is trained."""
    opened = [p.requires_grad for p in module.parameters()]
    module.train(bool(opened) and all(opened))
    if any(opened) and not all(opened):
        module.training = True
        for child in module.children():
            if any(True for _ in child.parameters()):
                _wake(child)


def memorise(remembered: list[tuple[int, Float[Tensor, "K C"]]], batch: Batch) -> Memory:
    """Lay tokens, each with the flat position where its item begins, out as rows of memory. A position sees the last item
    begun at or before it in its own sample (Flamingo, Alayrac et al. 2022, section 3.1.3)."""
    rows, width = batch.ids.shape
    remembered = sorted(remembered, key=lambda pair: pair[0])
    per_row: list[list[Tensor]] = [[] for _ in range(rows)]
    items: list[list[int]] = [[] for _ in range(rows)]
    latest = torch.zeros_like(batch.ids)
    column = torch.arange(width, device=batch.ids.device)
    ordinal = [0] * rows
    for start, tokens in remembered:
        row, begins = divmod(start, width)
        ordinal[row] += 1
        per_row[row].append(tokens)
        items[row] += [ordinal[row]] * len(tokens)
        mine = (batch.segments[row] == batch.segments[row, begins]) & (column >= begins)
        latest[row] = torch.where(mine, ordinal[row], latest[row])
    longest = max(len(i) for i in items)
    some = remembered[0][1]
    values = torch.stack(
        [
            torch.cat([*kept, some.new_zeros(longest - len(i), some.shape[1])])
            for kept, i in zip(per_row, items, strict=True)
        ]
    )
    padded = torch.tensor([i + [0] * (longest - len(i)) for i in items], device=batch.ids.device)
    return Memory(values, padded, latest)
