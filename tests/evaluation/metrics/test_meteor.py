"""METEOR's formula on counts that the Java program gave, and its absence told with a reason."""

from typing import Any

import pytest

from mmlm.evaluation.metrics import meteor
from mmlm.evaluation.statistics import point

# What meteor-1.5 counts on the three golden captions.
_COUNTS = [
    [8, 9, 4, 5, 3, 3, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 8, 8],
    [6, 10, 3, 5, 2, 2, 3, 3, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 6, 6],
    [9, 12, 5, 8, 3, 3, 4, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 7, 7],
]


def rows() -> list[dict[str, float]]:
    return [dict(zip(meteor.KEYS, map(float, row), strict=True)) for row in _COUNTS]


def test_the_set_is_the_formula_on_summed_counts(goldens: dict[str, Any]) -> None:
    golden = goldens["captions"]
    assert point(rows(), [meteor.MEASURE])["METEOR"] == pytest.approx(golden["METEOR"], abs=1e-9)
    for row, expected in zip(rows(), golden["METEOR_per_image"], strict=True):
        assert point([row], [meteor.MEASURE])["METEOR"] == pytest.approx(expected, abs=1e-9)


def test_nothing_matched_is_zero() -> None:
    assert point([dict.fromkeys(meteor.KEYS, 0.0)], [meteor.MEASURE])["METEOR"] == 0.0


def test_absence_has_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert "no java" in meteor.missing()
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/java")
    monkeypatch.setattr(meteor, "find_spec", lambda name: None)
    assert "pycocoevalcap" in meteor.missing()


@pytest.mark.slow
def test_the_program_itself(goldens: dict[str, Any]) -> None:
    if reason := meteor.missing():
        pytest.skip(reason)
    golden = goldens["captions"]
    references = list(golden["tokenised_refs"].values())
    counts = meteor.counts([*golden["raw_hyps"].values(), "the same ||| words"], [*references, ["the same words"]])
    assert point(counts[:3], [meteor.MEASURE])["METEOR"] == pytest.approx(golden["METEOR"], abs=1e-9)
    assert point(counts[3:], [meteor.MEASURE])["METEOR"] == pytest.approx(1.0)
