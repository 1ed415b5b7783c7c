"""Calibration: edges, several classes, intervals, and what is refused."""

import math

import numpy as np
import pytest

from mmlm.errors import InputError
from mmlm.evaluation.metrics import calibration
from mmlm.evaluation.statistics import bootstrap, point


def test_an_edge_belongs_to_one_bin_by_the_stated_rule() -> None:
    """Every edge of ten bins as it is written, 0.3 among them, which a sum of tenths misses."""
    assert [calibration.place(b / 10) for b in range(11)] == [0, *range(10)]
    assert [calibration.place(b / 10, edge="lower") for b in range(11)] == [*range(10), 9]
    assert calibration.version() == "calibration/10-bins-upper-edge-1"


@pytest.mark.parametrize("confidence", [-0.1, 1.1, math.nan, math.inf])
def test_a_confidence_is_in_0_to_1(confidence: float) -> None:
    with pytest.raises(InputError, match=r"expected a confidence in 0\.\.1"):
        calibration.place(confidence)


def test_brier_over_classes() -> None:
    """(0.7 - 1)^2 + 0.2^2 + 0.1^2, and one half of a coin."""
    assert calibration.brier([0.7, 0.2, 0.1], 0) == pytest.approx(0.14)
    assert calibration.brier([0.5, 0.5], 1) == pytest.approx(0.5)
    with pytest.raises(InputError, match="class 3 of 2"):
        calibration.brier([0.5, 0.5], 3)


def test_its_numbers_have_intervals() -> None:
    rows = [calibration.values(0.8, i % 4 > 0) for i in range(40)]
    found = bootstrap(rows, [str(i) for i in range(40)], calibration.measures())
    assert found["ECE"].value == pytest.approx(0.05)
    assert found["ECE"].low is not None and found["ECE"].high is not None
    assert found["ECE"].low <= 0.05 <= found["ECE"].high


def test_the_curve_leaves_empty_bins_out() -> None:
    (only,) = calibration.curve([0.91, 0.99], [True, False])
    assert (only.low, only.high, only.n, only.accuracy) == (0.9, 1.0, 2, 0.5)


def test_auroc_is_the_share_of_pairs_in_the_right_order() -> None:
    rng = np.random.default_rng(0)
    for n in (2, 7, 40):
        sure, right = rng.integers(0, 5, n) / 4, rng.integers(0, 2, n)
        right[:2] = 0, 1
        pairs = [(a > b) + (a == b) / 2 for a in sure[right == 1] for b in sure[right == 0]]
        assert calibration.auroc(sure, right) == pytest.approx([sum(pairs) / len(pairs)])
        twice = rng.integers(0, 3, (4, n)).astype(float)
        for counts, found in zip(twice, calibration.auroc(sure, right, twice), strict=True):
            again = np.repeat(np.arange(n), counts.astype(int))
            assert found == pytest.approx(calibration.auroc(sure[again], right[again])[0])


def test_auroc_of_one_kind_of_answer_is_that_of_chance() -> None:
    assert calibration.auroc([0.1, 0.9], [1, 1]) == calibration.auroc([0.1, 0.9], [0, 0]) == [0.5]
    assert calibration.auroc([0.9, 0.1], [1, 0]) == [1.0]
    assert calibration.auroc([0.0, 0.0], [1, 0]) == [0.5]


def test_an_answer_that_is_right_in_part_is_as_many_that_are_right_or_wrong() -> None:
    """Ten annotators of whom three agree with one answer, eight with another and all with a third, as thirty answers."""
    sure = [0.6] * 10 + [0.9] * 10 + [0.7] * 10
    right = [1.0] * 3 + [0.0] * 7 + [1.0] * 8 + [0.0] * 2 + [1.0] * 10
    parts = calibration.auroc([0.6, 0.9, 0.7], [0.3, 0.8, 1.0])
    assert parts == pytest.approx(calibration.auroc(sure, right))
    (low, high) = calibration.curve([0.6, 0.9], [0.3, 1.0])
    assert (low.accuracy, high.accuracy) == (0.3, 1.0)
    found = point([calibration.values(0.6, 0.3), calibration.values(0.9, 1.0)], calibration.measures())
    assert found["ECE"] == pytest.approx((0.3 + 0.1) / 2) and found["Brier"] == pytest.approx((0.09 + 0.01) / 2)
