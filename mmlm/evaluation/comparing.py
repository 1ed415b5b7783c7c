"""Evaluation room: two runs on the same questions, from their recorded answers - the paired difference, how sure it is,
and who is right where the other is not."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mmlm.columns import aligned
from mmlm.errors import InputError
from mmlm.evaluation.calibrating import ABOUT, differences, judged, kinds
from mmlm.evaluation.choosing import task_class
from mmlm.evaluation.recorded import Recorded, folders, read
from mmlm.evaluation.result import interval, number
from mmlm.evaluation.statistics import RESAMPLES, Array, Estimate, Measure, bootstrap, paired

_SHOWN = 3


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure of both runs, and that of the first minus that of the second.

    Where the measure is a mean over questions, `first_alone` and `second_alone` count those that one run answered
    better than the other; where it moreover is 0 or 1 for each (right or wrong), `p` is that of McNemar's exact test.
    """

    metric: str
    n: int
    first: Estimate
    second: Estimate
    difference: Estimate
    first_alone: int | None = None
    second_alone: int | None = None
    p: float | None = None


@dataclass(frozen=True, slots=True)
class Comparison:
    """The differences, what was compared, and what to know of it."""

    task: str
    metric: str
    first: Path
    second: Path
    pictures: int
    rows: Sequence[Difference]
    notes: Sequence[str]

    def as_json(self) -> dict[str, Any]:
        """All of it as plain values."""
        head = {"task": self.task, "metric": self.metric, "first": str(self.first), "second": str(self.second)}
        return head | {"pictures": self.pictures, "rows": [asdict(r) for r in self.rows], "notes": list(self.notes)}

    def table(self) -> str:
        """The differences as text."""
        head = ["metric", "n", "A", "95 %", "B", "95 %", "A - B", "95 %", "A alone", "B alone", "McNemar p"]
        body = [_cells(r) for r in self.rows]
        titles = [f"{self.task}, {self.metric}", f"A: {self.first}", f"B: {self.second}"]
        return "\n".join([*titles, *aligned([head, *body], words=range(1)), *self.notes])


def compare(first: Path, second: Path, task: str | None = None, data: Path | None = None) -> Comparison:
    """`mmlm compare`: the paired difference of two runs, or of two folders that `mmlm eval` wrote. No model is loaded.

    Raises InputError where there are no such evaluations, or where they are not of the same questions, scored alike.
    """
    a, b = (read(f) for f in _both(first, second, task, data))
    _same(a, b, task)
    ids = list(a.scored)
    measures = _measures(a, b)
    left, right = ([x.scored[i].values for i in ids] for x in (a, b))
    clusters = [a.pictures[i] for i in ids]
    scores = [bootstrap(values, clusters, measures) for values in (left, right)]
    for x, found in zip((a, b), scores, strict=True):
        _agree(x, found)
    differences = paired(left, right, clusters, measures)
    rows = [
        Difference(m.name, len(ids), scores[0][m.name], scores[1][m.name], differences[m.name], *_alone(m, left, right))
        for m in measures
    ]
    more, said = _calibrations(a, b, ids)
    notes = [*_notes(a, b, len(set(clusters))), *said]
    return Comparison(a.task, a.metric, a.folder, b.folder, len(set(clusters)), [*rows, *more], notes)


def mcnemar(first_alone: int, second_alone: int) -> float:
    """The two-sided exact p of McNemar's test: how likely the questions that one run alone has right are split at least
    as unevenly if each run were as likely to have one, min(1, 2 P(Binomial(n, 1/2) <= min(b, c))).

    Q. McNemar, "Note on the sampling error of the difference between correlated proportions" (1947).
    """
    n, k = first_alone + second_alone, min(first_alone, second_alone)
    term = tail = math.comb(n, k)
    while k and term << 64 > tail:  # what is left out is less than a float can show
        term = term * k // (n - k + 1)
        tail += term
        k -= 1
    return min(1.0, float(2 * tail / 2**n))


def _both(first: Path, second: Path, task: str | None, data: Path | None) -> tuple[Path, Path]:
    """One evaluation in each place: the only ones, or those that stand under one name in both."""
    a, b = folders(first, task, data), folders(second, task, data)
    if len(a) == len(b) == 1:
        return next(iter(a.values())), next(iter(b.values()))
    both = [name for name in a if name in b]
    if len(both) != 1:
        state = f"share {len(both)}: {', '.join(both)}" if both else "share none"
        raise InputError(
            f"expected one evaluation to compare; {first} has {', '.join(a)}, and {second} has {', '.join(b)}, which "
            f"{state}. Name it with --task and --data, or give the two folders in place of the runs"
        )
    return a[both[0]], b[both[0]]


def _same(a: Recorded, b: Recorded, task: str | None) -> None:
    """Raise InputError where two evaluations cannot be paired."""
    for x in (a, b):
        if task is not None and x.task != task:
            raise InputError(f"{x.folder} is of the task {x.task!r}, not {task!r}; give that task, or another folder")
    if a.task != b.task:
        raise InputError(f"{a.folder} is of the task {a.task!r}, {b.folder} of {b.task!r}; expected the same task")
    if a.about["data"]["sha256"] != b.about["data"]["sha256"]:
        files = [", ".join(x.about["data"].get("files", ())) for x in (a, b)]
        raise InputError(
            f"{a.folder} and {b.folder} are of different data ({files[0]} and {files[1]}, whose SHA-256 differ); "
            f"evaluate both runs on the same files with `mmlm eval RUN --task {a.task} --data DATA`"
        )
    if a.metric != b.metric:
        raise InputError(
            f"{a.folder} was scored by {a.metric}, {b.folder} by {b.metric}; score both by one version with "
            f"`mmlm eval RUN --task {a.task} --data DATA --rescore`"
        )
    if apart := sorted(a.scored.keys() ^ b.scored.keys()):
        limits = [x.about["data"]["limit"] for x in (a, b)]
        raise InputError(
            f"{a.folder} has {len(a.scored)} questions (limit {limits[0]}), {b.folder} has {len(b.scored)} (limit "
            f"{limits[1]}), and {len(apart)} stand in one alone, such as {', '.join(map(repr, apart[:_SHOWN]))}; "
            f"evaluate both with the same --limit"
        )
    if [x for x in a.scored if a.scored[x].values.keys() != b.scored[x].values.keys()]:
        raise InputError(f"{a.folder} and {b.folder} hold different values; score both again with --rescore")


def _measures(a: Recorded, b: Recorded) -> list[Measure]:
    """The measures that both evaluations report, in the order of the first."""
    known = {m.name: m for m in task_class(a.task).recorded(next(iter(a.scored.values())).values)}
    found = [known[name] for name in a.scores if name in known and name in b.scores]
    if not found:
        raise InputError(
            f"{a.folder}: none of {', '.join(a.scores)} is a measure of the task {a.task!r} as it is now "
            f"({', '.join(known)}); score both again with --rescore"
        )
    return found


def _calibrations(a: Recorded, b: Recorded, ids: Sequence[str]) -> tuple[list[Difference], list[str]]:
    """ECE, Brier score and AUROC of the first kind of confidence that both recorded, and what to know of them."""
    right = task_class(a.task).right
    if right(a.scored[ids[0]].values) is None:
        return [], []
    for kind in kinds(list(a.scored.values())):
        each = {i: [judged(x.scored[i], right, kind) for x in (a, b)] for i in ids}
        both = {i: (p, q) for i, (p, q) in each.items() if p is not None and q is not None}
        if both:
            first, second = zip(*both.values(), strict=True)
            found = differences(first, second, [a.pictures[i] for i in both])
            rows = [Difference(name, len(both), *estimates) for name, estimates in found.items()]
            return rows, [f"ECE, Brier and AUROC are of {ABOUT.get(kind, kind)}; of ECE and Brier less is better"]
    return [], ["calibration: not compared (both would have to have recorded the same kind of confidence)"]


def _agree(recorded: Recorded, found: Mapping[str, Estimate]) -> None:
    """Raise InputError where the scores of the questions are not those that results.json sums up."""
    for name, estimate in found.items():
        if not math.isclose(estimate.value, recorded.scores[name], rel_tol=1e-9, abs_tol=1e-12):
            raise InputError(
                f"{recorded.folder}: results.json says {name} {recorded.scores[name]}, and scores.jsonl makes "
                f"{estimate.value}; score the answers again with --rescore"
            )


def _alone(
    measure: Measure, first: Sequence[Mapping[str, float]], second: Sequence[Mapping[str, float]]
) -> tuple[int | None, int | None, float | None]:
    """How many questions each run answers better than the other, and McNemar's p; None where that says nothing."""
    one, two = _each(measure, first), _each(measure, second)
    if one is None or two is None:
        return None, None, None
    more, less = int((one > two).sum()), int((one < two).sum())
    whole = np.isin(one, (0, 1)).all() and np.isin(two, (0, 1)).all()
    return more, less, mcnemar(more, less) if whole else None


def _each(measure: Measure, values: Sequence[Mapping[str, float]]) -> Array | None:
    """The score of each question alone, if the measure is their mean."""
    sums = {k: np.array([v[k] for v in values]) for k in values[0]} | {"n": np.ones(len(values))}
    each = np.broadcast_to(measure.of(sums), len(values))
    weights = np.arange(1.0, len(values) + 1)  # unequal, so that no other function passes for a mean by chance
    whole = measure.of({k: v @ weights[:, None] for k, v in sums.items()})
    return each if math.isclose(float(each @ weights / weights.sum()), float(whole[0]), abs_tol=1e-9) else None


def _notes(a: Recorded, b: Recorded, pictures: int) -> list[str]:
    """What a reader of the table should know."""
    n = len(a.scored)
    notes = [
        f"{n} questions over {pictures} pictures; A - B with both runs redrawn together, {RESAMPLES} times, whole "
        f"pictures at a time; alone: questions that one run answers better than the other"
    ]
    if pictures < n:
        notes.append("McNemar's p takes questions for independent, which those of one picture are not")
    if a.about["answers"].get("fingerprint") == b.about["answers"].get("fingerprint"):
        notes.append("both are of the same weights")
    for what, key, inner in (("prompts", "prompts", "sha256"), ("decoding", "answers", "decoding")):
        if a.about[key][inner] != b.about[key][inner]:
            notes.append(f"the {what} differ, so the difference is not of the weights alone")
    failures = [len(x.about.get("failures", ())) for x in (a, b)]
    if any(failures):
        notes.append(f"questions that could not be asked count as wrong: {failures[0]} of A, {failures[1]} of B")
    return notes


def _cells(row: Difference) -> list[str]:
    """A row of the table."""
    scores = [[number(e, s), interval(e, s)] for e, s in ((row.first, ""), (row.second, ""), (row.difference, "+"))]
    counts = ["-" if c is None else str(c) for c in (row.first_alone, row.second_alone)]
    return [
        row.metric,
        str(row.n),
        *scores[0],
        *scores[1],
        *scores[2],
        *counts,
        "-" if row.p is None else f"{row.p:.3g}",
    ]
