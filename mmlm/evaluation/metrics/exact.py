"""Evaluation room: exact match of a whole answer with any of its references."""

import string
from collections.abc import Sequence
from typing import Literal, get_args

from mmlm.evaluation.metrics.text import clip
from mmlm.evaluation.metrics.vqa import normalise

Rule = Literal["verbatim", "case", "case-punctuation", "words"]
RULES: tuple[Rule, ...] = get_args(Rule)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def version(rule: Rule) -> str:
    """What a result says of this metric."""
    return f"exact/{rule}-1"


def parse(text: str, rule: Rule = "words") -> str:
    """What is compared. `verbatim`: the text as it stands. `case`: in lower case. `case-punctuation`: that, and ASCII
    punctuation away. `words`: as `vqa.normalise` has it by the rule `mmlm`."""
    text = clip(text)
    match rule:
        case "verbatim":
            return text
        case "case":
            return text.lower()
        case "case-punctuation":
            return text.lower().translate(_PUNCTUATION)
        case "words":
            return normalise(text)


def score(answer: str, references: Sequence[str], rule: Rule = "words") -> bool:
    """Whether the answer is one of the references; under `words` an answer without a word never is."""
    said = parse(answer, rule)
    return (bool(said) or rule != "words") and any(parse(r, rule) == said for r in references)
