"""Evaluation room: put questions to a model in batches, and keep every answer."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from mmlm.errors import InputError
from mmlm.evaluation.answerer import Answerer, Said
from mmlm.evaluation.order import batches, by_picture
from mmlm.evaluation.predictions import Answer, Predictions, key, prompt_of
from mmlm.evaluation.tasks.task import Prediction, Question, Task
from mmlm.media import digest
from mmlm.sample import Sample

Progress = Callable[[int, int, str], None]  # done, of how many, of what


@dataclass(frozen=True, slots=True)
class Asking:
    """One question as it is put: with which sample, over which pictures, and the answer before there is one."""

    question: Question
    sample: Sample
    blank: Answer
    missing: str = ""  # why it cannot be put

    @property
    def key(self) -> str:
        return self.blank.key


def prepare(answerer: Answerer, task: Task, question: Question, sample: Sample, decoding: Any) -> Asking:
    """The question with its key; what cannot be read of its pictures is found here."""
    missing, pictures = question.fault, []
    try:
        pictures = [digest(item) for item in sample.items]
    except InputError as e:
        missing = missing or str(e)
    prompt = worded(task, question, sample)
    name = key(answerer.fingerprint, task.name, question.id, prompt, pictures, asdict(decoding))
    blank = Answer(name, question.id, prompt, tuple(pictures), references=question.references)
    return Asking(question, sample, blank, missing)


def worded(task: Task, question: Question, sample: Sample) -> str:
    """The words of a question as they are put: its prompt and, where replies are ranked, those."""
    prompt = prompt_of(sample)
    return f"{prompt}\nassistant: {' | '.join(task.replies(question))}" if task.ranks else prompt


def ask(
    answerer: Answerer,
    task: Task,
    askings: Sequence[Asking],
    kept: Predictions,
    batch: int,
    decoding: Any,
    progress: Progress,
) -> list[Answer]:
    """The answer to each asking, in their order; those in `kept` are not asked again.

    Where a batch is refused its questions are asked one by one; those refused again count as wrong, with the reason.
    """
    weights = [len(task.replies(a.question)) if task.ranks else 1 for a in askings]
    todo = [not kept.done(a.key) for a in askings]
    # The order is that of all questions, so that what an interrupted run still has to ask comes where it belongs.
    groups = by_picture([a.question.picture for a in askings], [len(a.blank.prompt) for a in askings])
    done = todo.count(False)
    progress(done, len(askings), kept.path.stem)
    for numbers in batches([[i for i in g if todo[i]] for g in groups], weights, batch):
        begun = time.perf_counter()
        answers = _several(answerer, task, [askings[i] for i in numbers], decoding)
        kept.add(answers)
        kept.time([a.key for a in answers], time.perf_counter() - begun)
        done += len(numbers)
        progress(done, len(askings), kept.path.stem)
    return [kept.answers[a.key] for a in askings]


def _several(answerer: Answerer, task: Task, askings: Sequence[Asking], decoding: Any) -> list[Answer]:
    """Answers to a batch; what cannot be asked is told in the answer's error."""
    ready = [a for a in askings if not a.missing]
    try:
        answers = _together(answerer, task, ready, decoding) if ready else []
    except InputError:
        answers = [_alone(answerer, task, a, decoding) for a in ready]
    found = {a.key: a for a in answers}
    return [found[a.key] if a.key in found else replace(a.blank, error=a.missing) for a in askings]


def _alone(answerer: Answerer, task: Task, asking: Asking, decoding: Any) -> Answer:
    try:
        return _together(answerer, task, [asking], decoding)[0]
    except InputError as e:
        return replace(asking.blank, error=str(e))


def _together(answerer: Answerer, task: Task, askings: Sequence[Asking], decoding: Any) -> list[Answer]:
    """Answers to a batch in one call of the model."""
    samples = [a.sample for a in askings]
    if task.ranks:
        ranked = answerer.likelihood(samples, [task.replies(a.question) for a in askings])
        return [_ranked(task, a, tuple(r)) for a, r in zip(askings, ranked, strict=True)]
    return [_replied(task, a, r) for a, r in zip(askings, answerer.reply(samples, decoding), strict=True)]


def _replied(task: Task, asking: Asking, said: Said) -> Answer:
    return replace(
        asking.blank,
        reply=said.text,
        parsed=task.read(asking.question, Prediction(said.text)),
        prompt_tokens=said.prompt_tokens,
        tokens=len(said.ids),
        logprob=_whole(said),
        finish=said.finish,
    )


def _whole(said: Said) -> float | None:
    """The sum of log p over a reply; None where it is not told for every token, or is no number."""
    if not said.ids or len(said.logprobs) != len(said.ids) or not all(map(math.isfinite, said.logprobs)):
        return None
    return min(0.0, math.fsum(said.logprobs))


def _ranked(task: Task, asking: Asking, ranks: tuple[tuple[float, int], ...]) -> Answer:
    parsed = task.read(asking.question, Prediction(ranks=ranks))
    return replace(asking.blank, ranks=ranks, parsed=parsed, tokens=sum(n for _, n in ranks))
