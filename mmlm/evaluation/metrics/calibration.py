"""Evaluation room: whether a model is right as often as it is sure - ECE, MCE, Brier score, AUROC and the reliability
curve.

ECE = sum_b |right_b - sure_b| / n and MCE = max_b |right_b - sure_b| / n_b over bins of equal width, with right_b the
answers that are right in bin b and sure_b the sum of their confidences (Guo et al., "On Calibration of Modern Neural
Networks", 2017). Brier = mean of (confidence - right)^2 (G. W. Brier, 1950). AUROC = how likely a right answer has the
greater confidence than a wrong one, equal ones counting one half (J. A. Hanley, B. J. McNeil, 1982). An answer may be
right in part (0.3 of its annotators say so): `right` is then that share, and in AUROC it counts as right by that share
and as wrong by the rest. The confidence is the caller's: what it was made of (the mean probability of the answer's
tokens, say) belongs into the result beside these numbers.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from mmlm.errors import InputError
from mmlm.evaluation.statistics import Array, Measure, Sums, mean, ratio

Edge = Literal["upper", "lower"]
EDGES: tuple[Edge, ...] = get_args(Edge)


@dataclass(frozen=True, slots=True)
class Bin:
    """One point of the reliability curve: the bounds, how many answers, how sure and how right they are on average."""

    low: float
    high: float
    n: int
    confidence: float
    accuracy: float


def version(bins: int = 10, edge: Edge = "upper") -> str:
    """What a result says of this metric: how many bins, and to which a confidence on an edge belongs."""
    return f"calibration/{bins}-bins-{edge}-edge-1"


def place(confidence: float, bins: int = 10, edge: Edge = "upper") -> int:
    """The bin of a confidence in 0..1. `upper`: bin b holds b / bins < c <= (b + 1) / bins, and the first holds 0 too.
    `lower`: b / bins <= c < (b + 1) / bins, and the last holds 1 too."""
    if bins < 1 or not 0 <= confidence <= 1:  # nan is neither
        raise InputError(f"confidence {confidence} in {bins} bins: expected a confidence in 0..1 and at least one bin")
    edges = [b / bins for b in range(1, bins)]
    return bisect_left(edges, confidence) if edge == "upper" else bisect_right(edges, confidence)


def values(confidence: float, right: float, bins: int = 10, edge: Edge = "upper") -> dict[str, float]:
    """One answer's part of every number here that is made of sums. `right` is 0, 1 or, in part, between."""
    own = place(confidence, bins, edge)
    row = {f"{kind} {b}": 0.0 for b in range(bins) for kind in ("n", "sure", "right")}
    row |= {f"n {own}": 1.0, f"sure {own}": confidence, f"right {own}": float(right)}
    return row | {"Brier": (confidence - right) ** 2, "confidence": confidence, "accuracy": float(right)}


def measures(bins: int = 10) -> tuple[Measure, ...]:
    """ECE, MCE and Brier score of values that were put into as many bins, and the mean confidence and accuracy."""

    def gaps(sums: Sums) -> list[Array]:
        return [np.abs(sums[f"right {b}"] - sums[f"sure {b}"]) for b in range(bins)]

    def most(sums: Sums) -> Array:
        return np.asarray(np.max([ratio(g, sums[f"n {b}"]) for b, g in enumerate(gaps(sums))], axis=0))

    return (
        Measure("ECE", lambda sums: ratio(np.asarray(np.sum(gaps(sums), axis=0)), sums["n"])),
        Measure("MCE", most),
        mean("Brier"),
        mean("confidence"),
        mean("accuracy"),
    )


def auroc(confidences: Sequence[float] | Array, right: Sequence[float] | Array, counts: Array | None = None) -> Array:
    """The area under the ROC curve of right answers against wrong ones by confidence, `[R]`, with answer i counted
    `counts[:, i]` times, `[R, N]` (once each where there are none). 0.5 where all answers are right, or all wrong."""
    sure, good = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    order = np.argsort(sure, kind="stable")
    times = (np.ones((1, len(sure))) if counts is None else counts)[:, order]
    begins = np.flatnonzero(np.diff(sure[order], prepend=-1.0))  # of answers with one confidence, the first
    rights = np.add.reduceat(times * good[order], begins, axis=1)
    wrongs = np.add.reduceat(times * (1 - good[order]), begins, axis=1)
    before = np.sum(rights * (wrongs.cumsum(axis=1) - wrongs / 2), axis=1)
    pairs = rights.sum(axis=1) * wrongs.sum(axis=1)
    found: Array = np.divide(before, pairs, out=np.full(len(times), 0.5), where=pairs > 0)
    return found


def curve(
    confidences: Sequence[float], right: Sequence[float], bins: int = 10, edge: Edge = "upper"
) -> tuple[Bin, ...]:
    """The reliability curve: the bins that hold an answer, in order."""
    held: dict[int, list[tuple[float, float]]] = {}
    for c, good in zip(confidences, right, strict=True):
        held.setdefault(place(c, bins, edge), []).append((c, good))
    return tuple(
        Bin(
            b / bins,
            (b + 1) / bins,
            len(own),
            math.fsum(c for c, _ in own) / len(own),
            math.fsum(good for _, good in own) / len(own),
        )
        for b, own in sorted(held.items())
    )


def brier(probabilities: Sequence[float], right: int) -> float:
    """The Brier score of one answer over several classes: the sum over classes of (p - 1 where right, else p)^2."""
    if not 0 <= right < len(probabilities):
        raise InputError(f"class {right} of {len(probabilities)}: expected the number of one of them")
    return math.fsum((p - (i == right)) ** 2 for i, p in enumerate(probabilities))
