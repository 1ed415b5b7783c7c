"""The likeliest option, and GQA's exact match."""

import math

import pytest

from mmlm.evaluation.metrics import choice, gqa


def test_per_token_and_whole_sums_can_differ() -> None:
    ranks = [(-3.0, 1), (-4.0, 2)]
    assert choice.likeliest(ranks) == 1
    assert choice.likeliest(ranks, per_token=False) == 0


def test_the_first_of_equals() -> None:
    assert choice.likeliest([(-2.0, 2), (-1.0, 1), (-1.0, 1)]) == 0


@pytest.mark.parametrize("ranks", [[], [(-1.0, 0), (-1.0, 1)], [(math.nan, 1), (-1.0, 1)], [(-math.inf, 1), (-1.0, 1)]])
def test_no_number_no_choice(ranks: list[tuple[float, int]]) -> None:
    assert choice.likeliest(ranks) is None


@pytest.mark.parametrize(("text", "right"), [("Yes.", True), (" yes ", True), ("yes!", False), ("yes it is", False)])
def test_gqa_matches_the_whole_answer(text: str, right: bool) -> None:
    assert gqa.exact(text, "yes") is right
