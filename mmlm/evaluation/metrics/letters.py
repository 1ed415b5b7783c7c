"""Evaluation room: which lettered option an answer chooses; nothing is ever drawn at random."""

import re
from collections.abc import Sequence
from typing import Literal, get_args

from mmlm.evaluation.metrics.text import clip
from mmlm.evaluation.metrics.vqa import normalise

Rule = Literal["mmlm", "llava", "vlmevalkit", "mmmu", "first"]
RULES: tuple[Rule, ...] = get_args(Rule)
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

_STATED = re.compile(r"The answer is ([A-Z]).")
_ALONE = re.compile(r"[(\[*\s]*([A-Za-z])[)\]*.:\s]*")
_LEADING = re.compile(r"[(\[*\s]*([A-Z])[)\]*]*[.):\]](?:[)\]*\s]|$)")
_NAMED = re.compile(r"\b(?:[Aa]nswer|[Oo]ption|[Cc]hoice)(?:\s+is|\s*:)?\s*(?:[Oo]ption\s+)?[(\[*]{0,3}([A-Z])\b(?!')")
_SEPARATORS = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_CONCLUDED = re.compile(r"(?i)answer\s+is\s+\**([ABCD])\**")
# Sentences after which VLMEvalKit reads no option.
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_LAST = 5  # VLMEvalKit takes a letter for an answer among the last words only
_EDGES = (",", ".", "!", "?", ";", ":", "'")
_LONG = 5  # MMMU looks for an option's text in answers of more words than this


def version(rule: Rule) -> str:
    """What a result says of this parse."""
    return f"letter/{rule}-1"


def parse(text: str, options: Sequence[str], rule: Rule = "mmlm") -> int | None:
    """The index of the chosen option, or None.

    `llava`, ScienceQA's published parse: the letter alone, or "B. ..." at the start, or one "The answer is B.". `mmlm`
    also reads "(B)", "b", "**B**", "Answer: B" and an answer that is the text of exactly one option. `vlmevalkit`: one
    letter among the last words, or "answer is B", or the text of exactly one option inside. `mmmu`, the published
    parse without its draw: "(B)", then "B ", then "B.", then options' texts; the last of several. `first`: the first
    character, in either case.
    """
    text = clip(text)
    match rule:
        case "vlmevalkit":
            return _among_last(text, options)
        case "mmmu":
            return _mmmu(text, options)
        case "first":
            letter: str | None = text.strip()[:1].upper() or None
        case "llava":
            letter = _published(text)
        case _:
            letter = _letter(text)
    if letter is not None:
        index = LETTERS.find(letter)
        return index if 0 <= index < len(options) else None
    return named(text, options) if rule == "mmlm" else None


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


def _among_last(text: str, options: Sequence[str]) -> int | None:
    """VLMEvalKit's exact matching, 2026-08."""
    if "Failed to obtain answer via API" not in text:
        if any(refusal in text for refusal in _REFUSALS):
            return None
        words = text.translate(_SEPARATORS).split()
        found = [i for i in range(len(options)) if LETTERS[i] in words]
        if len(found) == 1 and words.index(LETTERS[found[0]]) > len(words) - _LAST:
            return found[0]
        if not found and "Z" in words:
            return None
        if (stated := _CONCLUDED.search(text)) and (index := LETTERS.index(stated[1].upper())) < len(options):
            return index
    if len(text) > 2 * sum(map(len, options)):
        return None
    inside = [i for i, option in enumerate(options) if option.lower() in text.lower()]
    return inside[0] if len(inside) == 1 else None


def _mmmu(text: str, options: Sequence[str]) -> int | None:
    """MMMU's parse. Of several options the one that stands last is taken; where the published parse looks for letters
    between spaces and finds none, that is the first option."""
    for edge in _EDGES:
        text = text.strip(edge)
    text = f" {text} "
    for form, place in (("({})", "({})"), ("{} ", " {} "), ("{}.", " {} ")):
        found = [i for i in range(len(options)) if form.format(LETTERS[i]) in text]
        if found:
            return max(found, key=lambda i: (text.rfind(place.format(LETTERS[i])), -i))
    low = text.lower()
    if len(text.split()) <= _LONG:
        return None
    return max(
        (i for i, o in enumerate(options) if o.lower() in low),
        key=lambda i: (low.rfind(options[i].lower()), -i),
        default=None,
    )
