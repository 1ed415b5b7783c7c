"""Evaluation room: tasks that do not ask for replies but look into the model, and give values for each question all the same."""

import json
from abc import abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from mmlm.assemble import Assembly
from mmlm.errors import InputError
from mmlm.evaluation.asking import Progress
from mmlm.evaluation.concluding import groups, rows, stated
from mmlm.evaluation.predictions import PREDICTIONS, prompt_of
from mmlm.evaluation.result import Result, Row, replace_text
from mmlm.evaluation.statistics import Estimate
from mmlm.evaluation.tasks.task import Exam, Question, Scored


@dataclass(frozen=True, slots=True)
class Found:
    """What a probe measured: the questions with their values, those of the control (by question), what could not be asked,
    and how many questions the data hold. `said` is what predictions.jsonl tells of each question beside its words."""

    questions: Sequence[Question]
    scored: Sequence[Scored]
    control: Mapping[int, Scored]
    failures: Sequence[Mapping[str, str]]
    whole: int
    said: Sequence[Mapping[str, Any]]
    notes: Sequence[str] = field(default=())


class Probe(Exam):
    """A task that looks into an assembled system. Built as a `Task`, with (path, *, images, options).

    `home` is the folder of the result, set before `measure`: what a task makes while it measures lies there. Scores named
    in `alone` have no control. `sheet` is a picture of what was found, set by `measure`, to be shown beside the result.
    """

    home: Path
    alone: ClassVar[Collection[str]] = ()
    sheet: Path | None = None

    @abstractmethod
    def measure(self, assembly: Assembly, *, batch: int, limit: int | None, seed: int, progress: Progress) -> Found:
        """Values for every question (of a share of `limit`, drawn by `seed`). Raises InputError where there is nothing to
        measure."""

    def holds(self, metric: str, found: Found, numbers: Sequence[int]) -> bool:
        """Whether a group, the questions `numbers`, has anything of a score; a row of a group without is left out."""
        return True

    def beside(self, found: Found, numbers: Sequence[int], seed: int) -> dict[str, tuple[Estimate, Estimate | None]]:
        """Scores of a group, the questions `numbers`, that no sums give; each with that of the control, if it has one."""
        return {}


def probe(
    assembly: Assembly,
    task: Probe,
    made: Mapping[str, Any],
    *,
    out: Path,
    batch: int,
    limit: int | None,
    progress: Progress,
    seed: int = 0,
) -> Result:
    """Measure, and write the result and predictions.jsonl into `out`; `made` says of what it is made. Where it fails nothing
    is written."""
    if batch < 1:
        raise InputError(f"batch: expected at least 1, got {batch}")
    task.home = out
    found = task.measure(assembly, batch=batch, limit=limit, seed=seed, progress=progress)
    questions, scored = found.questions, found.scored
    table: list[Row] = []
    summed = [
        replace(r, controlled=0, control=None, difference=None) if r.metric in task.alone else r
        for r in rows(task.measures, questions, scored, found.control, seed)
    ]
    for group, numbers in groups(questions).items():
        table += [r for r in summed if r.group == group and task.holds(r.metric, found, numbers)]
        for name, (score, control) in task.beside(found, numbers, seed).items():
            controlled = 0 if control is None else len(numbers)
            table.append(Row(name, group, len(numbers), score, table[-1].unparsed, controlled, control))
    about = stated(task, [prompt_of(q.sample) for q in questions], {"limit": limit, "questions": found.whole}, made)
    notes = [*task.notes, *found.notes]
    result = Result(task.name, task.version, about, table, found.failures, notes, questions, scored, sheet=task.sheet)
    out.mkdir(parents=True, exist_ok=True)
    replace_text(out / PREDICTIONS, "".join(json.dumps(line) + "\n" for line in _lines(found)))
    result.write(out)
    return result


def _lines(found: Found) -> Iterator[dict[str, Any]]:
    """What was asked and what came of it, question by question."""
    errors = {f["id"]: f["reason"] for f in found.failures}
    for question, said in zip(found.questions, found.said, strict=True):
        asked = {"id": question.id, "prompt": prompt_of(question.sample), "references": list(question.references)}
        yield asked | dict(said) | {"error": errors.get(question.id, "")}
