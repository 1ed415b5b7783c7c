"""Evaluation room: MME, two questions to each picture, one of them to be answered with yes and one with no
(Fu et al., "MME: A Comprehensive Evaluation Benchmark for Multimodal Large Language Models", 2023)."""

from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from mmlm.evaluation.metrics import pope
from mmlm.evaluation.metrics.text import clip
from mmlm.evaluation.statistics import Array, Measure, Sums, ratio

Rule = Literal["published", "mmlm"]
RULES: tuple[Rule, ...] = get_args(Rule)
PERCEPTION = (
    "existence",
    "count",
    "position",
    "color",
    "posters",
    "celebrity",
    "scene",
    "landmark",
    "artwork",
    "OCR",
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
QUESTIONS = 2  # to each picture


def version(rule: Rule) -> str:
    """What a result says of this metric."""
    return f"mme/{rule}-1"


def parse(text: str, rule: Rule = "published") -> str:
    """ "yes", "no", or "" where the answer is neither.

    `published`: the whole answer, or what stands in its first four characters, points away ("not" and "none" are no).
    `mmlm`: as POPE's answers are read by that name.
    """
    if rule == "mmlm":
        return pope.parse(text)
    said = clip(text).lower().strip().replace(".", "")
    if len(said) == 1:
        return {"y": "yes", "n": "no"}.get(said, "")
    return "yes" if "yes" in said[:4] else "no" if "no" in said[:4] else ""


def values(
    correct: Sequence[bool], pictures: Sequence[Hashable], subtasks: Sequence[str], among: Sequence[str]
) -> list[dict[str, float]]:
    """The values of each question: whether it is right, and its share of its picture, which is right where all of its
    questions are. A picture of which one question alone was asked has no part in accuracy+. `among` names all subtasks.
    """
    asked, right = Counter(pictures), Counter(p for p, c in zip(pictures, correct, strict=True) if c)
    found = []
    for good, picture, subtask in zip(correct, pictures, subtasks, strict=True):
        whole = float(asked[picture] >= QUESTIONS) / asked[picture]
        row = {f"{kind} {s}": 0.0 for s in among for kind in ("n", "correct", "pictures", "whole")}
        row |= {
            f"n {subtask}": 1.0,
            f"correct {subtask}": float(good),
            f"pictures {subtask}": whole,
            f"whole {subtask}": whole * (right[picture] == asked[picture]),
        }
        found.append(row)
    return found


def measures(among: Sequence[str]) -> tuple[Measure, ...]:
    """The score: accuracy + accuracy+ in percent, at most 200, summed over the subtasks of `among` that a group holds
    (over the ten of perception at most 2000, over the four of cognition 800); and both shares over all questions."""

    def score(sums: Sums) -> Array:
        each = [
            ratio(sums[f"correct {s}"], sums[f"n {s}"]) + ratio(sums[f"whole {s}"], sums[f"pictures {s}"])
            for s in among
        ]
        return np.asarray(100 * np.sum(each, axis=0))

    def share(sums: Sums, above: str, below: str) -> Array:
        return ratio(_over(sums, above, among), _over(sums, below, among))

    return (
        Measure("MME score", score),
        Measure("accuracy", lambda sums: share(sums, "correct", "n")),
        Measure("accuracy+", lambda sums: share(sums, "whole", "pictures")),
    )


def _over(sums: Mapping[str, Array], kind: str, among: Sequence[str]) -> Array:
    return np.asarray(np.sum([sums[f"{kind} {s}"] for s in among], axis=0))
