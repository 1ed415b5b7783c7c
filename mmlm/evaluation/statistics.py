"""Evaluation room: how sure a score is - bootstrap intervals over pictures, and paired differences.

Every score here is a function of sums over questions (correct answers and their number, clipped n-gram counts, true and
false positives). A bootstrap then only redraws sums: questions of one picture are drawn together, because their answers
are not independent.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mmlm.errors import InputError

RESAMPLES = 1000
LEVEL = 0.95
_AT_ONCE = 1 << 20  # numbers drawn in one piece

Array = NDArray[np.float64]
Sums = Mapping[str, Array]


@dataclass(frozen=True, slots=True)
class Measure:
    """A score by name: `of` maps sums over questions (arrays of any one shape, "n" among them) to the score."""

    name: str
    of: Callable[[Sums], Array]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A score with the bounds of its bootstrap interval; None where one picture alone was asked about."""

    value: float
    low: float | None = None
    high: float | None = None


def ratio(above: Array, below: Array) -> Array:
    """above / below, and 0 where nothing was counted."""
    return np.divide(above, below, out=np.zeros(np.broadcast(above, below).shape), where=below > 0)


def mean(name: str, key: str | None = None) -> Measure:
    """The mean over questions of the value `key` (or `name`)."""
    return Measure(name, lambda sums: ratio(sums[key or name], sums["n"]))


def point(values: Sequence[Mapping[str, float]], measures: Sequence[Measure]) -> dict[str, float]:
    """Each measure on all questions. `values` holds one mapping per question; "n" is added here."""
    keys, table = _table(values)
    sums = dict(zip(keys, table.sum(axis=0, keepdims=True).T, strict=True))
    return {m.name: float(m.of(sums)[0]) for m in measures}


def bootstrap(
    values: Sequence[Mapping[str, float]],
    clusters: Sequence[str],
    measures: Sequence[Measure],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Estimate]:
    """Each measure with its percentile interval; whole clusters (pictures) are drawn with replacement.

    B. Efron, "Bootstrap Methods: Another Look at the Jackknife" (1979), with the cluster as the unit.
    """
    keys, table = _table(values)
    drawn = dict(zip(keys, _draw(table, clusters, resamples, seed).T, strict=True))
    whole = point(values, measures)
    return {m.name: _estimate(whole[m.name], m.of(drawn), clusters, level) for m in measures}


def paired(
    first: Sequence[Mapping[str, float]],
    second: Sequence[Mapping[str, float]],
    clusters: Sequence[str],
    measures: Sequence[Measure],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> dict[str, Estimate]:
    """Each measure on `first` minus the same on `second`, which answer the same questions: both are drawn together."""
    if len(first) != len(second):
        raise InputError(f"a paired difference needs the same questions twice; {len(first)} and {len(second)} came")
    keys, one = _table(first)
    _, two = _table(second, keys)
    drawn = _draw(np.concatenate([one, two], axis=1), clusters, resamples, seed)
    left, right = (dict(zip(keys, half.T, strict=True)) for half in np.split(drawn, 2, axis=1))
    a, b = point(first, measures), point(second, measures)
    return {m.name: _estimate(a[m.name] - b[m.name], m.of(left) - m.of(right), clusters, level) for m in measures}


def reweighed(
    of: Callable[[Array], Array],
    clusters: Sequence[str],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    level: float = LEVEL,
) -> Estimate:
    """A score that no sums give, with its interval: `of` maps how often each question counts, `[R, N]`, to the score,
    `[R]`. The clusters drawn are those that `bootstrap` draws from the same seed."""
    own = np.array(_numbered(clusters))
    rng, size = np.random.default_rng(seed), int(own.max()) + 1
    block = max(1, _AT_ONCE // len(own))
    drawn = [of(_times(rng, size, min(block, resamples - done))[:, own]) for done in range(0, resamples, block)]
    return _estimate(float(of(np.ones((1, len(own))))[0]), np.concatenate(drawn), clusters, level)


def _table(values: Sequence[Mapping[str, float]], keys: Sequence[str] | None = None) -> tuple[Sequence[str], Array]:
    """The values as one row per question, "n" = 1 in front."""
    if not values:
        raise InputError("no question was scored; a score needs at least one")
    keys = keys or ["n", *values[0]]
    return keys, np.array([[1.0 if k == "n" else float(v[k]) for k in keys] for v in values], dtype=np.float64)


def _draw(table: Array, clusters: Sequence[str], resamples: int, seed: int) -> Array:
    """Sums `[resamples, values]` over clusters drawn with replacement."""
    if len(clusters) != len(table):
        raise InputError(f"one cluster a question is needed: {len(table)} questions came with {len(clusters)} clusters")
    own = _numbered(clusters)
    rng, size = np.random.default_rng(seed), max(own) + 1
    sums = np.zeros((size, table.shape[1]))
    np.add.at(sums, own, table)
    block = max(1, _AT_ONCE // size)
    return np.concatenate(
        [_times(rng, size, min(block, resamples - done)) @ sums for done in range(0, resamples, block)]
    )


def _numbered(clusters: Sequence[str]) -> list[int]:
    """The number of each question's cluster, from 0 in the order in which they come."""
    number = {name: i for i, name in enumerate(dict.fromkeys(clusters))}
    return [number[c] for c in clusters]


def _times(rng: np.random.Generator, size: int, rows: int) -> Array:
    """How often each of `size` clusters is drawn, for each of `rows` resamples."""
    drawn = rng.integers(size, size=(rows, size)) + size * np.arange(rows)[:, None]
    return np.bincount(drawn.ravel(), minlength=rows * size).reshape(rows, size).astype(np.float64)


def _estimate(value: float, drawn: Array, clusters: Sequence[str], level: float) -> Estimate:
    if len(set(clusters)) < 2:
        return Estimate(value)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    return Estimate(value, float(low), float(high))
