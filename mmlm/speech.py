"""How a reply says items: once the first signal of a run is said the rest is forced, and decoders make what is meant."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mmlm.assemble import Assembly
from mmlm.batch import IGNORE
from mmlm.errors import InputError
from mmlm.interfaces import Condition
from mmlm.processor import Example, Meant
from mmlm.sample import Item, Part

_CUT = "the reply reached its length limit while it asked for an item ({name}), which was not made; raise the limit"


Finish = Literal["end", "limit", "stop"]


@dataclass(frozen=True, slots=True)
class Reply:
    """What the model said: the text, its ids with the log-probability of each, and why it ended. `parts` holds text and items
    in the order in which they were said; `notes` say what went wrong with an item."""

    text: str
    ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    finish: Finish
    prompt_tokens: int
    parts: tuple[Part, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def items(self) -> tuple[Item, ...]:
        """The items, in the order in which they were said."""
        return tuple(p for p in self.parts if not isinstance(p, str))


@dataclass(frozen=True, slots=True)
class Asked:
    """A whole run: the output stream that its signals belong to, and where among the said ids it begins and ends."""

    stream: str
    start: int
    end: int


class Run:
    """The signals of one reply under way. `pending` are the ids that must follow; `standing` says for which learned vector of
    which output stream the last id stands."""

    def __init__(self, speech: "Speech") -> None:
        self.speech = speech
        self.asked: list[Asked] = []
        self.pending: list[int] = []
        self.standing: tuple[str, int] | None = None
        self.said = 0
        self._open = ("", 0)

    @property
    def full(self) -> bool:
        """Whether the reply holds as many items as it may."""
        return len(self.asked) >= self.speech.most

    def take(self, token: int) -> None:
        """One more id was said."""
        self.standing = None
        if self.pending:
            self.pending.pop(0)
        elif token in self.speech.first and not self.full:
            name = self.speech.first[token]
            signals = self.speech.outputs[name]
            self._open = (name, self.said)
            self.pending = [*signals.ids[1:], *[self.speech.pad] * signals.queries]
        self.said += 1
        name, start = self._open
        if not name:
            return
        if (number := self.said - 1 - start - len(self.speech.outputs[name].ids)) >= 0:
            self.standing = (name, number)
        if not self.pending:
            self.asked.append(Asked(name, start, self.said))
            self._open = ("", 0)

    @property
    def cut(self) -> str:
        """The output stream whose run was cut off; empty where none was."""
        return self._open[0]


class Speech:
    """What the replies of one batch share: the signals of the system, and at `most` how many items a reply may hold."""

    def __init__(self, assembly: Assembly, most: int) -> None:
        self.assembly, self.most, self.pad = assembly, most, assembly.vocabulary.pad
        self.outputs = {n: s for n, s in assembly.processor.outputs.items() if not s.share}
        self.first = {s.ids[0]: n for n, s in self.outputs.items()}
        self._never = [i for s in self.outputs.values() for i in s.ids[1:]]

    def free(self, logits: Float[Tensor, "B V"], runs: Sequence[Run]) -> Float[Tensor, "B V"]:
        """The logits with what cannot be said now taken out: signals without their first, and everything but the next signal
        within a run."""
        if not self.outputs:
            return logits
        logits = logits.clone()
        logits[:, self._never] = -torch.inf
        for row, run in enumerate(runs):
            if run.pending:
                logits[row] = -torch.inf
                logits[row, run.pending[0]] = 0.0
            elif run.full:
                logits[row, list(self.first)] = -torch.inf
        return logits

    def given(self, ids: Int[Tensor, " B"], runs: Sequence[Run]) -> Float[Tensor, "B D"] | None:
        """What the LLM reads in place of the ids just said, where a learned vector stands for one of them."""
        due = {row: found for row, run in enumerate(runs) if (found := run.standing)}
        if not due:
            return None
        model = self.assembly.model
        x = model.backbone.embed(ids[:, None])[:, 0].clone()
        for row, (name, number) in due.items():
            queries: Tensor | None = model.ways_out[name].queries
            if queries is not None:
                x[row] = queries[number].to(x.dtype)
        return x

    def made(self, replies: Sequence[Reply], prompts: Sequence[Example], runs: Sequence[Run], seed: int) -> list[Reply]:
        """The replies with the items that were asked for, in the order in which they were said. A run that was cut off, or a
        decoder that refuses, leaves a note; the text stays."""
        conditions = self._conditions(replies, prompts, runs)
        found: list[list[tuple[Asked, Item]]] = [[] for _ in replies]
        notes: list[list[str]] = [[_CUT.format(name=r.cut)] if r.cut else [] for r in runs]
        for name, (condition, places) in conditions.items():
            decoder = self.assembly.model.ways_out[name].decoder
            try:
                with torch.inference_mode():
                    items = decoder.decode(condition, [seed + run for _, run, _ in places])
            except InputError as e:
                for row in {row for row, _, _ in places}:
                    notes[row].append(f"{name}: {e}")
                continue
            for (row, _, asked), item in zip(places, items, strict=True):
                found[row].append((asked, item))
        return [
            replace(reply, parts=self._parts(reply, prompt, items), notes=tuple(told))
            for reply, prompt, items, told in zip(replies, prompts, found, notes, strict=True)
        ]

    def _conditions(
        self, replies: Sequence[Reply], prompts: Sequence[Example], runs: Sequence[Run]
    ) -> dict[str, tuple[Condition, list[tuple[int, int, Asked]]]]:
        """For each output stream the conditions of its runs, and the row, number and place of each. They are read as in
        training, from one forward over prompts and replies: what is trained is what is used."""
        rows = [i for i, run in enumerate(runs) if run.asked]
        if not rows:
            return {}
        processor, model = self.assembly.processor, self.assembly.model
        places: dict[str, list[tuple[int, int, Asked]]] = {n: [] for n in processor.outputs}
        examples = []
        for (
            row
        ) in rows:  # a run without a key is one of this reply; those of earlier turns have the keys of their items
            ids = [*prompts[row].ids, *replies[row].ids]
            example = Example(ids, [IGNORE] * len(ids), prompts[row].placed, "reply", meant=list(prompts[row].meant))
            for number, asked in enumerate(runs[row].asked):
                for name, signals in processor.outputs.items():
                    if asked.stream in (name, signals.share):
                        example.meant.append(Meant(name, len(prompts[row].ids) + asked.start, "", ""))
                        places[name].append((row, number, asked))
            examples.append(example)
        batch = processor.collate([[e] for e in examples]).to(model.device)
        with torch.inference_mode():
            conditions = model.conditions(batch)
        fresh = {n: [i for i, key in enumerate(t.keys) if not key] for n, t in batch.targets.items()}
        return {n: (conditions[n].rows(fresh[n]), found) for n, found in places.items() if found}

    def _parts(self, reply: Reply, prompt: Example, items: Sequence[tuple[Asked, Item]]) -> tuple[Part, ...]:
        """The text of a reply with its items in their places."""
        if not items:
            return (reply.text,) if reply.text else ()
        parts: list[Part] = []
        at = 0
        for asked, item in sorted(items, key=lambda pair: pair[0].start):
            parts += [self._text(reply.ids[at : asked.start], "" if at else prompt.lead), item]
            at = asked.end
        parts.append(self._text(reply.ids[at:], ""))
        return tuple(p for p in parts if p != "")

    def _text(self, ids: Sequence[int], lead: str) -> str:
        return self.assembly.vocabulary.decode(ids, lead=lead)
