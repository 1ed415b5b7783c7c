"""Evaluation room: POPE, yes-or-no questions about objects (Li et al., "Evaluating Object Hallucination", 2023)."""

import re
from typing import Literal

from mmlm.evaluation.metrics.text import clip
from mmlm.evaluation.statistics import Measure, mean, ratio

Rule = Literal["mmlm", "llava"]
_WORD = re.compile(r"[a-z]+(?:'[a-z]+)?")


def version(rule: Rule) -> str:
    """What a result says of this metric."""
    return f"pope/{rule}-1"


def parse(text: str, rule: Rule = "mmlm") -> str:
    """ "yes", "no", or "" where the first sentence says neither.

    `mmlm`: a leading yes or no decides; then any "no", "not" or "...n't" is no; then any "yes" is yes. `llava`, for
    published numbers: "No", "no" or "not" among the words is no, and anything else is yes.
    """
    sentence = clip(text).partition(".")[0].replace(",", "")
    if rule == "llava":
        return "no" if {"No", "no", "not"} & set(sentence.split(" ")) else "yes"
    words = _WORD.findall(sentence.replace("’", "'").lower())
    if words and words[0] in ("yes", "no"):
        return str(words[0])
    if any(w in ("no", "not", "cannot") or w.endswith("n't") for w in words):
        return "no"
    return "yes" if "yes" in words else ""


def counts(answer: str, label: str) -> dict[str, float]:
    """One question's part of the table: an unparsed answer is wrong, so it misses a "yes" and is no correct "no"."""
    return {
        "correct": float(answer == label),
        "true_yes": float(answer == label == "yes"),
        "said_yes": float(answer == "yes"),
        "is_yes": float(label == "yes"),
    }


# F1 = 2 TP / (2 TP + FP + FN), and TP + FP are those said, TP + FN those that are.
MEASURES = (
    mean("accuracy", "correct"),
    Measure("precision", lambda s: ratio(s["true_yes"], s["said_yes"])),
    Measure("recall", lambda s: ratio(s["true_yes"], s["is_yes"])),
    Measure("F1", lambda s: ratio(2 * s["true_yes"], s["said_yes"] + s["is_yes"])),
    mean("yes share", "said_yes"),
)
