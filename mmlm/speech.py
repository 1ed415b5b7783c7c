"""How a reply says items: what must follow a signal is forced, what stands behind it is read or written, and decoders make
what is meant."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmlm.assemble import Assembly
from mmlm.batch import IGNORE, Targets
from mmlm.errors import InputError
from mmlm.interfaces import Condition, Decoder
from mmlm.processor import Example, Meant
from mmlm.sample import Item, Part

_CUT = "the reply reached its length limit while it asked for an item ({name}), which was not made; raise the limit"
_FULL = "the reply asked for more items than the {most} that it may hold; no more were made"
_LONG = (
    "{name}: steered by the last {most} of {read} states; what was said before them is not in it: ask in fewer words"
)
_EMPTY = "{name}: the reply asked for an item and wrote no prompt for it, so that none was made"


Finish = Literal["end", "limit", "stop"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said: the text, its ids with the log-probability of each, and why it ended. `parts` holds text and items
    in the order in which they were said; `streams` are the output streams that made the items; `notes` say what went wrong with
    an item. `hidden` are the stretches of the ids, from one up to another, by which items were asked for: none of the text."""

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish
    prompt_tokens: int
    parts: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()
    streams: tuple[str, ...] = ()
    hidden: tuple[tuple[int, int], ...] = ()

    @property
    def items(self) -> tuple[Item, ...]:
        """The items, in the order in which they were said."""
        return tuple(p for p in self.parts if not isinstance(p, str))


@dataclass(slots=True)
class Asked:
    """A run of signals: the output stream that they belong to, and where among the said ids it begins and, once it is whole,
    stops. `read` are the tokens of the vectors that were predicted in it, as the LLM read them."""

    stream: str
    start: int
    stop: int = 0
    read: list[Float[Tensor, " D"]] = field(default_factory=list)


class Run:
    """The signals of one reply under way: the runs that are whole, and the one that is `open`. `pending` are the ids that must
    follow; `standing` says for which vector, predicted or learned, of which run the last id stands."""

    def __init__(self, speech: "Speech") -> None:
        self.speech = speech
        self.asked: list[Asked] = []
        self.open: Asked | None = None
        self.pending: list[int] = []
        self.standing: tuple[Asked, int] | None = None
        self.said = 0
        self.wished = False  # whether the likeliest id now would ask for one more item than the reply may hold
        self.refused = False  # whether that was so at any id that was said

    @property
    def full(self) -> bool:
        """Whether the reply holds as many items as it may."""
        return len(self.asked) >= self.speech.most

    @property
    def hidden(self) -> tuple[tuple[int, int], ...]:
        """Where among the said ids the runs stand, whole or not."""
        runs = [*self.asked, self.open] if self.open else self.asked
        return tuple((r.start, r.stop or self.said) for r in runs)

    def pieces(self, ids: Sequence[int], lead: str) -> list[tuple[Sequence[int], str]]:
        """What stands before, between and behind the runs, each with what its text begins with and is not the model's own:
        `lead`, and behind a run what the tokenizer puts there."""
        borders = [0, *(b for span in self.hidden for b in span), len(ids)]
        gap = self.speech.assembly.vocabulary.gap
        return [
            (ids[a:b], gap if k else lead) for k, (a, b) in enumerate(zip(borders[::2], borders[1::2], strict=True))
        ]

    def take(self, token: int) -> bool:
        """One more id was said; gives whether it is of a run, and so none of the text."""
        self.standing = None
        at, self.said = self.said, self.said + 1
        self.wished, self.refused = False, self.refused or self.wished
        if self.open is None:
            if token not in self.speech.first or self.full:
                return False
            self.open = Asked(self.speech.first[token], at)
            self.pending = self.speech.following(self.open.stream)
        elif self.pending:
            self.pending.pop(0)
        signals = self.speech.outputs[self.open.stream]
        if (number := signals.vector(at - self.open.start)) is not None:
            self.standing = (self.open, number)
        if token == signals.ids[-1] if signals.read == "text" else not self.pending:
            self.open.stop = self.said
            self.asked.append(self.open)
            self.open = None
        return True


@dataclass(frozen=True, slots=True)
class _Place:
    """A whole run: of which row, the how manieth of it, and the prompt that it holds, if any."""

    row: int
    number: int
    asked: Asked
    prompt: str = ""


class Speech:
    """What the replies of one batch share: the signals of the system, and at `most` how many items a reply may hold."""

    def __init__(self, assembly: Assembly, most: int) -> None:
        self.assembly, self.most, self.pad = assembly, most, assembly.vocabulary.pad
        self.outputs = {n: s for n, s in assembly.processor.outputs.items() if not s.share}
        self.first = {s.ids[0]: n for n, s in self.outputs.items()}
        self._never = [i for s in self.outputs.values() for i in s.ids[1:]]

    def following(self, stream: str) -> list[int]:
        """The ids that must follow the first signal of a stream; none where the LLM goes on freely."""
        signals = self.outputs[stream]
        return [] if signals.read == "text" else signals.run(self.pad)[1:]

    def free(self, logits: Float[Tensor, "B V"], runs: Sequence[Run]) -> Float[Tensor, "B V"]:
        """The logits with what cannot be said now taken out: signals without their first; within a run everything but the next
        signal, or where it holds text other signals and the end of the reply."""
        if not self.outputs:
            return logits
        plain, logits = logits, logits.clone()
        logits[:, self._never] = -torch.inf
        for row, run in enumerate(runs):
            if run.pending:
                logits[row] = -torch.inf
                logits[row, run.pending[0]] = 0.0
            elif run.open:
                closing = self.outputs[run.open.stream].ids[-1]
                logits[row, [*self.first, *self.assembly.vocabulary.ends]] = -torch.inf
                logits[row, closing] = plain[row, closing]
            elif run.full:
                run.wished = int(plain[row].argmax()) in self.first
                logits[row, list(self.first)] = -torch.inf
        return logits

    def given(
        self, ids: Int[Tensor, " B"], runs: Sequence[Run], states: Float[Tensor, "B D"]
    ) -> Float[Tensor, "B D"] | None:
        """What the LLM reads in place of the ids just said, where a vector stands for one of them: a learned one, or one that
        the state before it predicts."""
        due = {row: found for row, run in enumerate(runs) if (found := run.standing)}
        if not due:
            return None
        model = self.assembly.model
        x = model.backbone.embed(ids[:, None])[:, 0].clone()
        for row, (asked, number) in due.items():
            way = model.ways_out[asked.stream]
            if way.feeds:
                token = model.streams[way.feeds].aligner.enter(way.predict(states[row : row + 1]))[0]
                asked.read.append(token)
                x[row] = token.to(x.dtype)
            elif way.queries is not None:
                x[row] = way.queries[number].to(x.dtype)
        return x

    def made(
        self, replies: Sequence[Reply], prompts: Sequence[Example], runs: Sequence[Run], seeds: Sequence[int]
    ) -> list[Reply]:
        """The replies with the items that were asked for, in the order in which they were said; the items of a reply are drawn
        from its own of the `seeds`. A run that was cut off or holds no prompt, a decoder that refuses, or an item more
        than the reply may hold leaves a note; the text stays."""
        places = self._places(replies, runs)
        conditions = self._conditions(replies, prompts, runs, places)
        found: list[list[tuple[Asked, str, Item]]] = [[] for _ in replies]
        notes = [[_CUT.format(name=r.open.stream)] if r.open else [] for r in runs]
        for told, run in zip(notes, runs, strict=True):
            told += [_FULL.format(most=self.most)] if run.refused else []
        for name, mine in places.items():
            if name not in conditions:
                for row in {p.row for p in mine if not p.prompt}:
                    notes[row].append(_EMPTY.format(name=name))
                mine = [p for p in mine if p.prompt]
            try:
                items = self._decoded(name, conditions.get(name), mine, seeds)
            except InputError as e:
                for row in {p.row for p in mine}:
                    notes[row].append(f"{name}: {e}")
                continue
            aligner = self.assembly.model.ways_out[name].aligner
            for place, item in zip(mine, items, strict=True):
                read = len(prompts[place.row].ids) + place.asked.start + 1
                if aligner is not None and 0 < aligner.most < read:
                    notes[place.row].append(_LONG.format(name=name, most=aligner.most, read=read))
                if place.prompt:
                    if item.caption:  # what the decoder has to say of it
                        notes[place.row].append(f"{name}: {item.caption}")
                    item = replace(item, caption=place.prompt)
                found[place.row].append((place.asked, name, item))
        whole = []
        for reply, prompt, run, made, told in zip(replies, prompts, runs, found, notes, strict=True):
            made.sort(key=lambda m: m[0].start)
            parts = tuple(self._parts(reply, run, prompt.lead, made))
            streams = tuple(name for _, name, _ in made)
            whole.append(replace(reply, parts=parts, notes=tuple(told), streams=streams, hidden=run.hidden))
        return whole

    def _places(self, replies: Sequence[Reply], runs: Sequence[Run]) -> dict[str, list[_Place]]:
        """The whole runs by the output streams that are to make an item of them."""
        vocabulary = self.assembly.vocabulary
        places: dict[str, list[_Place]] = {}
        for row, (reply, run) in enumerate(zip(replies, runs, strict=True)):
            for number, asked in enumerate(run.asked):
                for name, signals in self.assembly.processor.outputs.items():
                    if asked.stream not in (name, signals.share):
                        continue
                    written = reply.ids[asked.start + 1 : asked.stop - 1] if signals.read == "text" else ()
                    prompt = vocabulary.decode(written, lead=vocabulary.gap).strip()
                    places.setdefault(name, []).append(_Place(row, number, asked, prompt))
        return {n: places[n] for n in self.assembly.processor.outputs if n in places}

    @torch.inference_mode()
    def _decoded(
        self, name: str, condition: Condition | None, places: Sequence[_Place], seeds: Sequence[int]
    ) -> list[Item]:
        """The items of one output stream; without a condition it is steered by the prompts. Raises InputError where the decoder
        refuses."""
        if not places:
            return []
        decoder: Decoder = self.assembly.model.ways_out[name].decoder
        if condition is None:
            condition = decoder.goal([p.prompt for p in places], None)
        return decoder.decode(condition, [seeds[p.row] + p.number for p in places])

    @torch.inference_mode()
    def _conditions(
        self,
        replies: Sequence[Reply],
        prompts: Sequence[Example],
        runs: Sequence[Run],
        places: Mapping[str, Sequence[_Place]],
    ) -> dict[str, Condition]:
        """For each output stream that reads states the conditions of its runs. They are read as in training, from one forward
        over prompts and replies: what is trained is what is used."""
        outputs = self.assembly.processor.outputs
        reading = {n: p for n, p in places.items() if outputs[n].read != "text"}
        if not reading:
            return {}
        examples = {}
        for row in sorted({p.row for mine in reading.values() for p in mine}):
            ids = [*prompts[row].ids, *replies[row].ids]
            example = Example(ids, [IGNORE] * len(ids), prompts[row].placed, "reply", meant=list(prompts[row].meant))
            examples[row] = example
        for name, mine in reading.items():
            for place in mine:
                # Without a key it is one of this reply; those of earlier turns have the keys of their items.
                start = len(prompts[place.row].ids) + place.asked.start
                examples[place.row].meant.append(Meant(name, start, "", ""))
        batch = self.assembly.processor.collate([[e] for e in examples.values()])
        fresh = {n: [i for i, key in enumerate(t.keys) if not key] for n, t in batch.targets.items()}
        targets = {n: _heard(t, fresh[n], reading.get(n, ())) for n, t in batch.targets.items()}
        conditions = self.assembly.model.conditions(replace(batch, targets=targets).to(self.assembly.model.device))
        return {n: conditions[n].rows(fresh[n]) for n in reading}

    def _parts(self, reply: Reply, run: Run, lead: str, made: Sequence[tuple[Asked, str, Item]]) -> Iterator[Part]:
        """The text of a reply with its items, which come in their order, in their places."""
        left, text = len(reply.text), ""
        for k, (ids, before) in enumerate(run.pieces(reply.ids, lead)):
            piece = self.assembly.vocabulary.decode(ids, lead=before)[:left]
            left, text = left - len(piece), text + piece
            if items := [item for asked, _, item in made if k < len(run.asked) and asked is run.asked[k]]:
                beside = [replace(item, beside=True) for item in items[1:]]
                yield from (part for part in (text, items[0], *beside) if part != "")
                text = ""
        if text:
            yield text


def _heard(target: Targets, fresh: Sequence[int], places: Sequence[_Place]) -> Targets:
    """The runs of one output stream, of which the `fresh` ones are those of a reply: with the tokens that the LLM read in them
    of what it had predicted."""
    spots = [target.where[i, : len(p.asked.read)] + 1 for i, p in zip(fresh, places, strict=True) if p.asked.read]
    if not spots:
        return target
    return replace(target, spots=torch.cat(spots), said=torch.stack([t for p in places for t in p.asked.read]))
