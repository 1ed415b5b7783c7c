"""Evaluation room: ChartQA's relaxed accuracy - a number may be 5 % off, other answers must be the same text
(Masry et al., "ChartQA", 2022; the tolerance is that of Methani et al., "PlotQA", 2020)."""

import math
import re
from typing import Literal, get_args

from mmlm.evaluation.metrics.text import clip

Rule = Literal["published", "mmlm"]
RULES: tuple[Rule, ...] = get_args(Rule)
TOLERANCE = 0.05
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")


def version(rule: Rule) -> str:
    """What a result says of this metric."""
    return f"chartqa-relaxed/{rule}-1"


def parse(text: str, rule: Rule = "published") -> str:
    """`published`: the text as it stands. `mmlm`: without space around it, a point at its end, a currency before a
    number, and commas between thousands."""
    text = clip(text)
    if rule == "published":
        return text
    text = text.strip().removesuffix(".")
    bare = _THOUSANDS.sub("", text.lstrip("$€£ "))
    return text if number(bare) is None else bare


def number(text: str) -> float | None:
    """The number that a text is, a share where it ends with %, or None."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def relaxed(answer: str, reference: str, rule: Rule = "published") -> bool:
    """Whether |answer - reference| <= 5 % of |reference|, where both are numbers and the reference is not 0; otherwise
    whether the texts are the same but for case. A year one off passes, as it does in the published numbers."""
    said, given = parse(answer, rule), parse(reference, rule)
    a, b = number(said), number(given)
    if a is not None and b:
        apart = abs(a - b) / abs(b)
        return math.isfinite(apart) and apart <= TOLERANCE
    return said.lower() == given.lower()
