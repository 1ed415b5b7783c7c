"""Evaluation room: MMMU - lettered questions (`letters.parse` with the rule `mmmu`) and open ones, whose answer is a
number or a phrase somewhere in the reply (Yue et al., "MMMU", 2024)."""

import re
from collections.abc import Sequence

from mmlm.evaluation.metrics.text import clip

VERSION = "mmmu-1"
Candidate = str | float

_GROUPED = re.compile(r"-?\b\d{1,3}(?:,\d{3})+\b")
_SCIENTIFIC = re.compile(r"(?:-|(?<!\d))\d+(?:\.\d+)?[eE][+-]?\d+")
_PLAIN = re.compile(r"(?:(?:-|(?<!\d))(?:\d+\.\d+|\d+\b)|-?\.\d+)(?![eE][+-]?\d+)(?![,\d])")
_LEADS = ("could be ", "so ", "is ", "thus ", "therefore ", "final ", "answer ", "result ")
_EMPTY = frozenset(":,.!?;'")


def candidates(text: str) -> frozenset[Candidate]:
    """What an open reply may have answered: what follows the last "is", "so", "answer" ... of each line (or "=" in the
    last), else the whole reply, and every number in that; numbers are rounded to two places."""
    text = clip(text).strip().strip(".").lower()
    if not text:
        return frozenset()
    lines = text.split("\n")
    tails = [_tail(line, (*_LEADS, "=") if i == len(lines) - 1 else _LEADS) for i, line in enumerate(lines)]
    phrases = [t for t in tails if t and t not in _EMPTY] or [text]
    numbers = [n for p in phrases for form in (_GROUPED, _SCIENTIFIC, _PLAIN) for n in form.findall(p)]
    return frozenset(c for p in (*phrases, *numbers) for c in normalise(p))


def normalise(text: str) -> list[Candidate]:
    """A number rounded to two places; or the text in lower case, a single character with a space before and after it,
    lest it stand inside any word."""
    text = text.strip()
    try:
        return [round(float(text.replace(",", "")), 2)]
    except ValueError:
        text = text.lower()
        return [" " + text, text + " "] if len(text) == 1 else [text]


def correct(said: frozenset[Candidate], references: Sequence[str]) -> bool:
    """Whether a number among the candidates is a reference, or a phrase among them holds one."""
    wanted = [n for r in references for n in normalise(r)]
    phrases = [w for w in wanted if isinstance(w, str)]
    return any(any(w in c for w in phrases) if isinstance(c, str) else c in wanted for c in said)


def _tail(line: str, leads: Sequence[str]) -> str:
    """The shortest of what follows the last of each lead that the line holds; "" where it holds none. An empty one
    gives way to the next, as in the published parse."""
    shortest = ""
    for tail in (line.rpartition(lead)[2].strip() for lead in leads if lead in line):
        if not shortest or len(tail) < len(shortest):
            shortest = tail
    return shortest
