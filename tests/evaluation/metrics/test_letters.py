"""Which option an answer names."""

from typing import Any

import pytest

from mmlm.evaluation.metrics import letters

_OPTIONS = ["a cat", "a dog", "a bird", "a fish"]


def test_published_parse_of_200_answers(generated: dict[str, Any]) -> None:
    assert len(generated["letters"]) >= 200
    for text, expected in generated["letters"]:
        assert letters.parse(text, _OPTIONS, "llava") == expected, text


def test_our_parse_agrees_with_the_rules_where_they_are_sure(goldens: dict[str, Any]) -> None:
    more = {"b": "B"}  # a letter alone, in any case
    less = {"A dog is shown": None, "<answer>B</answer>": None, "The correct answer is **C** because A is wrong": "C"}
    for case in goldens["mcq_parse_options_a_cat_a_dog_a_bird_a_fish"]:
        index = letters.parse(case["text"], _OPTIONS)
        found = None if index is None else letters.LETTERS[index]
        expected = {**more, **less}.get(case["text"], case["vlmevalkit"] or None)
        assert found == expected, case["text"]


@pytest.mark.parametrize("text", ["E", "Z.", "The answer is E.", "B or C", "Answer: A or answer: B", "", "a cat a dog"])
def test_what_names_no_option_or_two_is_not_read(text: str) -> None:
    assert letters.parse(text, _OPTIONS) is None


def test_an_option_by_its_text() -> None:
    assert letters.named("The Dog.", _OPTIONS) == 1
    assert letters.named("dog", ["dog", "the dog"]) is None
    assert letters.named("the", ["a", "an"]) is None
