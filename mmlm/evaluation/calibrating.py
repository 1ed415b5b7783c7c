"""Evaluation room: how sure a model was of its answers, held against how right they are - with intervals by picture, over
the pictures asked about and over the exchanged ones.

A confidence is of one of the kinds of `Task.confidence`, and each kind is told apart. Ten bins of equal width are taken;
a confidence on an edge belongs to the bin below it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mmlm.evaluation.metrics import calibration
from mmlm.evaluation.metrics.calibration import Bin
from mmlm.evaluation.statistics import Array, Estimate, bootstrap, paired, reweighed
from mmlm.evaluation.tasks.task import Scored

ABOUT = {
    "reply": "the probability of the reply",
    "per token": "the geometric mean of the probabilities of the reply's tokens",
    "choices": "the share of the best choice in the likelihood of all",
}
SHOWN = ("ECE", "Brier", "AUROC")
NONE = "calibration: none (how likely the model held its answers was not recorded; answers to a new --out have it)"

Right = Callable[[Mapping[str, float]], float | None]
Pairs = Sequence[tuple[float, float]]  # how sure and how right, each in 0..1


@dataclass(frozen=True, slots=True)
class Calibration:
    """One kind of confidence over the `n` questions that have it, and over the `controlled` of them whose picture was
    exchanged. Measures: ECE, MCE, Brier, AUROC, and the means of `confidence` and `accuracy`."""

    n: int
    measures: Mapping[str, Estimate]
    curve: Sequence[Bin]
    controlled: int
    control: Mapping[str, Estimate]

    def line(self, kind: str, asked: int) -> str:
        """The numbers in one line, `asked` being all questions."""
        shown = ", ".join(f"{name} {_shown(self.measures[name])}" for name in SHOWN)
        means = "confidence {confidence.value:.4f} where {accuracy.value:.4f} are right"
        over = f" over {self.n} of {asked} questions" if self.n < asked else ""
        other = f"; control: {means.format(**self.control)}" if self.control else ""
        return f"calibration of {ABOUT.get(kind, kind)}{over}: {shown}, {means.format(**self.measures)}{other}"


def as_json(found: Mapping[str, Calibration]) -> dict[str, Any] | None:
    """The kinds of confidence as plain values, with how bins were made; None where there is none."""
    return {"metric": calibration.version(), **{k: asdict(c) for k, c in found.items()}} if found else None


def calibrate(
    scored: Sequence[Scored], controlled: Mapping[int, Scored], clusters: Sequence[str], right: Right, seed: int
) -> dict[str, Calibration]:
    """Each kind of confidence that answers have. `controlled` holds, by question, what was scored over other pictures."""
    found = {}
    for kind in kinds(scored):
        own = {i: pair for i, s in enumerate(scored) if (pair := judged(s, right, kind))}
        other = {i: pair for i, s in controlled.items() if i in own and (pair := judged(s, right, kind))}
        if own:
            found[kind] = Calibration(
                len(own),
                _estimates(list(own.values()), [clusters[i] for i in own], seed),
                list(calibration.curve([sure for sure, _ in own.values()], [good for _, good in own.values()])),
                len(other),
                _estimates(list(other.values()), [clusters[i] for i in other], seed) if other else {},
            )
    return found


def kinds(scored: Sequence[Scored]) -> list[str]:
    """The kinds of confidence that any of these answers has."""
    return list(dict.fromkeys(kind for s in scored for kind in s.confidence))


def judged(scored: Scored, right: Right, kind: str) -> tuple[float, float] | None:
    """How sure and how right an answer is; None where one of them is not known, or where it is not in 0..1."""
    score, sure = right(scored.values), scored.confidence.get(kind)
    return None if sure is None or score is None or not 0 <= score <= 1 else (sure, score)


def differences(first: Pairs, second: Pairs, clusters: Sequence[str]) -> dict[str, tuple[Estimate, Estimate, Estimate]]:
    """ECE, Brier and AUROC of two runs on the same questions, and those of the first minus those of the second."""
    one, two = _estimates(first, clusters, 0), _estimates(second, clusters, 0)
    apart = paired(_values(first), _values(second), clusters, calibration.measures())
    a, b = _area(first), _area(second)
    apart["AUROC"] = reweighed(lambda times: a(times) - b(times), clusters)
    return {name: (one[name], two[name], apart[name]) for name in SHOWN}


def _estimates(pairs: Pairs, clusters: Sequence[str], seed: int) -> dict[str, Estimate]:
    """Every measure with its interval."""
    found = bootstrap(_values(pairs), clusters, calibration.measures(), seed=seed)
    return {**found, "AUROC": reweighed(_area(pairs), clusters, seed=seed)}


def _values(pairs: Pairs) -> list[dict[str, float]]:
    return [calibration.values(sure, right) for sure, right in pairs]


def _area(pairs: Pairs) -> Callable[[Array], Array]:
    """AUROC as a function of how often each answer counts."""
    sure, right = np.array(pairs, dtype=np.float64).T
    return lambda times: calibration.auroc(sure, right, times)


def _shown(estimate: Estimate) -> str:
    bounds = "" if estimate.low is None else f" ({estimate.low:.4f} .. {estimate.high:.4f})"
    return f"{estimate.value:.4f}{bounds}"
