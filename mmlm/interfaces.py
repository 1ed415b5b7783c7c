"""The contracts that parts keep, and the one legend of shape letters.

    B rows      T positions    D LLM width        N items          U units
    L features per unit        C channels         S tokens: of all items of a stream, in reading order
    I instruction ids          M memory rows      V vocabulary     P the shape of one unit (3 H W, mel frames ...)
    R runs of signals          Q states per run   K vectors of a condition, of width E

How the assembler calls a constructor: parameters *before* the `*` are what it knows and hands over by name (`weights`,
`encoder`, `shape`, `width`, `backbone`, `memory_width`, `length`, `condition`); parameters *after* the `*` are the options
of the config. A class may carry `tiny`, the option values that replace the configured ones at `scale=tiny`.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from mmlm.errors import InputError
from mmlm.sample import Extent, Item, Modality, Sample

if TYPE_CHECKING:
    from mmlm.backbones.backbone import Backbone
    from mmlm.batch import Memory


@dataclass(frozen=True, slots=True)
class Cut:
    """An item as n equal units, and how far it fills them where they alone do not say: the size of a picture cut into
    tiles, the length of a sound. What the numbers of an `extent` are is between an encoder and the aligners that read it;
    () says nothing, and then an item fills its units."""

    units: Float[Tensor, "n ..."]
    extent: Extent = ()

    @classmethod
    def of(cls, made: "Float[Tensor, 'n ...'] | Cut") -> "Cut":
        """What a transform gives, as a Cut."""
        return made if isinstance(made, Cut) else cls(made)


@runtime_checkable
class Transform(Protocol):
    """The CPU side of an encoder: one item to n equal units. Runs in data workers: holds no weights, pickles."""

    def __call__(self, item: Item) -> Float[Tensor, "n ..."] | Cut:
        """Decode `item` and cut it into units; raises InputError where it cannot be read."""
        ...


@runtime_checkable
class Count(Protocol):
    """How many tokens an item of so many units and of this extent becomes. Pickles, holds no weights."""

    def __call__(self, units: int, extent: Extent) -> int: ...


@runtime_checkable
class Tokenize(Protocol):
    """Text to ids of a part's own tokenizer (a Q-Former that reads the instruction). Pickles. No id is 0 but padding."""

    def __call__(self, text: str) -> list[int]: ...


@runtime_checkable
class Reader(Protocol):
    """Records of a data set as samples, at random access. Built with (path, *, options). Pickles; opens files lazily."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> Sample:
        """Record i; raises InputError that names file, record and field where it cannot be used."""
        ...

    def where(self, i: int) -> str:
        """The place of record i, for messages ("train.json:17")."""
        ...


@dataclass(frozen=True, slots=True)
class FeatureShape:
    """What an encoder says of one unit: `length` features of `channels`, of which the first `prefix` (class token,
    registers) stand before a `grid` of rows x columns (None where there is no grid: pooled features, sound)."""

    length: int
    channels: int
    grid: tuple[int, int] | None = None
    prefix: int = 0


@dataclass(frozen=True, slots=True)
class Features:
    """Features of all items of a stream: `counts[i]` units belong to item i, in reading order."""

    values: Float[Tensor, "U L C"]
    counts: tuple[int, ...]
    instruction: Int[Tensor, "N I"] | None = None  # ids of the aligner's own tokenizer, 0 = padding
    extents: tuple[Extent, ...] = ()  # of each item; empty where no item has one

    def extent(self, i: int) -> Extent:
        """The extent of item i."""
        return self.extents[i] if self.extents else ()


class Encoder(nn.Module, ABC):
    """Units to features. Called without gradient while no stage trains it.

    `several` is set where an item is cut in another way once its sample holds more than one of its kind.
    """

    modality: Modality
    shape: FeatureShape
    transform: Transform
    several: Transform | None = None
    tiny: ClassVar[Mapping[str, object]] = {}

    @abstractmethod
    def forward(self, units: Float[Tensor, "U ..."]) -> Float[Tensor, "U L C"]:
        """Encode each unit on its own."""

    def units(self, duration: float | None = None) -> int:
        """How many units a typical item gives (of `duration` seconds, for sound); for the plan, before any data."""
        return 1

    def extent(self, duration: float | None = None) -> Extent:
        """The extent of that typical item."""
        return ()


class InputAligner(nn.Module, ABC):
    """Features to LLM tokens (or to memory that grafts attend to). Built with (shape, width, *, options).

    `width` is the D of the tokens it gives. `tokenize` is set where the aligner reads the instruction, `count` where the
    number of tokens depends on an item's extent too. `inner` is set where the aligner offers its inside: one vector of that
    width for each token, on the way from features to tokens.
    """

    width: int
    inner: int | None = None
    tokenize: Tokenize | None = None
    count: Count | None = None
    tiny: ClassVar[Mapping[str, object]] = {}

    @abstractmethod
    def tokens(self, units: int) -> int:
        """How many tokens an item of `units` units that says nothing of its extent becomes: a promise that `forward` keeps
        exactly, as it keeps that of `count`."""

    def number(self, units: int, extent: Extent = ()) -> int:
        """How many tokens an item becomes: by `count` where there is one, else by `tokens`."""
        return self.count(units, extent) if self.count else self.tokens(units)

    @abstractmethod
    def forward(self, features: Features) -> Float[Tensor, "S D"]:
        """Tokens of all items, one after the other: S = sum of their numbers over `features.counts` (and `extents`)."""

    def inside(self, features: Features) -> Float[Tensor, "S E"]:
        """What an LLM that makes an item predicts of it: the vectors of width `inner`, else the tokens themselves. `forward`
        is `enter` of them."""
        return self(features)  # type: ignore[no-any-return]

    def enter(self, vectors: Float[Tensor, "S E"]) -> Float[Tensor, "S D"]:
        """The tokens of such vectors, of each on its own."""
        return vectors


@dataclass(frozen=True, slots=True)
class ConditionShape:
    """What a decoder is steered by: `length` vectors of `width`, and one of `pooled` beside them (0: none)."""

    length: int
    width: int
    pooled: int = 0


@dataclass(frozen=True, slots=True)
class Condition:
    """What steers a decoder, one row for each item that it makes."""

    values: Float[Tensor, "R K E"]
    pooled: Float[Tensor, "R F"] | None = None

    def __len__(self) -> int:
        return len(self.values)

    def rows(self, wanted: Sequence[int] | slice) -> "Condition":
        """Some of the rows."""
        return Condition(self.values[wanted], None if self.pooled is None else self.pooled[wanted])


def joined(conditions: Sequence[Condition]) -> Condition:
    """Conditions one below the other."""
    pooled = [c.pooled for c in conditions if c.pooled is not None]
    return Condition(torch.cat([c.values for c in conditions]), torch.cat(pooled) if pooled else None)


class OutputAligner(nn.Module, ABC):
    """States of the LLM to a decoder's condition. Built with (width, length, condition, *, options): the width D of a
    state, how many states Q a run of signals gives (0 for any number), and what the decoder asks for. `most`: how many states of
    a run it reads, the last ones, where it does not read all (0)."""

    tiny: ClassVar[Mapping[str, object]] = {}
    most: int = 0

    @abstractmethod
    def forward(self, states: Float[Tensor, "R Q D"], seen: Bool[Tensor, "R Q"] | None = None) -> Condition:
        """The condition of each run. `seen` says which states a run has, where it is not all of them."""


class Decoder(nn.Module, ABC):
    """A condition to items. Built with (weights, *, options); frozen unless a stage trains it. One that can be steered by
    vectors of any shape takes `condition: ConditionShape | None` before the `*`: the shape of those that the LLM predicts
    one after the other, None where it predicts none.

    `transform` makes units of the items that it learns to make (None where it learns from none). `fixed` names modules of it
    that are never trained, such as what makes media of latents; a stage that trains the decoder trains the rest."""

    modality: Modality
    fixed: ClassVar[tuple[str, ...]] = ()
    condition: ConditionShape
    transform: Transform | None = None
    tiny: ClassVar[Mapping[str, object]] = {}

    @property
    def eyes(self) -> Encoder | None:
        """The encoder that looks at the items, where conditions are compared with items: `goal` then takes what it says."""
        return None

    @property
    def encodes(self) -> Literal["captions", "items", "none"]:
        """What `goal` encodes: captions, by which the decoder can be steered too, or items; none where there is no goal."""
        if type(self).goal is Decoder.goal:
            return "none"
        return "captions" if self.eyes is None else "items"

    def goal(self, captions: Sequence[str], units: Float[Tensor, "R ..."] | None) -> Condition:
        """What the condition should be for items with these captions, and these units where the stage's objectives ask for
        media (of a decoder with `eyes`: the features of these units): the decoder's own encoding of them. Raises InputError
        where a decoder has none."""
        raise InputError(f"{type(self).__name__} has no encoding of its own to be compared with; train it by `denoise`")

    def denoise(self, units: Float[Tensor, "R ..."], condition: Condition) -> Float[Tensor, " R"]:
        """The loss of making these units from this condition, for each. Raises InputError where a decoder has none."""
        raise InputError(
            f"{type(self).__name__} is not trained by making items; use an objective that compares conditions"
        )

    @property
    def scale(self) -> Float[Tensor, ""]:
        """What the objective `contrast` multiplies cosines with."""
        return torch.ones(())

    def fill(self, items: Sequence[Item]) -> None:
        """Take the items that can be found. Raises InputError for one that cannot be read, or where a decoder makes items."""
        raise InputError(f"{type(self).__name__} makes items and finds none; it takes no index")

    @abstractmethod
    def decode(self, condition: Condition, seeds: Sequence[int]) -> list[Item]:
        """The items; each is the same for the same condition and seed, whatever stands beside it."""


class Graft(nn.Module, ABC):
    """A module set into the LLM's layers. Built with (backbone, memory_width, *, options).

    A graft never changes the LLM's own module tree where it can help it (hooks do), so that the LLM's weights keep their names.
    """

    reads_memory: ClassVar[bool] = False
    tiny: ClassVar[Mapping[str, object]] = {}

    @abstractmethod
    def attach(self, backbone: "Backbone") -> None:
        """Hang this graft into the layers of `backbone`; called once, after the LLM's weights are in place."""

    def remember(self, memory: "Memory | None") -> None:
        """Take the memory of the coming forward; only grafts with `reads_memory` are asked."""

    def owns(self, name: str) -> bool:
        """True for a parameter inside the backbone (by its name there) that belongs to this graft, not to the LLM."""
        return False
