"""The form of a config: one file is one system, its parts and its stages. The descriptions here document it."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, model_validator
from pydantic_core import PydanticCustomError

from mmlm.config.problems import dotted
from mmlm.config.rules import SPELLING, broken
from mmlm.sample import Modality

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]
Decay = Annotated[float, Field(ge=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]
Name = Annotated[str, Field(min_length=1)]
RULE = "rule"  # the type of the error that stands for a broken rule of mmlm.config.rules


class Model(BaseModel):
    """What all blocks share: no unknown keys, no values of another kind, no changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ClassBlock(Model):
    """A block that names a class: every key that is no field of the schema is an option of the class."""

    options: dict[str, Any] = Field(
        {}, description="The other keys of the block: keyword-only parameters of the class (`mmlm config options`)."
    )

    @model_validator(mode="before")
    @classmethod
    def _collect(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "options" in data:
            return data
        known = {k: v for k, v in data.items() if k in cls.model_fields}
        return {**known, "options": {k: v for k, v in data.items() if k not in cls.model_fields}}


class PartConfig(ClassBlock):
    """A part: which class, which weights; every other key is an option of the class."""

    type: Name = Field(description="Name of the part, as `mmlm list` shows it, or module:Class of your own.")
    weights: Name | None = Field(
        None,
        description="Checkpoint with the part's values: a hub name, a folder (./ is beside this file), or package:NAME; "
        "null starts at random.",
    )
    encoder: Annotated[
        Annotated["PartConfig", Tag("<part>")] | Annotated[Name, Tag("<stream>")] | Annotated[None, Tag("<none>")],
        Discriminator(lambda value: "<stream>" if isinstance(value, str) else "<none>" if value is None else "<part>"),
    ] = Field(
        None,
        description="The part this one is built around (an image encoder for frames), or the name of another stream: then it "
        "is the innermost part of that stream's encoder, shared.",
    )


class StreamConfig(Model):
    """One way into the model: an encoder, an aligner, and where the tokens go."""

    modality: Modality = Field(description="What items it takes; the stream's name where that is one of them.")
    encoder: Annotated[
        Annotated[PartConfig, Tag("<part>")] | Annotated[Name, Tag("<stream>")],
        Discriminator(lambda value: "<stream>" if isinstance(value, str) else "<part>"),
    ] = Field(description="The encoder, or the name of another stream whose encoder is shared.")
    aligner: PartConfig = Field(description="The aligner: features to tokens of the LLM.")
    tied: Name | None = Field(
        None,
        description="Another stream whose aligner this one uses, with its values; their `aligner` blocks are the same.",
    )
    into: Literal["slots", "memory"] = Field(
        "slots", description="Where tokens go: into slots of the prompt, or into the memory that grafts attend to."
    )
    before: str = Field("", description="Text before an item's slots; {n} in it is the item's number.")
    after: str = Field("", description="Text after an item's slots.")
    marker: str = Field("", description="Text that stands where an item is, for a stream that feeds memory.")
    opening: str = Field(
        "",
        description="Text in front of the marker, from where the item is not seen yet; items that stand side by side "
        "share one.",
    )
    trim: bool = Field(False, description="Leave out the spaces between an item and the text of its turn.")

    def nested(self) -> Iterator[PartConfig | str]:
        """The encoder, what it is built around, and so on; the last may be the name of another stream."""
        part: PartConfig | str | None = self.encoder
        while part is not None:
            yield part
            part = part.encoder if isinstance(part, PartConfig) else None

    @property
    def shares(self) -> str | None:
        """The stream whose encoder this one uses, itself or inside its own; None where it has one of its own."""
        return next((p for p in self.nested() if isinstance(p, str)), None)

    @property
    def pretrained(self) -> str | None:
        """The checkpoint that the encoder's values come from; None where it starts at random, or is another stream's."""
        return next((p.weights for p in self.nested() if isinstance(p, PartConfig) and p.weights), None)


class OutputConfig(Model):
    """One way out of the model: the ids by which the LLM asks for an item, an aligner, and a decoder that makes it."""

    modality: Modality = Field(description="What items it makes; the stream's name where that is one of them.")
    signals: Annotated[
        Annotated[Count, Tag("<count>")] | Annotated[Name, Tag("<stream>")],
        Discriminator(lambda value: "<stream>" if isinstance(value, str) else "<count>"),
    ] = Field(
        1,
        description="Ids that the vocabulary gains and an item is asked for with, or the stream whose ids are shared.",
    )
    spelling: Annotated[str, Field(pattern=r"^\S*\{\}\S*$")] = Field(
        SPELLING, description="How the ids are spelt; {} is their number, from 0. Nobody can type one."
    )
    taught: Annotated[int, Field(ge=1)] = Field(
        1, description="Ids that the LLM learns to say; it is made to say the rest once it has said the first."
    )
    read: Literal["at", "before", "queries", "all", "text", "feedback"] = Field(
        "at",
        description="What steers the decoder: states at the ids, one before each, at learned queries that follow the ids, or of "
        "the whole sample up to the first id; text that the LLM writes between the two ids; or vectors that it predicts "
        "behind the first id and reads again (feedback).",
    )
    feeds: Name | None = Field(
        None,
        description="For feedback: the input stream whose vectors of the item are predicted, and read while training.",
    )
    queries: Annotated[int, Field(ge=0)] = Field(0, description="Learned vectors that the LLM reads behind the ids.")
    layers: list[int] = Field(
        [-1], min_length=1, description="Layers whose states are read, side by side; -1 is what the head reads."
    )
    embed: bool = Field(False, description="Add what the LLM is given at a position to its state there (GILL).")
    aligner: PartConfig | None = Field(
        None, description="The output aligner: states to the decoder's condition; none where a text steers the decoder."
    )
    decoder: PartConfig = Field(description="The decoder: a condition to an item.")


class BackboneConfig(PartConfig):
    """The LLM, what is set into its layers, and what its vocabulary gains."""

    grafts: dict[str, PartConfig] = Field({}, description="Modules set into the LLM's layers, by a name of one's own.")
    add_tokens: list[Name] = Field(
        [], description="Tokens that the tokenizer gains; their rows are the part backbone.added, beside the LLM's own."
    )


class Train(Model):
    """How one part is trained in a stage; a part that is not listed is frozen."""

    lr: Rate = Field(description="Peak learning rate of the part.")
    weight_decay: Decay | None = Field(None, description="Weight decay of the part; the stage's where it is not given.")


class DataConfig(ClassBlock):
    """A set of samples: how it is read, and how much of it."""

    reader: Name = Field(description="Name of the reader, or module:Class.")
    path: Name = Field(description="What the reader reads: a file or a folder.")
    ratio: Rate = Field(
        1.0, description="How often each sample is seen per epoch: 0.5 takes half of them, 2 takes each twice."
    )


class StageConfig(Model):
    """One training phase: what is trained, on which data, for how long."""

    name: Name = Field(description="Name of the stage, for `--stage`, overrides and the run folder.")
    data: list[DataConfig] = Field(min_length=1, description="The sets of samples, mixed by their ratios.")
    validation: list[DataConfig] = Field([], description="Sets whose loss is measured while training.")
    train: dict[str, Train] = Field(
        min_length=1,
        description="Part id (inputs.NAME.encoder, inputs.NAME.aligner, backbone ...) to how it is trained.",
    )
    objectives: dict[str, Annotated[float, Field(ge=0)]] = Field(
        {"text": 1.0},
        description="What is learned, with weights: `text`, and OUTPUT.NAME with a name of contrast, cosine, denoise, l2, mse, "
        "reconstruct.",
    )
    batch: Count = Field(description="Samples per optimiser step, over all devices.")
    micro_batch: Count | None = Field(
        None, description="Samples per forward and device; the whole share of the batch if null."
    )
    epochs: Rate = Field(1.0, description="Passes over the data; give this or `steps`.")
    steps: Count | None = Field(None, description="Optimiser steps; give this or `epochs`.")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate falls after warmup."
    )
    warmup: Annotated[float, Field(ge=0)] = Field(
        0.03, description="Linear warmup: a share of the steps where below 1, a whole number of steps from 1 on."
    )
    floor: Annotated[float, Field(ge=0, le=1)] = Field(
        0.0, description="Learning rate at the end, as a share of its peak."
    )
    weight_decay: Decay = Field(0.0, description="Decoupled weight decay of AdamW.")
    betas: Annotated[tuple[Beta, Beta], Field(strict=False)] = Field(
        (0.9, 0.999), description="The two betas of AdamW."
    )
    eps: Rate = Field(1e-8, description="The epsilon of AdamW.")
    clip: Rate | None = Field(
        1.0, description="Largest norm of the gradient over all trained parts; null does not clip."
    )
    pack: bool = Field(False, description="Put several samples into one row; none sees another.")
    length: Count | None = Field(None, description="Longest sample in positions; the system's `length` if null.")
    precision: Literal["fp32", "bf16"] = Field(
        "fp32", description="Number format of the forward; weights and sums stay fp32."
    )
    gradient_checkpointing: bool = Field(
        False, description="Compute activations of the LLM twice instead of keeping them."
    )
    cache_features: Annotated[int, Field(ge=0)] = Field(
        0,
        description="MiB of features of frozen encoders kept in memory, so that each item is encoded once; 0 keeps none.",
    )
    cache_states: Annotated[int, Field(ge=0)] = Field(
        0,
        description="MiB of states of the LLM kept in memory, so that it thinks once about each sample, where a stage trains "
        "only what reads them; 0 keeps none.",
    )
    save_every: Count | None = Field(None, description="Steps between checkpoints; a tenth of the stage if null.")
    log_every: Count = Field(10, description="Steps between lines of the log.")
    validate_every: Count | None = Field(
        None, description="Steps between validations; only the end of the stage if null."
    )
    workers: Annotated[int, Field(ge=0)] = Field(
        0, description="Processes that decode items; 0 decodes in the training process."
    )
    max_bad: Annotated[float, Field(ge=0, le=1)] = Field(
        0.01,
        description="Share of samples that may be unusable (each is listed in quarantine.jsonl) before training stops.",
    )
    template: Name | None = Field(None, description="Template of this stage; the system's if null.")


class Published(Model):
    """What the authors of the system published, to hold the plan against."""

    parameters: Rate | None = Field(None, description="Parameters of the whole system.")
    trainable: dict[str, Rate] = Field({}, description="Trained parameters by stage.")
    tokens: dict[str, Count] = Field({}, description="Tokens of one item by stream.")
    source: Name = Field(description="Where the figures stand: paper and table, or address.")
    note: str = Field("", description="What a reader of the figures should know.")


class SystemConfig(Model):
    """One system: its inputs, its LLM, its stages."""

    name: Name = Field(description="Name of the system.")
    about: str = Field("", description="What the system is, in a sentence or two.")
    template: Name = Field("chat", description="How a conversation becomes text; `chat` takes the LLM's own template.")
    system: str | None = Field(None, description="System prompt in place of the template's.")
    inputs: dict[str, StreamConfig] = Field({}, description="The streams, by name.")
    backbone: BackboneConfig = Field(description="The LLM.")
    outputs: dict[str, OutputConfig] = Field({}, description="The ways out beside text, by name.")
    stages: list[StageConfig] = Field([], description="The training phases, in order.")
    scale: Literal["full", "tiny"] = Field(
        "full", description="`tiny` keeps the topology and makes every part small and random, for a trial on a CPU."
    )
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Field(0, description="Seed of everything random.")
    length: Count = Field(2048, description="Positions of the LLM's context that are used.")
    published: Published | None = Field(None, description="Published figures to compare with.")

    @model_validator(mode="before")
    @classmethod
    def _name_modalities(cls, data: Any) -> Any:
        """A stream's modality is its name where none is given."""
        if not isinstance(data, dict):
            return data
        ways = {key: data[key] for key in ("inputs", "outputs") if isinstance(data.get(key), dict)}
        named = {
            key: {n: {"modality": n, **s} if isinstance(s, dict) else s for n, s in streams.items()}
            for key, streams in ways.items()
        }
        return {**data, **named}

    @model_validator(mode="after")
    def _hold_rules(self) -> "SystemConfig":
        if told := [f"{dotted(path)}: {text}" for path, text in broken(self.model_dump(exclude_unset=True))]:
            raise PydanticCustomError(RULE, "{told}", {"told": "\n".join(told)})
        return self
