"""Evaluation room: which lettered option an answer chooses; nothing is ever drawn at random."""

import re
from collections.abc import Sequence
from typing import Literal

from mmlm.evaluation.metrics.text import clip
from mmlm.evaluation.metrics.vqa import normalise

Rule = Literal["mmlm", "llava"]
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_STATED = re.compile(r"The answer is ([A-Z]).")
_ALONE = re.compile(r"[(\[*\s]*([A-Za-z])[)\]*.:\s]*")
_LEADING = re.compile(r"[(\[*\s]*([A-Z])[)\]*]*[.):\]](?:[)\]*\s]|$)")
_NAMED = re.compile(r"\b(?:[Aa]nswer|[Oo]ption|[Cc]hoice)(?:\s+is|\s*:)?\s*(?:[Oo]ption\s+)?[(\[*]{0,3}([A-Z])\b(?!')")


def version(rule: Rule) -> str:
    """What a result says of this parse."""
    return f"letter/{rule}-1"


def parse(text: str, options: Sequence[str], rule: Rule = "mmlm") -> int | None:
    """The index of the chosen option, or None.

    `llava`, ScienceQA's published parse: the letter alone, or "B. ..." at the start, or one "The answer is B.". `mmlm`
    also reads "(B)", "b", "**B**", "Answer: B" and an answer that is the text of exactly one option.
    """
    text = clip(text)
    letter = _published(text) if rule == "llava" else _letter(text)
    if letter is not None:
        index = LETTERS.index(letter)
        return index if index < len(options) else None
    if rule == "llava":
        return None
    return named(text, options)


def named(text: str, options: Sequence[str]) -> int | None:
    """The index of the one option whose normalised text is the answer's, or None."""
    said = normalise(text)
    same = [i for i, option in enumerate(options) if said and normalise(option) == said]
    return same[0] if len(same) == 1 else None


def _published(text: str) -> str | None:
    if len(text) == 1 and text in LETTERS:
        return text
    if len(text) >= 3 and text[0] in LETTERS and text[1:3] == ". ":
        return text[0]
    found = _STATED.findall(text)
    return found[0] if len(found) == 1 else None


def _letter(text: str) -> str | None:
    if found := _ALONE.fullmatch(text) or _LEADING.match(text):
        return found[1].upper()
    named_letters = set(_NAMED.findall(text))
    return named_letters.pop() if len(named_letters) == 1 else None
