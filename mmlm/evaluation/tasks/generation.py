"""Evaluation room: items made on request - how many, how near to those that people would say, and whether they show what was
asked for."""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from mmlm.assemble import Assembly
from mmlm.errors import InputError
from mmlm.evaluation.asking import Progress
from mmlm.evaluation.assembled import Assembled
from mmlm.evaluation.extracting import Clip, Extractor, extractor
from mmlm.evaluation.judging import Judge, opened
from mmlm.evaluation.made import (
    AGREEMENT,
    CLIPSCORE,
    CONDITIONS,
    TRUE,
    Made,
    by_clip,
    by_condition,
    by_features,
    by_judge,
    count,
)
from mmlm.evaluation.making import MADE, Answer, answers, fill
from mmlm.evaluation.metrics import agreement, clipscore, frechet
from mmlm.evaluation.order import drawn, unique
from mmlm.evaluation.playing import PAGE, page, plays
from mmlm.evaluation.probing import Found, Probe
from mmlm.evaluation.sheet import SHEET, Strip, write
from mmlm.evaluation.statistics import Array, Estimate, Measure, mean, ratio
from mmlm.evaluation.tasks.task import Question, Scored
from mmlm.evaluation.wanted import Request, content, read
from mmlm.reply import Decoding
from mmlm.sample import Item, Modality

_ANSWERED, _FRECHET = "answered", "Frechet distance"
_NOTES = 3  # that are told of replies
_ABOUT = (
    "control: the same with another request's caption, question or goal, by one seeded cycle over the captions",
    "of condition errors and of the Frechet distance less is better; the latter has no interval",
)


def _among(name: str) -> Measure:
    """The mean over the questions that the value was taken of."""
    return Measure(name, lambda sums: ratio(sums[name], sums[count(name)]))


class GenerationTask(Probe):
    """What a system says to requests for pictures, sounds or clips. `answered`: the share of requests to which an output
    stream says an item; of several the first counts. The rest is measured where an option asks for it:

    `conditions`: how far the conditions, read as in training behind what the data's assistant says, are from the decoder's
    own goals, by the objectives l2 and cosine. `extractor` (KIND:WEIGHTS, or {type: KIND, weights: WEIGHTS, option: ...}):
    the Frechet distance between the features of what was made and of the true items. `clip`: CLIPScore by this CLIP of
    transformers. `judge` (a run that takes such items in, or module:Class of a `mmlm.evaluation.judging.Judge`): whether it
    finds in the items what was asked for - by the question and answers of a record, or by `judge_question` (null: what there
    is in the picture, the sound or the clip), where the answer should name what the caption names. The control of all these
    is the same with another request's caption, question or goal; the scores of the true items are what can be reached.

    Reads what `caption` reads, where files may be sounds and clips too, and asks for each by its first caption in the words
    of `prompt`; with `reader` (a name, or {reader: NAME, option: ...}) what that reads, where the assistant says items.
    Decoders that find items find among those of the requests. What is made lies in the folder `made` of the result, beside
    a contact sheet of `shown` requests, and where it is sound or clips a page that plays them; an evaluation that was
    interrupted goes on.
    """

    name = "generation"
    judged = ""
    version = "generation-1"
    alone: ClassVar[Collection[str]] = (_ANSWERED,)
    measures: Sequence[Measure] = (
        mean(_ANSWERED),
        *map(_among, [*CONDITIONS.values(), *(n + t for n in (CLIPSCORE, AGREEMENT) for t in ("", TRUE))]),
    )

    def __init__(
        self,
        path: Path,
        *,
        images: str | None = None,
        reader: str | None = None,
        split: str | None = None,
        prompt: str = "{caption}",
        tokens: int = 64,
        seed: int = 0,
        conditions: bool = True,
        extractor: str | None = None,
        clip: str | None = None,
        judge: str | None = None,
        judge_prompt: str = "{items}\n{question}",
        judge_question: str | None = None,
        judge_tokens: int = 24,
        shown: int = 24,
    ) -> None:
        stated = {"reader": reader, "split": split, "prompt": prompt, "tokens": tokens, "seed": seed}
        more = {"conditions": conditions, "extractor": extractor, "clip": clip, "judge": judge, "shown": shown}
        asked = {"judge_prompt": judge_prompt, "judge_question": judge_question, "judge_tokens": judge_tokens}
        super().__init__([path], **stated, **more, **(asked if judge else {}))
        if shown < 0:
            raise InputError(f"shown={shown}: expected how many requests the contact sheet shows, 0 or more")
        self.conditions, self.shown = conditions, shown
        self.named = {"extractor": extractor, "clip": clip, "judge": judge}
        self.asked = (judge_prompt, judge_question, judge_tokens)
        self.decoding = Decoding(limit=tokens, seed=seed)
        self.requests = read(path, reader, images, split, prompt)
        self.features: dict[str, tuple[Mapping[str, Array], Mapping[str, Array]]] = {}

    @classmethod
    def recorded(cls, keys: Collection[str]) -> Sequence[Measure]:
        return [m for m in cls.measures if m.name in keys]

    def questions(self) -> list[Question]:
        return [Question(r.id, r.sample, r.captions, r.id, meta=r.meta, fault=r.fault) for r in self.requests]

    def measure(self, assembly: Assembly, *, batch: int, limit: int | None, seed: int, progress: Progress) -> Found:
        whole = unique(self)
        wanted = {q.id for q in drawn(whole, limit, seed)}
        asked = sorted((r for r in self.requests if r.id in wanted), key=lambda r: r.id)
        streams = self._streams(assembly, asked)
        others = self._others(assembly, set(streams.values()))
        digests, faults = _readable(asked)
        able = [r for r in asked if r.id not in faults and not r.items.keys().isdisjoint(streams.values())]
        index = fill(assembly, able)
        said = answers(
            assembly,
            able,
            replace(self.decoding, items=len({w.decoder.modality for w in assembly.model.ways_out.values()})),
            self.home / MADE,
            fingerprint=Assembled(assembly).fingerprint,
            index=index,
            batch=batch,
            progress=progress,
        )
        faults |= {r.id: a.error for r, a in zip(able, said, strict=True) if a.error}
        answered = {r.id: a for r, a in zip(able, said, strict=True) if not a.error}
        if not answered:
            why = next(iter(faults.values()))
            raise InputError(f"{self.files[0]}: none of {len(asked)} requests could be put; {why}")
        every = [self._made(n, m, asked, answered, digests, seed) for n, m in streams.items()]
        for made in every:
            self._compare(made, assembly, others, batch, progress)
        self.sheet = self._sheet(every) if self.shown else None
        return self._found(
            every, [r for r in asked if r.id in faults], answered, faults, len(whole), _noted(said, index)
        )

    def holds(self, metric: str, found: Found, numbers: Sequence[int]) -> bool:
        if metric == _ANSWERED:
            return True
        streams = {found.questions[i].meta["output"] for i in numbers if found.scored[i].values[count(metric)]}
        # Vectors of several decoders are of different widths and scales: what they differ by has no mean.
        return len(streams) == 1 or (bool(streams) and metric not in CONDITIONS.values())

    def beside(self, found: Found, numbers: Sequence[int], seed: int) -> dict[str, tuple[Estimate, Estimate | None]]:
        streams = {found.questions[i].meta["output"] for i in numbers}
        if len(streams) != 1 or not (streams & self.features.keys()):
            return {}
        mine, true = self.features[streams.pop()]
        here = [mine[id] for i in numbers if (id := found.said[i]["request"]) in mine]
        there = [true[d] for d in dict.fromkeys(found.questions[i].picture for i in numbers) if d in true]
        if min(len(here), len(there)) < 2:
            return {}
        one, two = np.stack(here), np.stack(there)
        value = frechet.distance(frechet.of_features(one), frechet.of_features(two))
        reliable = min(len(one), len(two)) > one.shape[1]
        return {_FRECHET + ("" if reliable else " (not reliable)"): (Estimate(value), None)}

    def _streams(self, assembly: Assembly, asked: Sequence[Request]) -> dict[str, Modality]:
        """The output streams that are asked, with what they make."""
        ways: dict[str, Modality] = {n: w.decoder.modality for n, w in assembly.model.ways_out.items()}
        held = {m for r in asked for m in r.items}
        found = {n: m for n, m in ways.items() if m in held or not held}
        if not found:
            says = ", ".join(f"{n} ({m})" for n, m in ways.items()) or "text alone"
            raise InputError(
                f"the task generation asks for items: {self.files[0]} holds {', '.join(sorted(held)) or 'no'} items, and "
                f"the system {assembly.config.name!r} says {says}; evaluate a run that was trained with such an output stream"
            )
        return found

    def _others(
        self, assembly: Assembly, modalities: set[Modality]
    ) -> tuple[Extractor | None, Clip | None, Mapping[Modality, Judge]]:
        """The models that look at what was made. They are opened first, so that one that is not there costs no time."""
        device, named = assembly.model.device, self.named
        features = extractor(named["extractor"], device) if named["extractor"] else None
        if features is not None and features.encoder.modality not in modalities:
            raise InputError(
                f"extractor={named['extractor']}: it looks at {features.encoder.modality} items, and the system makes "
                f"{', '.join(sorted(modalities))}"
            )
        if named["clip"] and "image" not in modalities:
            raise InputError(
                f"clip={named['clip']}: CLIPScore is of pictures; the system makes {', '.join(sorted(modalities))}"
            )
        clip = Clip(named["clip"], device) if named["clip"] else None
        judges = opened(named["judge"], modalities, *self.asked) if named["judge"] else {}
        parts = [type(self).version]
        parts += [frechet.version(features.name)] if features else []
        parts += [clipscore.version(clip.name)] if clip else []
        parts += [agreement.version(n) for n in dict.fromkeys(j.name for j in judges.values())]
        self.version = "+".join(parts)
        return features, clip, judges

    def _made(
        self,
        stream: str,
        modality: Modality,
        asked: Sequence[Request],
        answered: Mapping[str, Answer],
        digests: Mapping[tuple[str, Modality], str],
        seed: int,
    ) -> Made:
        """What a stream made for the requests that it was put, not yet compared with anything."""
        mine = [r for r in asked if r.id in answered and modality in r.items]
        names = [answered[r.id].files.get(stream) for r in mine]
        files = [None if name is None else self.home / MADE / name for name in names]
        true = [r.items[modality] for r in mine]
        return Made(stream, modality, mine, files, true, [digests[r.id, modality] for r in mine], seed)

    def _compare(
        self,
        made: Made,
        assembly: Assembly,
        others: tuple[Extractor | None, Clip | None, Mapping[Modality, Judge]],
        batch: int,
        progress: Progress,
    ) -> None:
        """Every comparison that was asked for."""
        features, clip, judges = others
        if self.conditions:
            by_condition(made, assembly, batch, progress)
        if clip and made.modality == "image":
            by_clip(made, clip, batch)
        if features and made.modality == features.encoder.modality:
            self.features[made.stream] = by_features(made, features, batch)
        if judge := judges.get(made.modality):
            by_judge(made, judge, batch, progress)

    def _found(
        self,
        every: Sequence[Made],
        lost: Sequence[Request],
        answered: Mapping[str, Answer],
        faults: Mapping[str, str],
        whole: int,
        notes: Iterator[str],
    ) -> Found:
        """A question for each request and stream, with its values. A request that could not be put is not answered, and does
        not agree."""
        names = [m.name for m in type(self).measures if any(m.name in v for made in every for v in made.own)]
        self.measures = [m for m in type(self).measures if m.name in (_ANSWERED, *names)]
        blank = dict.fromkeys([_ANSWERED, *names, *map(count, names)], 0.0)
        wrong = Scored(blank | ({count(AGREEMENT): 1.0} if AGREEMENT in names else {}), False)
        asked: list[tuple[Question, Scored, Scored, dict[str, Any]]] = []
        for made in every:
            items = made.items
            for i, r in enumerate(made.requests):
                answer, file, item = answered[r.id], made.files[i], items.get(i)
                shown = "" if file is None else f"{MADE}/{file.name}"
                values = blank | {_ANSWERED: float(item is not None)}
                own = Scored(values | made.own[i], item is not None, shown, items=() if item is None else (item,))
                whose = {"request": r.id, "output": made.stream}
                told = {"reply": answer.text, "item": shown, "notes": list(answer.notes), "judge": made.said[i]}
                question = self._question(r, made.stream, len(every), made.digests[i])
                asked.append((question, own, Scored(values | made.other[i], own.parsed), {**whose, **told}))
            for r in lost:
                question = self._question(r, made.stream, len(every), f"id {r.id}", faults[r.id])
                asked.append((question, wrong, wrong, {"request": r.id, "output": made.stream}))
        questions, scored, controls, said = zip(*asked, strict=True)
        failures = [{"id": q.id, "reason": q.fault} for q in questions if q.fault]
        control = dict(enumerate(controls)) if names else {}
        told_all = [*notes, *(n for made in every for n in made.notes), *(_ABOUT if names else ()), *self._beside()]
        return Found(questions, scored, control, failures, whole, said, told_all)

    def _question(self, request: Request, stream: str, streams: int, picture: str, fault: str = "") -> Question:
        """A request as a question to one of several streams."""
        id = request.id if streams == 1 else f"{request.id}/{stream}"
        meta = {"output": stream, **request.meta}
        return Question(id, request.sample, request.captions, picture, meta=meta, fault=fault)

    def _beside(self) -> Iterator[str]:
        """What there is to be looked at beside the table."""
        if self.sheet is not None:
            played = f", and {PAGE}, which plays its sounds and clips" if self.sheet.with_name(PAGE).is_file() else ""
            yield f"what was made is shown on {SHEET}{played}, beside this result"

    def _sheet(self, every: Sequence[Made]) -> Path:
        """The contact sheet, of requests spread over all in the order of their ids; what they came with is shown first."""
        words: dict[str, str] = {}
        cells: dict[str, dict[str, Item]] = {}
        for made in every:
            items = made.items
            for i, r in enumerate(made.requests):
                words[r.id] = r.caption
                mine = cells.setdefault(r.id, {})
                mine |= {"given": r.sample.items[0]} if r.sample.items else {}
                mine[f"true {made.modality}"] = made.true[i]
                mine |= {made.stream: items[i]} if i in items else {}
        ids = sorted(cells)
        some = [ids[i * len(ids) // self.shown] for i in range(self.shown)] if len(ids) > self.shown else ids
        names = ["given", *dict.fromkeys(f"true {made.modality}" for made in every), *(made.stream for made in every)]
        columns = [n for n in names if n != "given" or any(n in cells[id] for id in some)]
        strips = [Strip(words[id], [cells[id].get(n) for n in columns]) for id in some]
        if plays(strips):
            page(strips, columns, self.home / PAGE)
        return write(strips, columns, self.home / SHEET)


def _readable(asked: Sequence[Request]) -> tuple[dict[tuple[str, Modality], str], dict[str, str]]:
    """The digests of the items that people would say, and by request why one cannot be read."""
    digests: dict[tuple[str, Modality], str] = {}
    faults = {r.id: r.fault for r in asked if r.fault}
    for r in asked:
        try:
            digests |= {(r.id, m): content(item) for m, item in r.items.items()}
        except InputError as e:
            faults[r.id] = str(e)
    return digests, faults


def _noted(said: Sequence[Answer], index: Sequence[str]) -> Iterator[str]:
    """What replies say went wrong, the most frequent first, and what could be found."""
    if index:
        yield f"decoders that find items find among the {len(index)} different ones of the requests"
    notes = Counter(n for a in said for n in dict.fromkeys(a.notes))
    for note, n in notes.most_common(_NOTES):
        yield f"{n} of {len(said)} replies: {note}"
