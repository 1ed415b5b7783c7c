"""The only place where parts meet: a config becomes a model, a processor and a vocabulary."""

import hashlib
import inspect
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from mmlm.backbones.backbone import Backbone
from mmlm.config import OutputConfig, PartConfig, StreamConfig, SystemConfig
from mmlm.errors import InputError
from mmlm.interfaces import ConditionShape, Decoder, Encoder, FeatureShape, Graft, InputAligner, OutputAligner
from mmlm.model import MultimodalModel, Output, Stream
from mmlm.objectives.needs import instead, unmet
from mmlm.processor import Processor, Signals, StreamPlan
from mmlm.registry import component
from mmlm.sample import Extent
from mmlm.vocabulary import Vocabulary
from mmlm.weights import Weights


@dataclass(frozen=True, slots=True)
class Assembly:
    """A system ready to learn or to reply. `borrowed` names the parts whose values come from `weights`, not from the run.
    `fingerprint` says which run and checkpoint it is, for the records of an evaluation."""

    config: SystemConfig
    model: MultimodalModel
    processor: Processor
    vocabulary: Vocabulary
    borrowed: Mapping[str, str]
    fingerprint: str = ""


_BASES: dict[str, Any] = {
    "encoders": Encoder,
    "aligners": InputAligner,
    "backbones": Backbone,
    "grafts": Graft,
    "output_aligners": OutputAligner,
    "decoders": Decoder,
}


class _Builder:
    """Builds parts by name: hands each constructor what it asks for, and the config's options."""

    def __init__(self, config: SystemConfig, load: bool, held: Collection[str]) -> None:
        self.config, self.load, self.held, self.tiny = config, load, held, config.scale == "tiny"
        self.borrowed: dict[str, str] = {}
        self.encoders: dict[str, Encoder] = {}  # by stream, where a stream has one of its own
        self.aligners: dict[str, tuple[InputAligner, FeatureShape]] = {}

    def weights(self, part_id: str, name: str | None) -> Weights | None:
        return Weights(name, load=self.load and part_id not in self.held, tiny=self.tiny) if name else None

    def part(self, kind: str, part_id: str, part: PartConfig, **known: Any) -> Any:
        """One part, its random values drawn from a seed of its own, so that no part shifts another's."""
        cls = component(kind, part.type)
        if not issubclass(cls, _BASES[kind]):
            raise InputError(f"{part_id}: {part.type!r} is a {cls.__name__}, which is no {_BASES[kind].__name__}")
        asked = inspect.signature(cls.__init__).parameters
        known["weights"] = self.weights(part_id, part.weights)
        if part.encoder is not None:
            known["encoder"] = (
                innermost(self.encoders[part.encoder])
                if isinstance(part.encoder, str)
                else self.part("encoders", part_id, part.encoder)
            )
        if "weights" in asked and known["weights"] is None and asked["weights"].default is inspect.Parameter.empty:
            raise InputError(f"{part_id}: {part.type!r} needs `weights` (a hub name, a folder, or package:NAME)")
        options = {**part.options, **(cls.tiny if self.tiny else {})}
        try:
            with self.seeded(part_id):
                built = cls(**{k: v for k, v in known.items() if k in asked}, **options)
        except InputError as e:
            raise InputError(f"{part_id}: {e}") from e
        if part.weights and not self.tiny:
            self.borrowed[part_id] = part.weights
        return built

    @contextmanager
    def seeded(self, part_id: str) -> Iterator[None]:
        seed = hashlib.sha256(f"{self.config.seed}:{part_id}".encode()).digest()[:8]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int.from_bytes(seed, "big") % 2**63)
            yield

    def encoder(self, name: str, config: StreamConfig) -> Encoder:
        """The encoder of a stream, its own or that of another one."""
        if isinstance(config.encoder, str):
            encoder = self.encoders[config.encoder]
        else:
            encoder = self.part("encoders", f"inputs.{name}.encoder", config.encoder)
        if config.shares is None:
            self.encoders[name] = encoder
        elif len(list(encoder.parameters())) > len(list(innermost(encoder).parameters())):
            raise InputError(
                f"inputs.{name}.encoder: what is around the shared encoder of {config.shares!r} has weights of its own, which "
                f"no part would hold; give the stream an encoder of its own"
            )
        return encoder

    def aligner(self, name: str, config: StreamConfig, encoder: Encoder, width: int) -> InputAligner:
        """The aligner of a stream, its own or that of the stream that it is tied to."""
        if config.into == "memory":
            width = encoder.shape.channels
            if not config.marker:
                raise InputError(
                    f"inputs.{name}: a stream that feeds memory needs `marker`, the text that stands where an item is"
                )
        if config.tied:
            found, shape = self.aligners[config.tied]
            if (shape, found.width) != (encoder.shape, width):
                raise InputError(
                    f"inputs.{name} is tied to the aligner of {config.tied!r}, but it takes {encoder.shape} to a width of "
                    f"{width}, the other {shape} to {found.width}; give it an aligner of its own"
                )
            return found
        aligner: InputAligner = self.part(
            "aligners", f"inputs.{name}.aligner", config.aligner, shape=encoder.shape, width=width
        )
        # An aligner that starts from a checkpoint is trained further, and partly new: its values belong to the run.
        self.borrowed.pop(f"inputs.{name}.aligner", None)
        self.aligners[name] = (aligner, encoder.shape)
        return aligner

    def output(self, name: str, config: OutputConfig, backbone: Backbone, streams: Mapping[str, Stream]) -> Output:
        fed = None if config.feeds is None else fed_by(streams[config.feeds])
        decoder: Decoder = self.part("decoders", f"outputs.{name}.decoder", config.decoder, condition=fed)
        if decoder.modality != config.modality:
            raise InputError(
                f"outputs.{name} is to make {config.modality}, but {config.decoder.type} makes {decoder.modality}"
            )
        if config.aligner is None:
            if decoder.encodes != "captions":
                raise InputError(
                    f"outputs.{name}: {config.decoder.type} as it stands here is steered by no words (its condition is "
                    f"{decoder.condition.length} x {decoder.condition.width}), which `read: text` asks for; use a decoder that is, such "
                    f"as stable_diffusion without `width`, or another `read` and an aligner"
                )
            return Output(None, decoder, config.layers, config.embed, None)
        if fed is not None:
            _fits(name, config, streams, fed, decoder)
        owner = _owner(self.config, config)
        numbers = {"at": owner.signals, "before": owner.signals, "queries": owner.queries, "all": 0}
        aligner: OutputAligner = self.part(
            "output_aligners",
            f"outputs.{name}.aligner",
            config.aligner,
            width=backbone.width * len(config.layers),
            length=1 if fed else numbers[config.read],
            condition=ConditionShape(1, fed.width) if fed else decoder.condition,
        )
        self.borrowed.pop(f"outputs.{name}.aligner", None)
        with self.seeded(f"outputs.{name}.queries"):
            queries = torch.randn(config.queries, backbone.width) * 0.02 if config.queries else None
        # At scale=tiny the LLM has few layers, and the uppermost stands for those above it.
        layers = [min(k, backbone.layers) for k in config.layers] if self.tiny else config.layers
        return Output(aligner, decoder, layers, config.embed, queries, config.feeds or "")


def fed_by(stream: Stream) -> ConditionShape:
    """The vectors that an item of a stream is read as: as many as tokens, as wide as the aligner's inside."""
    aligner = stream.aligner
    return ConditionShape(aligner.number(stream.eyes.units(), stream.eyes.extent()), aligner.inner or aligner.width)


def _fits(
    name: str, config: OutputConfig, streams: Mapping[str, Stream], fed: ConditionShape, decoder: Decoder
) -> None:
    """InputError where what the LLM is fed cannot be what steers the decoder."""
    if streams[str(config.feeds)].aligner.tokenize is not None:
        raise InputError(
            f"outputs.{name}.feeds: the aligner of {config.feeds!r} reads the instruction, and an item that is said has none; use "
            f"one that does not"
        )
    asked = decoder.condition
    if (asked.length, asked.width) != (fed.length, fed.width) or asked.pooled not in (0, fed.width):
        raise InputError(
            f"outputs.{name}: {config.feeds!r} reads an item as {fed.length} vectors of {fed.width}, but {config.decoder.type} is "
            f"steered by {asked.length} of {asked.width}{f' and a pooled one of {asked.pooled}' if asked.pooled else ''}; use a "
            f"decoder of that shape (a pooled vector is the mean of the others), or another encoder or aligner"
        )


def _learns(config: SystemConfig, outputs: Mapping[str, Output]) -> None:
    """InputError where a stage has an objective that a decoder has nothing for."""
    for stage in config.stages:
        wanted = [n.split(".", 1) for n, weight in stage.objectives.items() if weight and n != "text"]
        for name, kind in wanted:
            way, beside = outputs[name], [k for n, k in wanted if n == name]
            if not (why := unmet(kind, beside, way.decoder, bool(way.feeds))):
                continue
            others = [f"{name}.{k}" for k in instead(beside, way.decoder, bool(way.feeds)) if k not in beside]
            raise InputError(
                f"stages.{stage.name}.objectives: {name}.{kind}: expected {why}; got outputs.{name}.decoder "
                f"({config.outputs[name].decoder.type}); use {', '.join(others) or 'another decoder'} instead"
            )


def innermost(encoder: Encoder) -> Encoder:
    """The encoder that others are built around; itself where there is none inside it."""
    inner = getattr(encoder, "encoder", None)
    return innermost(inner) if isinstance(inner, Encoder) else encoder


def assemble(
    config: SystemConfig,
    *,
    load: bool = True,
    device: torch.device | str = "cpu",
    vocabulary: Vocabulary | None = None,
    held: Collection[str] = (),
) -> Assembly:
    """Build a system. With `load` False parts get their shape only; `held` names single parts for which that is enough,
    because a run's checkpoint holds their values. On the meta device nothing is allocated and no tokenizer is needed."""
    meta = torch.device(device).type == "meta"
    builder = _Builder(config, load and not meta, held)
    if vocabulary is None and not meta:
        vocabulary = vocabulary_of(config)
    with torch.device("meta" if meta else "cpu"):
        backbone: Backbone = builder.part(
            "backbones", "backbone", config.backbone, vocabulary=vocabulary.own if vocabulary else None
        )
        # A plan reads no tokenizer: there, none of the added tokens counts as known to it.
        new = vocabulary.size - vocabulary.own if vocabulary else len(set(added_tokens(config)))
        backbone.add_rows(vocabulary.own if vocabulary else None, new)
        own_first = sorted(config.inputs.items(), key=lambda pair: pair[1].shares is not None)
        eyes = {n: builder.encoder(n, s) for n, s in own_first}
        own_first = sorted(config.inputs.items(), key=lambda pair: pair[1].tied is not None)
        aligners = {n: builder.aligner(n, s, eyes[n], backbone.width) for n, s in own_first}
        streams = {
            n: Stream(eyes[n], aligners[n], s.into, shared=s.shares is not None, tied=s.tied is not None)
            for n, s in config.inputs.items()
        }
        memory = {s.aligner.width for n, s in streams.items() if s.into == "memory"}
        if len(memory) > 1:
            raise InputError(f"streams that feed memory must agree on its width; they give {sorted(memory)}")
        for name, graft in config.backbone.grafts.items():
            built = builder.part(
                "grafts", f"backbone.grafts.{name}", graft, backbone=backbone, memory_width=next(iter(memory), 0)
            )
            with builder.seeded(f"backbone.grafts.{name}.attach"):
                backbone.add_graft(name, built)
        outputs = {n: builder.output(n, o, backbone, streams) for n, o in config.outputs.items()}
    _learns(config, outputs)
    model = MultimodalModel(streams, backbone, outputs).eval()
    for p in model.parameters():
        p.requires_grad_(False)
    if not meta:
        model.to(device)
    plans = {n: _plan(config.inputs[n], s) for n, s in streams.items()}
    processor = Processor(vocabulary, plans, config.length, _signals(config, model, vocabulary))  # type: ignore[arg-type]  # a plan never processes
    return Assembly(config, model, processor, vocabulary, builder.borrowed)  # type: ignore[arg-type]


def processor_of(config: SystemConfig) -> Processor:
    """The processor alone: the tokenizer is read, the parts are built without values. For looking at data."""
    assembly, vocabulary = assemble(config, device="meta"), vocabulary_of(config)
    return replace(assembly.processor, vocabulary=vocabulary, outputs=_signals(config, assembly.model, vocabulary))


def vocabulary_of(config: SystemConfig, folder: Path | None = None) -> Vocabulary:
    """The vocabulary that the config asks for: from `folder`, from the backbone's weights, or a tiny one."""
    template, system, tokens = config.template, config.system, added_tokens(config)
    if folder is None and config.scale == "tiny":
        return Vocabulary.tiny(template=template, system=system, add_tokens=tokens)
    if folder is None and config.backbone.weights is None:
        raise InputError("backbone: `weights` is missing (a hub name, a folder, or package:NAME)")
    folder = folder or Weights(str(config.backbone.weights)).folder()
    return Vocabulary.load(folder, template=template, system=system, add_tokens=tokens)


def added_tokens(config: SystemConfig) -> list[str]:
    """What the vocabulary gains: the tokens of the config, and the signals of its output streams."""
    return [*config.backbone.add_tokens, *(t for o in config.outputs.values() for t in spelt(o))]


def spelt(config: OutputConfig) -> list[str]:
    """How the signals of an output stream are spelt; none where they are another stream's."""
    return (
        []
        if isinstance(config.signals, str)
        else [config.spelling.replace("{}", str(i)) for i in range(config.signals)]
    )


def _owner(config: SystemConfig, output: OutputConfig) -> OutputConfig:
    """The output stream whose signals these are."""
    return config.outputs[output.signals] if isinstance(output.signals, str) else output


def _signals(config: SystemConfig, model: MultimodalModel, vocabulary: Vocabulary | None) -> dict[str, Signals]:
    """What the processor needs of the output streams, free of weights; those with signals of their own come first."""
    if vocabulary is None:
        return {}
    found = {}
    for name, own in sorted(config.outputs.items(), key=lambda pair: isinstance(pair[1].signals, str)):
        owner = _owner(config, own)
        found[name] = Signals(
            modality=own.modality,
            ids=tuple(i for t in spelt(owner) for i in vocabulary.structure(t)),
            queries=owner.queries,
            read=own.read,
            taught=owner.taught,
            transform=model.ways_out[name].decoder.transform,
            share=own.signals if isinstance(own.signals, str) else "",
            feeds=own.feeds or "",
            fed=0 if own.feeds is None else fed_by(model.streams[own.feeds]).length,
        )
    return found


def _plan(config: StreamConfig, stream: Stream) -> StreamPlan:
    """What the processor needs of a stream, free of weights."""
    return StreamPlan(
        modality=config.modality or stream.eyes.modality,
        transform=stream.eyes.transform,
        tokens=stream.aligner.count or _Tokens(stream.aligner),
        into=config.into,
        before=config.before,
        after=config.after,
        marker=config.marker,
        opening=config.opening,
        trim=config.trim,
        tokenize=stream.aligner.tokenize,
        several=stream.eyes.several,
    )


class _Tokens:
    """How many tokens an item of n units gives: asked of the aligner once per n, and remembered, so that it pickles."""

    def __init__(self, aligner: InputAligner) -> None:
        self.known = {n: aligner.tokens(n) for n in range(1, 129)}

    def __call__(self, units: int, extent: Extent) -> int:
        if units not in self.known:
            raise InputError(
                f"an item of {units} units is more than the {max(self.known)} that a stream takes; shorten it"
            )
        return self.known[units]
