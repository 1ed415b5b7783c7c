"""MME, MMBench, MMMU, ChartQA, ANLS and exact match where the reference programs draw, crash or say nothing."""

import pytest

from mmlm.evaluation.metrics import anls, chartqa, exact, letters, mmbench, mme, mmmu
from mmlm.evaluation.statistics import point


def test_a_picture_of_which_half_was_asked_has_no_part_in_accuracy_plus() -> None:
    rows = mme.values([True, True, True], ["a", "a", "b"], ["count"] * 3, ["count", "OCR"])
    found = point(rows, mme.measures(["count", "OCR"]))
    assert found == {"MME score": 200.0, "accuracy": 1.0, "accuracy+": 1.0}
    found = point(mme.values([True, True, False], ["a", "b", "b"], ["count"] * 3, ["count"]), mme.measures(["count"]))
    assert found["accuracy+"] == 0.0


@pytest.mark.parametrize(
    ("text", "published", "mmlm"), [("not a dog", "no", "no"), ("I see: yes", "", "yes"), ("", "", "")]
)
def test_mme_parses(text: str, published: str, mmlm: str) -> None:
    assert (mme.parse(text), mme.parse(text, "mmlm")) == (published, mmlm)


def test_a_question_of_which_a_rotation_is_missing_has_no_part() -> None:
    rows = mmbench.values([True, True, False], ["a", "a", "b"], [0, 1, 0], {"a": 2, "b": 2})
    assert point(rows, mmbench.MEASURES) == {
        "circular accuracy": 1.0,
        "vanilla accuracy": 0.5,
        "accuracy over rotations": pytest.approx(2 / 3),
    }


@pytest.mark.parametrize("rule", letters.RULES)
@pytest.mark.parametrize("text", ["", "none of them", "?"])
def test_what_names_no_option_is_none_however_often_it_is_asked(text: str, rule: letters.Rule) -> None:
    assert {letters.parse(text, ["a cat", "a dog"], rule) for _ in range(20)} == {None}


def test_mmmu_open_answers() -> None:
    """Rounded to two places, as published; so is a number with both a comma and a point read as two."""
    assert mmmu.correct(mmmu.candidates("The area is 34.567 cm."), ["34.57"])
    assert mmmu.correct(mmmu.candidates("The area is 1,234 cm."), ["1234"])
    assert mmmu.candidates("1,234.567 cm") == {"1,234.567 cm", 1234.0, 234.57}
    assert not mmmu.correct(mmmu.candidates("The area is large."), ["34.57"])
    assert mmmu.candidates(" \n") == frozenset()


def test_chartqa_own_rule_reads_what_the_published_one_does_not() -> None:
    for said, gold in (("$5", "5"), ("1,000", "1000"), ("Blue.", "blue"), (" 3 ", "3"), ("10,5", "10,5")):
        assert chartqa.relaxed(said, gold, "mmlm"), said
    assert not chartqa.relaxed("1,00", "100", "mmlm")
    assert chartqa.relaxed("2010", "2011") and not chartqa.relaxed("inf", "inf%")


def test_anls_of_nothing() -> None:
    assert anls.score("", [""]) == 1.0
    assert anls.score("", ["word"]) == 0.0
    assert anls.score("word", []) == 0.0


def test_exact_match_is_with_any_reference() -> None:
    assert exact.score("The two dogs!", ["cat", "2 dogs"])
    assert not exact.score("", [""])
    assert exact.score("", [""], "verbatim")
    assert not exact.score("Dog", ["dog"], "verbatim") and exact.score("Dog", ["dog"], "case")
