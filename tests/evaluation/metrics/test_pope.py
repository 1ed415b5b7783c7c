"""POPE's parse and its five numbers."""

from typing import Any

import pytest

from mmlm.evaluation.metrics import pope
from mmlm.evaluation.statistics import point


@pytest.mark.parametrize("rule", ["mmlm", "llava"])
def test_golden_table(goldens: dict[str, Any], rule: pope.Rule) -> None:
    golden = goldens["pope"]
    said = [pope.parse(t, rule) for t in golden["texts"]]
    found = point([pope.counts(a, label) for a, label in zip(said, golden["labels"], strict=True)], pope.MEASURES)
    assert found == pytest.approx(
        {
            "accuracy": golden["accuracy"],
            "precision": golden["precision"],
            "recall": golden["recall"],
            "F1": golden["f1"],
            "yes share": golden["yes_ratio"],
        },
        abs=1e-9,
    )


def test_published_parse_of_200_answers(generated: dict[str, Any]) -> None:
    assert len(generated["pope"]) >= 200
    for text, expected in generated["pope"]:
        assert pope.parse(text, "llava") == expected, text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Yes.", "yes"),
        ("YES", "yes"),
        ("Yes, there is no doubt", "yes"),
        ("There isn’t one", "no"),
        ("I cannot see any", "no"),
        ("None", ""),
        ("a dog", ""),
        ("", ""),
        ("I would say yes", "yes"),
        (". no", ""),
    ],
)
def test_what_says_neither_is_not_read(text: str, expected: str) -> None:
    assert pope.parse(text) == expected


def test_unparsed_is_wrong_on_both_sides() -> None:
    assert pope.counts("", "yes") == {"correct": 0, "true_yes": 0, "said_yes": 0, "is_yes": 1}
    assert pope.counts("", "no") == {"correct": 0, "true_yes": 0, "said_yes": 0, "is_yes": 0}


def test_nothing_said_yes_is_no_division_by_zero() -> None:
    found = point([pope.counts("no", "no")], pope.MEASURES)
    assert found == {"accuracy": 1.0, "precision": 0.0, "recall": 0.0, "F1": 0.0, "yes share": 0.0}
