"""Evaluation room: ANLS, for answers that were read off a document (Biten et al., "Scene Text Visual Question
Answering", 2019): 1 - Levenshtein / longer length, the best over the references, 0 where less than half is the same."""

from collections.abc import Sequence
from typing import Literal, get_args

from mmlm.evaluation.metrics.edits import distance
from mmlm.evaluation.metrics.text import clip

Rule = Literal["paper", "stvqa", "raw"]
RULES: tuple[Rule, ...] = get_args(Rule)
THRESHOLD = 0.5


def version(rule: Rule) -> str:
    """What a result says of this metric."""
    return f"anls/{rule}-1"


def parse(text: str, rule: Rule = "paper") -> str:
    """Lower-cased, without space around it and, but for `stvqa`, with one space between words."""
    text = clip(text).lower()
    return text.strip() if rule == "stvqa" else " ".join(text.split())


def score(answer: str, references: Sequence[str], rule: Rule = "paper") -> float:
    """The ANLS of one answer.

    `paper`: a similarity of exactly 0.5 is 0. `stvqa`, the evaluator that came with ST-VQA models: space inside counts,
    and 0.5 stays. `raw`, as evaluation harnesses have it: like `paper`, but 0.5 stays and the length is that of the
    texts before any space was taken away.
    """
    best = max((_similar(clip(answer), reference, rule) for reference in references), default=0.0)
    return best if best > THRESHOLD or (best == THRESHOLD and rule != "paper") else 0.0


def _similar(answer: str, reference: str, rule: Rule) -> float:
    said, given = parse(answer, rule), parse(reference, rule)
    longest = max(len(answer), len(reference)) if rule == "raw" else max(len(said), len(given))
    return 1 - distance(given, said) / longest if longest else 1.0
