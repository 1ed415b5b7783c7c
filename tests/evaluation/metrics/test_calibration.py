"""Calibration: edges, several classes, intervals, and what is refused."""

import math

import pytest

from mmlm.errors import InputError
from mmlm.evaluation.metrics import calibration
from mmlm.evaluation.statistics import bootstrap


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
