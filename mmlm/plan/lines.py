"""Part of the plan: what it says, line by line."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from textwrap import fill
from typing import Any

from mmlm.interop import Exportable
from mmlm.plan.amounts import count, flops, gibibytes, ratio
from mmlm.plan.memory import Memory
from mmlm.plan.table import Section, render
from mmlm.sample import Modality


@dataclass(frozen=True, slots=True)
class PartLine:
    """A part: its class, where its values come from (empty: at random), its parameters, and those trained by stage."""

    id: str
    type: str
    weights: str
    parameters: int
    trained: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class StreamLine:
    """A stream: what one typical item becomes. `length` and `channels` are of the features of one unit."""

    name: str
    modality: Modality
    into: str
    units: int
    length: int
    channels: int
    tokens: int
    published: int | None


@dataclass(frozen=True, slots=True)
class OutputLine:
    """A way out: its signals, what the LLM reads behind them (learned queries, or `fed` vectors of the input stream `feeds`),
    which states are read from which layers, and the condition of its decoder, `length` x `width` and a pooled vector (0: none).
    """

    name: str
    modality: Modality
    signals: int
    spelling: str
    queries: int
    fed: int
    feeds: str
    read: str
    layers: str
    length: int
    width: int
    pooled: int


@dataclass(frozen=True, slots=True)
class StageLine:
    """A stage: the cost of a sample that fills the context and holds one item of each stream, in FLOPs and bytes."""

    name: str
    trained: int
    published: float | None
    batch: int
    micro_batch: int
    positions: int
    text: int  # positions that the items leave for text
    forward: float
    backward: float  # with what gradient checkpointing computes again
    memory: Memory

    @property
    def step(self) -> float:
        """FLOPs of one optimiser step."""
        return self.batch * (self.forward + self.backward)


@dataclass(frozen=True, slots=True)
class Plan:
    """All that can be known of a system from its config."""

    name: str
    about: str
    length: int
    parameters: int
    published: float | None
    source: str
    note: str
    devices: int
    parts: tuple[PartLine, ...]
    streams: tuple[StreamLine, ...]
    outputs: tuple[OutputLine, ...]
    stages: tuple[StageLine, ...]
    export: Exportable

    def as_json(self) -> dict[str, Any]:
        """The plan as numbers: parameters, FLOPs, bytes; nothing is rounded."""
        found = asdict(self)
        found["export"] = self.export.as_json()
        for line, stage in zip(found["stages"], self.stages, strict=True):
            line["step"] = stage.step
            line["memory"]["total"] = stage.memory.total
        return found

    def table(self) -> str:
        """The plan as columns of plain text."""
        head = f"{self.name}: {self.about}" if self.about else self.name
        sections = [self._parts(), self._streams(), self._outputs(), self._costs(), self._memory()]
        told = [head, *(render(s) for s in sections if s.rows)]
        if self.source:
            said = (f"published: {self.source}", f"note: {self.note}" if self.note else "")
            told.append("\n".join(fill(text, 120, subsequent_indent="  ") for text in said if text))
        told.append(fill(self.export.line(), 120, subsequent_indent="  "))
        return "\n\n".join(told) + "\n"

    def _parts(self) -> Section:
        rows = [
            (p.id, p.type, p.weights or "-", count(p.parameters), *(count(p.trained[s.name]) for s in self.stages))
            for p in self.parts
        ]
        rows.append(("total", "", "", count(self.parameters), *(count(s.trained) for s in self.stages)))
        said = [self.published, *(s.published for s in self.stages)]
        if any(said):
            counted = [self.parameters, *(s.trained for s in self.stages)]
            rows.append(("published", "", "", *(count(v) for v in said)))
            rows.append(("ratio", "", "", *(ratio(c, v) for c, v in zip(counted, said, strict=True))))
        return Section(
            ("part", "class", "weights", "parameters", *(f"trained: {s.name}" for s in self.stages)), rows, left=3
        )

    def _streams(self) -> Section:
        rows = [
            (
                s.name,
                s.modality,
                s.into,
                str(s.units),
                f"{s.length} x {s.channels}",
                str(s.tokens),
                str(s.published or "-"),
            )
            for s in self.streams
        ]
        slots = sum(s.tokens for s in self.streams if s.into == "slots")
        note = f"Context: {self.length} positions, {slots} of them slots of one item of each stream, {self.length - slots} left for text."
        head = ("stream", "item", "into", "units", "features a unit", "tokens an item", "published")
        return Section(head, rows, left=3, note=note)

    def _outputs(self) -> Section:
        rows = [
            (
                o.name,
                o.modality,
                o.spelling,
                o.read,
                str(o.signals),
                f"{o.fed} of {o.feeds}" if o.fed else str(o.queries),
                "-" if o.read == "text" else o.layers,
                f"{o.length} x {o.width}" + (f" + {o.pooled}" if o.pooled else ""),
            )
            for o in self.outputs
        ]
        head = ("output", "item", "spelt", "read", "signals", "vectors", "layers", "condition")
        note = (
            "FLOPs and activations below are those of the LLM, in a stage without text up to the last layer that steers a decoder;\n"
            "what output aligners and decoders add is not in them."
        )
        return Section(head, rows, left=4, note=note)

    def _costs(self) -> Section:
        rows = [
            (
                s.name,
                str(s.positions),
                str(s.positions - s.text),
                str(s.text),
                flops(s.forward),
                flops(s.backward),
                str(s.batch),
                flops(s.step),
            )
            for s in self.stages
        ]
        head = ("stage", "positions", "slots", "text", "forward", "backward", "batch", "FLOPs a step")
        note = (
            "FLOPs of a sample that fills the context, with one item of each stream. Forward: 2 x weights x positions, and\n"
            "4 x positions^2 x width for the attention of each layer. Backward: as much again through frozen layers that a\n"
            "gradient passes, twice through trained ones; with gradient checkpointing also the LLM's forward once more."
        )
        return Section(head, rows, left=1, note=note)

    def _memory(self) -> Section:
        rows = []
        for s in self.stages:
            m = s.memory
            parts = (m.weights, m.copies, m.gradients, m.moments, m.activations, m.total)
            rows.append((s.name, str(s.micro_batch), *(gibibytes(v) for v in parts)))
        head = ("stage", "micro-batch", "weights", "copies", "gradients", "moments", "activations", "total GiB")
        shared = (
            f"each of {self.devices} devices, which share weights, gradients and moments"
            if self.devices > 1
            else "one device"
        )
        note = (
            f"GiB on {shared}; activations are an estimate (within about a third), and what kernels use for a moment is not\n"
            "in it. Copies: weights in the number format of the forward. Gradients and both moments are as wide as weights."
        )
        return Section(head, rows, left=1, note=note)
