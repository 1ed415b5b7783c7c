"""VQA soft accuracy against its definition, golden numbers, and the published programs' answers."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlm.errors import InputError
from mmlm.evaluation.metrics import vqa


@pytest.mark.parametrize(
    ("ours", "theirs"), [("evalai", "evalai_m4c"), ("official", "vqa_official_steps"), ("vlmevalkit", "vlmevalkit")]
)
def test_normalisers_agree_with_the_published_ones(goldens: dict[str, Any], ours: vqa.Normaliser, theirs: str) -> None:
    for text, expected in goldens["vqa_normalise"].items():
        assert vqa.normalise(text, ours) == expected[theirs], text


def test_our_normaliser_differs_from_evalai_in_the_genitive_only(goldens: dict[str, Any]) -> None:
    differ = {t for t in goldens["vqa_normalise"] if vqa.normalise(t) != vqa.normalise(t, "evalai")}
    assert differ == {"man's hat", "let's go", "it's"}
    assert vqa.normalise("The man's  hat!") == "man's hat"


@pytest.mark.parametrize(
    ("form", "whole"), [("couldntve", "couldntve"), ("couldn'tve", "couldn't've"), ("yall", "y'all")]
)
def test_apostrophes_come_back(form: str, whole: str) -> None:
    assert vqa.normalise(form) == whole


def test_only_32_points_are_deleted() -> None:
    assert vqa.normalise("a" + "." * 40) == "a" + "." * 8


def test_soft_accuracy_by_matches(goldens: dict[str, Any]) -> None:
    for matching, expected in goldens["vqa_soft_accuracy_by_matches_of_10"].items():
        assert vqa.soft_accuracy(int(matching), 10) == pytest.approx(expected, abs=1e-12)


def test_closed_form_is_leave_one_out() -> None:
    for n in range(4, 16):
        for k in range(n + 1):
            given_answers = [True] * k + [False] * (n - k)
            literal = sum(min(1.0, (sum(given_answers) - left) / 3) for left in given_answers) / n
            assert vqa.soft_accuracy(k, n) == pytest.approx(literal, abs=1e-12)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_annotators_are_matched_exactly(n: int) -> None:
    assert [vqa.soft_accuracy(k, n) for k in range(n + 1)] == [0.0] + [1.0] * n


@pytest.mark.parametrize(("k", "n"), [(-1, 10), (11, 10), (0, 0)])
def test_impossible_counts_are_refused(k: int, n: int) -> None:
    with pytest.raises(InputError, match="matching answers"):
        vqa.soft_accuracy(k, n)


def test_published_scores_of_240_answers(generated: dict[str, Any]) -> None:
    assert len(generated["vqa"]) >= 200
    for answer, references, evalai, official in generated["vqa"]:
        assert vqa.score(answer, references, "evalai")[0] == pytest.approx(evalai, abs=1e-9)
        assert vqa.score(answer, references, "official")[0] == pytest.approx(official, abs=1e-9)


def test_official_compares_raw_text_where_all_agree() -> None:
    assert vqa.score("two", ["2"] * 10, "official")[0] == 0.0
    assert vqa.score("two", ["2"] * 10, "mmlm")[0] == 1.0
    assert vqa.score("two", ["two"] * 10, "older")[0] == 0.0
    assert vqa.score("two", ["2"] * 9 + ["3"], "official")[0] == 1.0


def test_equal_answers_count_as_different_people() -> None:
    assert vqa.score("red", ["red"] * 10)[0] == 1.0
    assert vqa.score("red", ["red"] * 5 + ["blue"] * 5)[0] == 1.0


@settings(deadline=None)
@given(st.text(max_size=60), st.sampled_from(vqa.NORMALISERS))
def test_normalising_is_total_and_leaves_no_outer_space(text: str, normaliser: vqa.Normaliser) -> None:
    found = vqa.normalise(text, normaliser)
    assert found == " ".join(found.split())
    assert vqa.score(text, [text] * 10, normaliser)[0] in (0.0, 1.0)
