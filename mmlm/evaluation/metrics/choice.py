"""Evaluation room: the option a model holds most likely."""

import math
from collections.abc import Sequence

VERSION = "choice-by-likelihood-1"


def likeliest(ranks: Sequence[tuple[float, int]], per_token: bool = True) -> int | None:
    """The index of the best of (sum of log p, tokens) pairs, by the mean over tokens or by the sum.

    The first of equals is taken; None where an option has no token or a value is not finite.
    """
    values = _values(ranks, per_token)
    return max(range(len(values)), key=lambda i: (values[i], -i)) if values else None


def probability(ranks: Sequence[tuple[float, int]], per_token: bool = True) -> float | None:
    """How likely the best option is among those given: the softmax over the numbers that they are ranked by, the means
    or the sums of log p, at the greatest. None where `likeliest` is."""
    values = _values(ranks, per_token)
    return 1 / math.fsum(math.exp(v - max(values)) for v in values) if values else None


def _values(ranks: Sequence[tuple[float, int]], per_token: bool) -> list[float]:
    """What options are ranked by; nothing where one of them cannot be."""
    if any(tokens < 1 or not math.isfinite(total) for total, tokens in ranks):
        return []
    return [total / tokens if per_token else total for total, tokens in ranks]
