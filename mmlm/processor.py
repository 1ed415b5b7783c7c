"""Conversations to batches: one object serves training, evaluation and the demo.

It writes exactly as many slots as encoder and aligner will give tokens; a slot is a position, not an id, so no text can
make one. It lives in data workers: it holds no weights and pickles.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from mmlm.batch import IGNORE, NOWHERE, Batch, Targets, Units
from mmlm.errors import InputError
from mmlm.interfaces import Count, Cut, Tokenize, Transform
from mmlm.media import digest
from mmlm.sample import Extent, Item, Modality, Sample, Turn
from mmlm.templates import NUMBER, Template
from mmlm.vocabulary import Frame, Place, Rendered, Segment, Text, Vocabulary

Read = Literal["at", "before", "queries", "all", "text", "feedback"]


@dataclass(frozen=True, slots=True)
class StreamPlan:
    """What the processor knows of a stream: how an item becomes units, and how many tokens it becomes."""

    modality: Modality
    transform: Transform
    tokens: Count
    into: Literal["slots", "memory"] = "slots"
    before: str = ""
    after: str = ""
    marker: str = ""
    opening: str = ""
    trim: bool = False
    tokenize: Tokenize | None = None
    several: Transform | None = None  # in place of `transform`, for a sample with more than one item of the modality

    def cut(self, item: Item, alone: bool) -> tuple[Cut, str]:
        """The item as units, and the key of these units."""
        other = None if alone else self.several
        return Cut.of((other or self.transform)(item)), digest(item) + ("*" if other else "")


@dataclass(frozen=True, slots=True)
class Signals:
    """What the processor knows of an output stream: the ids that stand for an item, how many learned `queries` follow the
    last of them, and which states are read - those at the ids, one `before` each, at the `queries`, or of `all` the sample
    up to the first of the ids. Or none are: between the two ids stands `text`, the item's caption. Or `feedback`: behind the
    first id the LLM reads the item as its `fed` tokens of the input stream `feeds`, and the state before each is read.

    Streams that `share` write one run for all of them. `taught`: how many of the ids are supervised.
    """

    modality: Modality
    ids: tuple[int, ...]
    queries: int = 0
    read: Read = "at"
    taught: int = 1
    transform: Transform | None = None
    share: str = ""
    feeds: str = ""
    fed: int = 0

    def run(self, pad: int) -> list[int]:
        """The ids of a run (of one that holds text: those around it); `pad` stands where the LLM reads vectors."""
        return [*self.ids[:1], *[pad] * self.fed, *self.ids[1:], *[pad] * self.queries]

    def vector(self, k: int) -> int | None:
        """The number of the vector, fed or learned, that stands at id k of a run; None where an id does."""
        number = k - 1 if self.fed else k - len(self.ids)
        return number if 0 <= number < self.fed + self.queries else None


@dataclass(frozen=True, slots=True)
class Meant:
    """An item that the assistant says, in one output stream: where its run of signals begins in its example."""

    stream: str
    start: int
    caption: str
    key: str
    units: Float[Tensor, "..."] | None = None


@dataclass(frozen=True, slots=True)
class Placed:
    """One item in one stream: its units, and where in its example it begins and its slots are."""

    stream: str
    units: Float[Tensor, "n ..."]
    start: int
    slots: int
    key: str
    instruction: list[int] | None = None
    extent: Extent = ()


@dataclass(frozen=True, slots=True)
class Example:
    """A sample as ids, labels and units. `dropped` counts exchanges left out because the context was full; `lead` is
    what a reply to it begins with that is the template's, not the model's."""

    ids: list[int]
    labels: list[int]
    placed: list[Placed]
    id: str
    dropped: int = 0
    lead: str = ""
    meant: list[Meant] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def learned(self) -> int:
        """Supervised tokens. The first position of a sample predicts from nothing, so it never counts."""
        return sum(label != IGNORE for label in self.labels[1:])


@dataclass(slots=True)
class _Laid:
    """A run of segments laid out: what an example is made of."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    placed: list[Placed] = field(default_factory=list)
    meant: list[Meant] = field(default_factory=list)

    def put(self, ids: Sequence[int], learn: bool) -> None:
        """Append ids, supervised or not."""
        self.ids += ids
        self.labels += ids if learn else [IGNORE] * len(ids)


@dataclass(frozen=True, slots=True)
class Processor:
    """Sample -> Example -> Batch. `length` is the context: the most positions a sample may take."""

    vocabulary: Vocabulary
    streams: Mapping[str, StreamPlan]
    length: int
    outputs: Mapping[str, Signals] = field(default_factory=dict)
    media: frozenset[str] = frozenset()  # output streams whose items are read, not only named

    def __call__(
        self, sample: Sample, *, reply: bool = False, template: Template | None = None, length: int | None = None
    ) -> Example:
        """Raises InputError for an item that cannot be read, an item no stream takes, a sample that is too long even as
        one exchange, or a training sample with nothing to learn."""
        limit = min(length or self.length, self.length)
        sample = replace(sample, turns=tuple(_asked_once(t) for t in sample.turns))
        rendered = self._render(sample, reply, template)
        laid = [self._lay(run, sample) for run in (rendered.head, *rendered.exchanges)]
        dropped = 0
        while len(laid) > 2 and sum(len(run.ids) for run in laid) > limit:
            dropped += 1
            if reply:  # what opens the text may stand in the first exchange, so that it is written anew without it
                rendered = self._render(sample, reply, template, skip=dropped)
                laid = [self._lay(run, sample) for run in (rendered.head, *rendered.exchanges)]
            else:
                laid.pop()
        if (need := sum(len(run.ids) for run in laid)) > limit:
            slots = sum(p.slots for run in laid for p in run.placed)
            more = (
                f"let the reply have fewer than {self.length - limit} tokens"
                if reply and limit < self.length
                else "raise `length`"
            )
            raise InputError(
                f"{sample.origin or sample.id}: the sample needs {need} positions ({slots} of them slots of items), the "
                f"context has {limit}{' beside the reply' * reply}; {more}, shorten the text, or use fewer items"
            )
        whole = _Laid()
        for run in laid:
            whole.placed += [replace(p, start=p.start + len(whole.ids)) for p in run.placed]
            whole.meant += [replace(m, start=m.start + len(whole.ids)) for m in run.meant]
            whole.ids += run.ids
            whole.labels += run.labels
        lead = rendered.leads[-1] if reply and rendered.leads else ""
        example = Example(whole.ids, whole.labels, whole.placed, sample.id, dropped, lead, whole.meant)
        if not reply and not example.learned:
            raise InputError(f"{sample.origin or sample.id}: no supervised token: the assistant says nothing in it")
        return example

    def _render(self, sample: Sample, reply: bool, template: Template | None, skip: int = 0) -> Rendered:
        around = {s.modality: self._frame(s.modality) for s in self.streams.values()}
        speaks = {s.modality for s in self.outputs.values()}
        return self.vocabulary.render(sample, reply=reply, template=template, skip=skip, around=around, speaks=speaks)

    def _takers(self, modality: Modality) -> list[tuple[str, StreamPlan]]:
        return [(n, s) for n, s in self.streams.items() if s.modality == modality]

    def _frame(self, modality: Modality) -> Frame:
        """What stands around an item: the first stream's `before`, the last one's `after`, and openings and markers."""
        takers = [s for _, s in self._takers(modality)]
        opening, marker = ("".join(getattr(s, n) for s in takers if s.into == "memory") for n in ("opening", "marker"))
        slots = [s for s in takers if s.into == "slots"]
        before, after = (slots[0].before, slots[-1].after) if slots else ("", "")
        return Frame(before, after + marker, opening, any(s.trim for s in takers))

    def _lay(self, segments: Sequence[Segment], sample: Sample) -> _Laid:
        """Ids and labels of some segments, with slots for their items."""
        laid = _Laid()
        for segment in segments:
            if isinstance(segment, Text):
                laid.put(segment.ids, segment.learn)
            elif sample.turns[segment.turn].role == "assistant":
                self._mean(segment, laid, sample)
            else:
                self._place(segment, laid, sample)
        return laid

    def _mean(self, place: Place, laid: _Laid, sample: Sample) -> None:
        """The runs of signals by which the assistant says an item: one for all output streams that share it."""
        for name, stream in self.outputs.items():
            if stream.modality != place.item.modality:
                continue
            if stream.read == "text":
                self._prompt(place.item, stream, laid, sample)
                continue
            units = None
            if name in self.media and stream.transform is not None:
                try:
                    units = Cut.of(stream.transform(place.item)).units
                except InputError as e:
                    raise InputError(f"{sample.origin or sample.id}: {e}") from e
            start = next((m.start for m in reversed(laid.meant) if m.stream == stream.share), len(laid.ids))
            key = hashlib.sha256(f"{digest(place.item)} {place.item.caption}".encode()).hexdigest()
            laid.meant.append(Meant(name, start, place.item.caption, key, units))
            if stream.feeds:
                laid.placed.append(self._fed(place.item, stream, start + 1, sample))
            if not stream.share:
                taught = stream.ids[: stream.taught]
                for i in stream.run(self.vocabulary.pad):
                    laid.put([i], learn=i in taught)

    def _prompt(self, item: Item, stream: Signals, laid: _Laid, sample: Sample) -> None:
        """The run of an item that is asked for by its caption. Raises InputError where it has none."""
        if not (caption := item.caption.strip()):
            raise InputError(
                f"{sample.origin or sample.id}: the assistant says an item ({item.modality}) without a caption, which the model "
                f"is to write as its prompt; give the item a caption, or leave the record out"
            )
        if not stream.share:
            prompt = self.vocabulary.encode(self.vocabulary.gap + caption)
            laid.put([*stream.ids[:1], *prompt, *stream.ids[1:]], learn=True)

    def _fed(self, item: Item, stream: Signals, start: int, sample: Sample) -> Placed:
        """An item that the assistant says, as the LLM reads it behind a signal. Raises InputError where it cannot be read, or
        becomes another number of tokens than the decoder is steered by."""
        plan = self.streams[stream.feeds]
        try:
            cut, key = plan.cut(item, alone=True)
            if (slots := plan.tokens(len(cut.units), cut.extent)) != stream.fed:
                raise InputError(f"an item of {slots} tokens, where the output stream says {stream.fed}")
        except InputError as e:
            raise InputError(f"{sample.origin or sample.id}: {e}") from e
        return Placed(stream.feeds, cut.units, start, slots, key, None, cut.extent)

    def _place(self, place: Place, laid: _Laid, sample: Sample) -> None:
        takers = self._takers(place.item.modality)
        if not takers:
            known = ", ".join(sorted({s.modality for s in self.streams.values()})) or "text"
            raise InputError(
                f"{sample.origin or sample.id}: it holds {place.item.modality}, but the system's inputs take only {known}"
            )
        slotted = [n for n, s in takers if s.into == "slots"]
        asked = [i for t in sample.turns if t.role == "user" for i in t.items]  # what is still to be said is not known
        alone = sum(i.modality == place.item.modality for i in asked) == 1
        for name, stream in takers:
            try:
                cut, key = stream.cut(place.item, alone)
            except InputError as e:
                raise InputError(f"{sample.origin or sample.id}: {e}") from e
            slots = stream.tokens(len(cut.units), cut.extent) if stream.into == "slots" else 0
            instruction = stream.tokenize(sample.turns[place.turn].text) if stream.tokenize else None
            # The frame of the first and the last stream is written already; between two streams each has its own.
            if stream.into == "slots" and name != slotted[0]:
                before = stream.before.replace(NUMBER, str(place.number))
                laid.put(self.vocabulary.structure(before), learn=False)
            laid.placed.append(Placed(name, cut.units, len(laid.ids), slots, key, instruction, cut.extent))
            laid.put([self.vocabulary.pad] * slots, learn=False)
            if stream.into == "slots" and name != slotted[-1]:
                laid.put(self.vocabulary.structure(stream.after), learn=False)

    def collate(self, rows: Sequence[Sequence[Example]], *, left: bool = False) -> Batch:
        """Rows of examples (several in a row: packed) as a batch, padded on the right to learn, on the left to reply."""
        width = max(sum(len(e) for e in row) for row in rows)
        ids = torch.full((len(rows), width), self.vocabulary.pad)
        labels = torch.full((len(rows), width), IGNORE)
        segments = torch.zeros_like(ids)
        positions = torch.zeros_like(ids)
        placed: dict[str, list[tuple[int, Placed]]] = {}
        meant: dict[str, list[tuple[int, int, Meant]]] = {}
        for r, row in enumerate(rows):
            at = width - sum(len(e) for e in row) if left else 0
            for s, example in enumerate(row, start=1):
                here = slice(at, at + len(example))
                ids[r, here] = torch.tensor(example.ids)
                # The first position of a sample would be predicted from the sample before it.
                labels[r, here] = torch.tensor([IGNORE, *example.labels[1:]])
                segments[r, here] = s
                positions[r, here] = torch.arange(len(example))
                for p in example.placed:
                    placed.setdefault(p.stream, []).append((r * width + at + p.start, p))
                for m in example.meant:
                    meant.setdefault(m.stream, []).append((r * width + at, r * width + at + m.start, m))
                at += len(example)
        streams = {name: _gather(placed[name], self.streams[name]) for name in self.streams if name in placed}
        targets = {name: _aim(meant[name], self.outputs[name]) for name in self.outputs if name in meant}
        return Batch(ids, positions, segments, labels, streams, targets, tuple(e.id for row in rows for e in row))


def _asked_once(turn: Turn) -> Turn:
    """A turn as the model says it: without the items that stand beside others."""
    if turn.role != "assistant":
        return turn
    return replace(turn, parts=tuple(p for p in turn.parts if isinstance(p, str) or not p.beside))


def _aim(meant: list[tuple[int, int, Meant]], stream: Signals) -> Targets:
    """All runs of one output stream: where their states are read, and what they mean. `meant` holds for each the flat position
    where its sample begins, and that of its first signal."""
    starts = torch.tensor([start for _, start, _ in meant])[:, None]
    signals = starts + torch.arange(len(stream.ids))
    queries = starts + len(stream.ids) + torch.arange(stream.queries)
    if stream.read == "all":
        spans = [torch.arange(first, start + 1) for first, start, _ in meant]
        where = pad_sequence(spans, batch_first=True, padding_value=NOWHERE)
    else:
        fed = starts + torch.arange(stream.fed)
        where = {"at": signals, "before": signals - 1, "queries": queries, "feedback": fed}[stream.read]
    units = [m.units for *_, m in meant]
    return Targets(
        where=where,
        queries=queries,
        captions=tuple(m.caption for *_, m in meant),
        keys=tuple(m.key for *_, m in meant),
        units=torch.cat([u for u in units if u is not None]) if units[0] is not None else None,
    )


def _gather(placed: list[tuple[int, Placed]], stream: StreamPlan) -> Units:
    """All items of one stream. Their slots are counted once more against what the aligner promises for their units."""
    for _, p in placed:
        if stream.into == "slots" and (given := stream.tokens(len(p.units), p.extent)) != p.slots:
            raise ValueError(
                f"stream {p.stream}: {p.slots} slots for an item of {len(p.units)} units, which gives {given} tokens"
            )
    where = [torch.arange(start, start + p.slots) for start, p in placed]
    instruction: Int[Tensor, "N I"] | None = None
    if stream.tokenize is not None:
        instruction = pad_sequence(
            [torch.tensor(p.instruction or [], dtype=torch.long) for _, p in placed], batch_first=True
        )
    return Units(
        values=torch.cat([p.units for _, p in placed]),
        counts=tuple(len(p.units) for _, p in placed),
        starts=torch.tensor([start for start, _ in placed]),
        where=torch.cat(where),
        keys=tuple(p.key for _, p in placed),
        instruction=instruction,
        extents=tuple(p.extent for _, p in placed) if any(p.extent for _, p in placed) else (),
    )
