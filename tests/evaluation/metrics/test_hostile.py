"""Answers that would hurt a scorer that runs, nests or backtracks: each is read as plain text, and quickly."""

import builtins
import time
from collections.abc import Callable

import pytest

from mmlm.evaluation.metrics import anls, asr, captions, chair, chartqa, exact, gqa, letters, mme, mmmu, pope, vqa
from mmlm.evaluation.metrics.tokens import tokenise

_MEGABYTE = 1_000_000
_REFERENCE = tokenise("a man is riding a horse on the beach near two dogs")
_TABLE = captions.Frequencies.of([[_REFERENCE], [tokenise("a plate of food")]])

_OBJECTS = chair.Objects.of([["dog", "hot dog bun"]])

HOSTILE = [
    "__import__('os').system('touch sentinel')",
    "().__class__.__bases__[0].__subclasses__()",
    'eval(\'open("sentinel", "w")\')',
    'exec("raise SystemExit")',
    "{{7*7}} ${7*7} #{7*7} <%= 7*7 %>",
    "lambda: (yield)",
    "%s%n%x" * 1000,
    "'; DROP TABLE answers; --",
    "$(touch sentinel) `touch sentinel` | touch sentinel",
    "<script>alert(1)</script>" * 500,
    "9" * _MEGABYTE,
    "-" + "9" * _MEGABYTE,
    "1e" + "9" * _MEGABYTE,
    "0x" + "f" * _MEGABYTE,
    "9**9**9**9**9",
    "1," * (_MEGABYTE // 2),
    "1." * (_MEGABYTE // 2),
    "1/" * (_MEGABYTE // 2),
    "[" * _MEGABYTE,
    "(" * 50_000 + ")" * 50_000,
    '{"a":' * 100_000,
    "a" * _MEGABYTE,
    "a" * _MEGABYTE + "!",
    "a-" * (_MEGABYTE // 2),
    "a." * (_MEGABYTE // 2),
    "a'" * (_MEGABYTE // 2),
    "n't" * (_MEGABYTE // 3),
    "'s" * (_MEGABYTE // 2),
    " " * _MEGABYTE,
    "\n" * _MEGABYTE,
    "\x00" * _MEGABYTE,
    "a b " * (_MEGABYTE // 4),
    "." * _MEGABYTE,
    "?!" * (_MEGABYTE // 2),
    "@" * _MEGABYTE + "a.b",
    "http://" + "a" * _MEGABYTE,
    "<" * _MEGABYTE,
    "\U0001f600" * (_MEGABYTE // 4),
    "\ud800 half a pair",
    "The answer is " * 70_000,
    "Answer: option " * 60_000,
    "((((" + "B" * _MEGABYTE,
]


def read_caption(text: str) -> float:
    said = tokenise(text)
    captions.bleu_counts(said, [_REFERENCE] * 5)
    return captions.rouge_l(said, [_REFERENCE] * 5) + captions.cider_d(said, [_REFERENCE] * 5, _TABLE)


SCORERS: dict[str, Callable[[str], object]] = {
    **{n: lambda text, n=n: vqa.score(text, ["yes"] * 10, n)[0] for n in vqa.NORMALISERS},
    "pope": lambda text: pope.parse(text) == "yes",
    "gqa": lambda text: gqa.exact(text, "yes"),
    **{f"letters {r}": lambda text, r=r: (letters.parse(text, ["cat", "dog"], r) or 0) > 1 for r in letters.RULES},
    **{f"anls {r}": lambda text, r=r: anls.score(text, ["a cat"] * 3, r) for r in anls.RULES},
    **{f"chartqa {r}": lambda text, r=r: chartqa.relaxed(text, "3.5%", r) for r in chartqa.RULES},
    **{f"mme {r}": lambda text, r=r: mme.parse(text, r) == "yes" for r in mme.RULES},
    **{f"exact {r}": lambda text, r=r: exact.score(text, ["a cat"], r) for r in exact.RULES},
    "mmmu": lambda text: mmmu.correct(mmmu.candidates(text), ["3.50", "cat"]),
    **{f"asr {n}": lambda text, n=n: asr.counts(text, "a cat sat", n)["hits"] > 9 for n in asr.NORMALISERS},
    "chair": lambda text: len(_OBJECTS.mentions(text)) > 9999,
    "caption": read_caption,
}


def test_there_are_forty() -> None:
    assert len(HOSTILE) >= 40


@pytest.mark.parametrize("name", SCORERS)
def test_every_scorer_is_quick_and_runs_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("an answer was run")

    SCORERS[name]("warm")
    monkeypatch.setattr(builtins, "eval", forbidden)
    monkeypatch.setattr(builtins, "exec", forbidden)
    monkeypatch.setattr("os.system", forbidden)
    for text in HOSTILE:
        spent = min(timed(SCORERS[name], text) for _ in range(3))
        assert spent < 0.05, f"{name} took {spent:.3f} s for {text[:30]!r}"


def timed(score: Callable[[str], object], text: str) -> float:
    begun = time.process_time()
    found = score(text)
    spent = time.process_time() - begun
    assert not found or (isinstance(found, float) and found < 3), f"{text[:30]!r} was scored {found!r}"
    return spent
