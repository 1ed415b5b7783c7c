"""The schedule: a linear warm-up, a curve, a floor."""

import pytest

from mmlm.config import StageConfig, load
from mmlm.training.schedule import schedule


def stage(**changes: object) -> StageConfig:
    return load("llava-1.5-7b").stages[0].model_copy(update={"warmup": 10.0, "floor": 0.1, **changes})


@pytest.mark.parametrize("step, factor", [(0, 0.1), (9, 1.0), (10, 1.0), (55, 0.55), (99, 0.1002741)])
def test_cosine(step: int, factor: float) -> None:
    assert schedule(stage(schedule="cosine"), step, 100) == pytest.approx(factor, abs=1e-4)


@pytest.mark.parametrize("step, factor", [(4, 0.5), (10, 1.0), (55, 0.55), (99, 0.11)])
def test_linear(step: int, factor: float) -> None:
    assert schedule(stage(schedule="linear"), step, 100) == pytest.approx(factor)


def test_constant_and_a_warm_up_in_shares() -> None:
    found = [schedule(stage(schedule="constant", warmup=0.03), i, 100) for i in range(100)]
    assert found[:3] == pytest.approx([1 / 3, 2 / 3, 1])
    assert set(found[3:]) == {1.0}


def test_a_stage_that_is_all_warm_up_ends_at_one() -> None:
    assert [schedule(stage(warmup=4.0), i, 4) for i in range(4)] == pytest.approx([0.25, 0.5, 0.75, 1.0])
