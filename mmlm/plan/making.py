"""Part of the plan: from a config to its lines."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from math import ceil
from operator import attrgetter

import numpy as np
import torch
from torch import Tensor, nn

from mmlm.assemble import assemble
from mmlm.backbones.backbone import LAST, Backbone
from mmlm.backbones.causal import Causal
from mmlm.config import PartConfig, StageConfig, SystemConfig
from mmlm.errors import InputError
from mmlm.interfaces import Cut, Encoder, Features
from mmlm.interop import exportable
from mmlm.model import MultimodalModel, Output, Stream
from mmlm.objectives import looks
from mmlm.plan.lines import OutputLine, PartLine, Plan, StageLine, StreamLine
from mmlm.plan.memory import BYTES, Memory, activations, logits, of_parameters, stored
from mmlm.plan.work import Places, Work, dense, ends, llm, matrices, on_shapes
from mmlm.sample import Audio, Image, Item, Modality, Video
from mmlm.training.policy import trained

_INSTRUCTION = 32  # ids of the instruction that an aligner which reads it is counted with


def plan(config: SystemConfig, *, devices: int = 1) -> Plan:
    """The plan of `config`. Several `devices` divide weights, gradients and moments among them (fully sharded).

    Raises InputError for a config that cannot be built, or whose items alone fill the context.
    """
    if devices < 1:
        raise InputError(f"a plan needs at least 1 device, got {devices}")
    model = assemble(config, load=False, device="meta").model
    said = config.published
    streams = [_stream(config, n, s) for n, s in model.streams.items()]
    opened = {s.name: [p for found in trained(model, s).values() for _, p in found] for s in config.stages}
    parts = [_part(config, model, n, [p for _, p in named], opened) for n, named in model.parts().items()]
    inputs = _Inputs(model)
    return Plan(
        name=config.name,
        about=config.about,
        length=config.length,
        parameters=sum(p.parameters for p in parts),
        published=said.parameters if said else None,
        source=said.source if said else "",
        note=said.note if said else "",
        devices=devices,
        parts=tuple(parts),
        streams=tuple(streams),
        outputs=tuple(_output(config, n, o) for n, o in model.ways_out.items()),
        stages=tuple(_stage(config, s, inputs, opened[s.name], streams, devices) for s in config.stages),
        export=exportable(config, model),
    )


def _part(
    config: SystemConfig,
    model: MultimodalModel,
    part: str,
    held: Sequence[nn.Parameter],
    opened: Mapping[str, Sequence[nn.Parameter]],
) -> PartLine:
    mine = {id(p) for p in held}
    counts = {stage: sum(p.numel() for p in found if id(p) in mine) for stage, found in opened.items()}
    kind = type(attrgetter(part)(model)).__name__
    return PartLine(part, kind, _origin(config, part), sum(p.numel() for p in held), counts)


def _origin(config: SystemConfig, part: str) -> str:
    """The checkpoint that a part's values come from, as the config says; empty where they start at random."""
    if part == "backbone.added" or part.endswith(".queries"):
        return ""
    first, *rest = part.split(".")
    found: PartConfig | str = config.backbone
    if first == "outputs":
        found = getattr(config.outputs[rest[0]], rest[1])
    elif first == "inputs":
        found = getattr(config.inputs[rest[0]], rest[1])
    elif rest[:1] == ["grafts"]:
        found = config.backbone.grafts[rest[1]]
    while isinstance(found, PartConfig) and found.weights is None and found.encoder is not None:
        found = found.encoder
    return found if isinstance(found, str) else found.weights or ""


def _stream(config: SystemConfig, name: str, stream: Stream) -> StreamLine:
    units, shape = stream.eyes.units(), stream.eyes.shape
    said = config.published.tokens.get(name) if config.published else None
    tokens = stream.aligner.number(units, stream.eyes.extent())
    return StreamLine(
        name, config.inputs[name].modality, stream.into, units, shape.length, shape.channels, tokens, said
    )


def _output(config: SystemConfig, name: str, output: Output) -> OutputLine:
    said, shape = config.outputs[name], output.decoder.condition
    owner = said if isinstance(said.signals, int) else config.outputs[said.signals]
    spelt = owner.spelling if isinstance(said.signals, int) else f"those of {said.signals}"
    signals = owner.signals if isinstance(owner.signals, int) else 0
    layers = ", ".join(map(str, said.layers))
    return OutputLine(
        name=name,
        modality=said.modality,
        signals=signals,
        spelling=spelt,
        queries=owner.queries,
        fed=shape.length if said.feeds else 0,
        feeds=said.feeds or "",
        read=said.read,
        layers=layers,
        length=shape.length,
        width=shape.width,
        pooled=shape.pooled,
    )


def _stage(
    config: SystemConfig,
    stage: StageConfig,
    inputs: "_Inputs",
    opened: Sequence[nn.Parameter],
    streams: Sequence[StreamLine],
    devices: int,
) -> StageLine:
    length = min(stage.length or config.length, config.length)
    slots = sum(s.tokens for s in streams if s.into == "slots")
    if slots >= length:
        raise InputError(
            f"stage {stage.name!r}: one item of each stream takes {slots} slots, but the context has {length} positions; "
            f"raise `length`, or use an aligner that gives fewer tokens"
        )
    backbone, recompute = inputs.model.backbone, stage.gradient_checkpointing
    remembered = [s for s in streams if s.into == "memory"]
    places = Places(length, length - slots, sum(s.tokens for s in remembered), inputs.width(remembered))
    with _training(opened):
        before = sum((inputs.work(s) for s in streams), Work())
        tables, heads = ({id(p) for p in found} for found in ends(backbone))
        behind = (heads - tables) | _behind(inputs.model)
        flows = any(id(p) not in behind for p in opened)
        layers, head = llm(backbone, places, flows)
        spoken = flows or bool(stage.objectives.get("text")) or any(id(p) in heads for p in opened)
        if not spoken:
            layers, head = layers * _thought(stage, inputs.model), Work()
        memory = _parameters(config, stage, inputs.model, opened, flows, devices)
    kept = activations(layers.kept, backbone.layers, length, backbone.width, stage.precision, recompute)
    kept += (before.kept + head.kept) * BYTES[stage.precision]
    micro = min(stage.micro_batch or stage.batch, ceil(stage.batch / devices))
    work = before + layers + head
    return StageLine(
        name=stage.name,
        trained=sum(p.numel() for p in opened),
        published=config.published.trainable.get(stage.name) if config.published else None,
        batch=stage.batch,
        micro_batch=micro,
        positions=length,
        text=places.text,
        forward=work.forward,
        backward=work.backward + layers.forward * (recompute and flows),
        memory=replace(memory, activations=kept * micro + spoken * logits(places.text * micro, backbone.rows)),
    )


def _behind(model: MultimodalModel) -> set[int]:
    """The parameters that read what the LLM thought, so that no gradient of theirs goes through it."""
    found = [m for w in model.ways_out.values() for m in (w.aligner, w.decoder) if m is not None]
    return {id(p) for m in found for p in m.parameters()}


def _thought(stage: StageConfig, model: MultimodalModel) -> float:
    """The share of the LLM's layers that a stage runs which learns no text: up to the last that a decoder is steered by."""
    named = [k.partition(".")[::2] for k, weight in stage.objectives.items() if weight]
    read = [k for n, w in model.ways_out.items() if looks(kind for way, kind in named if way == n) for k in w.layers]
    whole = LAST in read or (read and not isinstance(model.backbone, Causal))
    return 1.0 if whole else max(read, default=0) / model.backbone.layers


def _parameters(
    config: SystemConfig,
    stage: StageConfig,
    model: MultimodalModel,
    opened: Sequence[nn.Parameter],
    flows: bool,
    devices: int,
) -> Memory:
    """The memory of weights and what belongs to them; `opened` take gradients now."""
    backbone = model.backbone
    frozen = {id(p): p for p in _matrices(backbone) if not p.requires_grad}
    quantize = str(config.backbone.options.get("quantize", "none"))
    quantised = set(frozen) - {id(p) for p in ends(backbone)[1]} if quantize != "none" else set()
    crossed = sum(p.numel() for i, p in frozen.items() if flows and i not in quantised and p.element_size() == 4)
    weights = stored(model.parameters(), quantised, quantize)
    return of_parameters(
        weights, opened, crossed, backbone.layers, stage.precision, stage.gradient_checkpointing, devices
    )


def _matrices(backbone: Backbone) -> list[nn.Parameter]:
    """The weights that a forward multiplies with: all matrices but the tables of embeddings."""
    tables = {id(p) for p in ends(backbone)[0]}
    return [p for p in backbone.parameters() if p.ndim == 2 and id(p) not in tables]


@contextmanager
def _training(opened: Sequence[nn.Parameter]) -> Iterator[None]:
    """Inside, exactly `opened` take gradients."""
    for p in opened:
        p.requires_grad_(True)
    try:
        yield
    finally:
        for p in opened:
            p.requires_grad_(False)


class _Inputs:
    """The streams of a model, run on shapes; each part once for each set of its parameters that is trained."""

    def __init__(self, model: MultimodalModel) -> None:
        self.model = model
        self._known: dict[tuple[int, ...], Work] = {}

    def width(self, streams: Sequence[StreamLine]) -> int:
        """Channels of the memory that `streams` feed, 0 where there are none."""
        return max((self.model.streams[s.name].aligner.width for s in streams), default=0)

    def work(self, line: StreamLine) -> Work:
        """The work of one item: its units through the encoder, their features through the aligner."""
        stream = self.model.streams[line.name]
        learns = any(p.requires_grad for p in stream.eyes.parameters())
        values = torch.zeros(line.units, line.length, line.channels, device="meta", requires_grad=learns)
        said = torch.ones(1, _INSTRUCTION, dtype=torch.long, device="meta") if stream.aligner.tokenize else None
        extent = stream.eyes.extent()
        features = Features(values, (line.units,), said, (extent,) if extent else ())
        promised = (line.tokens, stream.aligner.width)
        seen = self._once(
            stream.eyes, (1, line.length, line.channels), learns, line.length, _unit(stream.eyes, line.modality)
        )
        return seen * line.units + self._once(stream.aligner, promised, learns, line.units * line.length, features)

    def _once(self, module: nn.Module, promised: tuple[int, ...], learns: bool, rows: int, given: object) -> Work:
        """The work of `module` on `given`; a module that must see values to work is counted as if every weight met every
        one of `rows` features."""
        opened = [id(p) for p in module.parameters() if p.requires_grad]
        key = (id(module), learns, *opened)
        if key not in self._known:
            try:
                out, self._known[key] = on_shapes(module, given)
            except RuntimeError:
                self._known[key] = dense(matrices(module, lambda _: rows, []), learns or bool(opened))
            else:
                if tuple(out.shape) != promised:
                    raise ValueError(f"{type(module).__name__} promised {promised} and gave {tuple(out.shape)}")
        return self._known[key]


def _unit(encoder: Encoder, modality: Modality) -> Tensor:
    """One unit of an encoder, as a shape: what its transform makes of a blank item."""
    blank: dict[Modality, Item] = {
        "image": Image(np.zeros((64, 64, 3), np.uint8)),
        "audio": Audio(np.zeros(16_000, np.float32), 16_000),
        "video": Video(np.zeros((2, 64, 64, 3), np.uint8), 1.0),
    }
    return Cut.of(encoder.transform(blank[modality])).units[:1].to("meta")
