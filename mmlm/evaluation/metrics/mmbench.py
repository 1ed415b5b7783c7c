"""Evaluation room: MMBench's circular evaluation - a question counts as right where it is right in every rotation of
its options (Liu et al., "MMBench: Is Your Multi-modal Model an All-around Player?", 2023)."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from mmlm.evaluation.statistics import Measure, ratio

VERSION = "mmbench-circular-1"
ROTATION = 1_000_000  # rotation k of question i has the index i + k * ROTATION


def values(
    correct: Sequence[bool],
    questions: Sequence[Hashable],
    rotations: Sequence[int],
    of: Mapping[Any, int] | None = None,
) -> list[dict[str, float]]:
    """The values of each rotation asked: whether it is right where it is number 0, and its share of its question, which
    is right where all its rotations are. With `of`, how many rotations there are, a question of which some were not
    asked has no part in circular accuracy."""
    asked, right = Counter(questions), Counter(q for q, c in zip(questions, correct, strict=True) if c)
    found = []
    for good, question, rotation in zip(correct, questions, rotations, strict=True):
        share = float(of is None or of[question] == asked[question]) / asked[question]
        found.append(
            {
                "questions": share,
                "whole": share * (right[question] == asked[question]),
                "plain": float(rotation == 0),
                "plain_correct": float(rotation == 0 and good),
                "correct": float(good),
            }
        )
    return found


MEASURES = (
    Measure("circular accuracy", lambda s: ratio(s["whole"], s["questions"])),
    Measure("vanilla accuracy", lambda s: ratio(s["plain_correct"], s["plain"])),
    Measure("accuracy over rotations", lambda s: ratio(s["correct"], s["n"])),
)
