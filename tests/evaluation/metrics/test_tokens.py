"""The caption lexer against the tokens that the Java tokenizer gave."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlm.evaluation.metrics.tokens import tokenise


def test_golden_captions(goldens: dict[str, Any]) -> None:
    for text, expected in goldens["ptb_tokenizer"].items():
        assert " ".join(tokenise(text)) == expected, text
    for number, captions in goldens["captions"]["raw_refs"].items():
        assert [" ".join(tokenise(c)) for c in captions] == goldens["captions"]["tokenised_refs"][number]


def test_800_generated_captions(generated: dict[str, Any]) -> None:
    raw, tokens = generated["captions"]["pictures"], generated["captions"]["tokens"]
    for captions, expected in zip(raw, tokens, strict=True):
        assert [" ".join(tokenise(c)) for c in captions] == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a man\u2028b man\rc\x0bd\x0ce", "a man b man c d e"),
        ("AT&T, black&white b & w", "at&t black & white b & w"),
        ("5:00pm at 12:00a.m.", "5:00 pm at 12:00 a.m."),
        ("No. 5 and no. dogs", "no. 5 and no dogs"),
        ("the mother's-day sign", "the mother 's day sign"),
        ("the '70s, 5'10 and 90's", "the '70s 5 '10 and 90 's"),
        ("y'all c'mon o'clock 'tis goin'", "y' all c'mon o'clock 't is goin"),
        ("3,000-seat, 1/2 and ½", "3,000 seat 1/2 and 1/2"),
        ("£5 €6 7¢", "# 5 $ 6 7 cents"),
    ],
)
def test_quirks(text: str, expected: str) -> None:
    assert " ".join(tokenise(text)) == expected


@settings(deadline=None)
@given(st.text(max_size=80))
def test_tokens_hold_no_space_and_no_removed_mark(text: str) -> None:
    for token in tokenise(text):
        assert token.strip() == token != ""
        assert token not in {".", ",", "?", "!", ":", ";", "-", "--", "...", "'", '"', "''", "``", "`"}
