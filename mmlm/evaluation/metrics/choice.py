"""Evaluation room: the option a model holds most likely."""

import math
from collections.abc import Sequence

VERSION = "choice-by-likelihood-1"


def likeliest(ranks: Sequence[tuple[float, int]], per_token: bool = True) -> int | None:
    """The index of the best of (sum of log p, tokens) pairs, by the mean over tokens or by the sum.

    The first of equals is taken; None where an option has no token or a value is not finite.
    """
    if not ranks or any(tokens < 1 or not math.isfinite(total) for total, tokens in ranks):
        return None
    values = [total / tokens if per_token else total for total, tokens in ranks]
    return max(range(len(values)), key=lambda i: (values[i], -i))
