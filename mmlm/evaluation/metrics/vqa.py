"""Evaluation room: VQA soft accuracy and the normalisers of short answers that are in use.

S. Antol et al., "VQA: Visual Question Answering" (2015): a question's score is the mean over its annotators of
min(1, number of the *other* annotators who gave the predicted answer / 3).
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

from mmlm.errors import InputError
from mmlm.evaluation.metrics.text import clip

Normaliser = Literal["mmlm", "evalai", "official", "older", "vlmevalkit"]
NORMALISERS: tuple[Normaliser, ...] = get_args(Normaliser)

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_POINT = re.compile(r"\.(?!\d)")
_POINT_BETWEEN = re.compile(r"(?<!\d)\.(?!\d)")
_POINTS = 32  # the published code passes a flag where a count belongs, so only the first 32 points go
_ARTICLES = frozenset(["a", "an", "the"])
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten"
_NUMBERS = {word: str(i) for i, word in enumerate(_NUMBER_WORDS.split())} | {"none": "0"}
_SHORT_FORMS = """
    'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't haven't
    he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am might've mightn't mightn't've must've mustn't
    needn't not've o'clock oughtn't shan't she'd've should've shouldn't shouldn't've somebody'd've somebody'll
    somebody's someone'd someone'd've someone'll someone's something'd something'd've something'll that's there'd
    there'd've there're there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll
    what're what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're why's
    won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll you're you've
"""
# Each form is known by itself with any one apostrophe left out; the last entry is reversed in the published table too.
_RESTORED = {w[:i] + w[i + 1 :]: w for w in _SHORT_FORMS.split() for i, c in enumerate(w) if c == "'"} | {
    "somebody'd": "somebodyd"
}


def version(normaliser: Normaliser) -> str:
    """What a result says of this metric."""
    return f"vqa-soft-accuracy/{normaliser}-1"


def normalise(text: str, normaliser: Normaliser = "mmlm") -> str:
    """`text` by the steps of one normaliser.

    `official`, `older`: the steps of the VQA evaluation. `evalai`: those of EvalAI (TextVQA, VizWiz, OK-VQA), which
    also delete every comma and question mark first and split off 's. `mmlm`: EvalAI's without that split.
    `vlmevalkit`: a point that follows a digit stays too.
    """
    return _normalised(clip(text), normaliser)


@lru_cache(maxsize=1 << 14)  # people's answers repeat
def _normalised(text: str, normaliser: Normaliser) -> str:
    if normaliser in ("mmlm", "evalai"):
        text = text.lower().replace(",", "").replace("?", "")
        text = text.replace("'s", " 's") if normaliser == "evalai" else text
    return _words(_punctuation(_spaced(text), _POINT_BETWEEN if normaliser == "vlmevalkit" else _POINT))


def soft_accuracy(matching: int, annotators: int) -> float:
    """The score when `matching` of `annotators` people gave the predicted answer, each left out once.

    k people see k - 1 others who agree, the rest see k: (k min(1, (k - 1) / 3) + (n - k) min(1, k / 3)) / n. For ten
    people: 0, 0.3, 0.6, 0.9, 1. Fewer than four people cannot reach 1 that way: there one match is 1, none is 0.
    """
    if not 0 <= matching <= annotators or annotators < 1:
        raise InputError(
            f"{matching} matching answers of {annotators}: expected 0 <= matching <= annotators, annotators >= 1"
        )
    if annotators < 4:
        return float(matching > 0)
    agree, others = min(1.0, (matching - 1) / 3), min(1.0, matching / 3)
    return (matching * agree + (annotators - matching) * others) / annotators


def score(answer: str, references: Sequence[str], normaliser: Normaliser = "mmlm") -> tuple[float, str]:
    """The soft accuracy of `answer` and the form in which it was compared.

    `mmlm`, `evalai` and `vlmevalkit` normalise both sides. `official` (the VQA repository since 2021) compares raw text
    where all people agree, and normalises both sides otherwise. `older` always normalises the answer, and of what people
    said only the punctuation, where they differ. People are told apart by index, not by answer.
    """
    said, given = normalise(answer, normaliser), [_spaced(clip(r)) for r in references]
    unanimous = len(set(given)) == 1
    if normaliser == "official" and unanimous:
        said = _spaced(clip(answer))
    elif normaliser == "older":
        given = given if unanimous else [_punctuation(g, _POINT) for g in given]
    else:
        given = [normalise(r, normaliser) for r in references]
    return soft_accuracy(sum(g == said for g in given), len(given)), said


def _spaced(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _punctuation(text: str, point: re.Pattern[str]) -> str:
    """Marks beside a space, and every mark once a number holds a comma, vanish; other marks become a space."""
    number, out = _COMMA_IN_NUMBER.search(text) is not None, text
    for mark in _MARKS:
        out = out.replace(mark, "" if number or mark + " " in text or " " + mark in text else " ")
    return point.sub("", out, count=_POINTS)


def _words(text: str) -> str:
    """Number words to digits, articles away, apostrophes back."""
    words = [_NUMBERS.get(w, w) for w in text.lower().split()]
    return " ".join(_RESTORED.get(w, w) for w in words if w not in _ARTICLES)
