"""Intervals and differences against slow loops, and the cases where they must say nothing or zero."""

import numpy as np
import pytest

from mmlm.errors import InputError
from mmlm.evaluation.metrics import pope
from mmlm.evaluation.statistics import Estimate, Measure, bootstrap, mean, paired, point, ratio, reweighed

ACCURACY = mean("right")


def answers(n: int, seed: int, share: float = 0.5) -> list[dict[str, float]]:
    return [{"right": float(x)} for x in np.random.default_rng(seed).random(n) < share]


def test_point_is_the_mean() -> None:
    assert point(answers(101, 0), [ACCURACY])["right"] == pytest.approx(np.mean([a["right"] for a in answers(101, 0)]))


def test_interval_is_the_percentile_of_redrawn_clusters() -> None:
    values, clusters = answers(37, 1), [f"p{i % 9}" for i in range(37)]
    rng = np.random.default_rng(5)
    drawn = []
    for chosen in rng.integers(9, size=(200, 9)):
        rows = [v["right"] for c in chosen for v, name in zip(values, clusters, strict=True) if name == f"p{c}"]
        drawn.append(np.mean(rows))
    found = bootstrap(values, clusters, [ACCURACY], resamples=200, seed=5)["right"]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(drawn, [0.025, 0.975])))


def test_questions_of_one_picture_do_not_count_as_independent() -> None:
    once = answers(60, 2)
    copies = [v for v in once for _ in range(10)]
    apart = bootstrap(copies, [str(i) for i in range(600)], [ACCURACY])["right"]
    together = bootstrap(copies, [str(i // 10) for i in range(600)], [ACCURACY])["right"]
    alone = bootstrap(once, [str(i) for i in range(60)], [ACCURACY])["right"]
    assert together == alone
    assert width(together) > 2.5 * width(apart)


def test_coverage_is_about_95_percent() -> None:
    inside = 0
    for seed in range(100):
        e = bootstrap(answers(120, seed, 0.3), [str(i) for i in range(120)], [ACCURACY], resamples=200, seed=seed)[
            "right"
        ]
        assert e.low is not None and e.high is not None
        inside += e.low <= 0.3 <= e.high
    assert 88 <= inside <= 100


def test_the_seed_decides() -> None:
    values, clusters = answers(50, 3), [str(i) for i in range(50)]
    assert bootstrap(values, clusters, [ACCURACY]) == bootstrap(values, clusters, [ACCURACY])
    assert bootstrap(values, clusters, [ACCURACY]) != bootstrap(values, clusters, [ACCURACY], seed=1)


def test_one_picture_gives_no_interval() -> None:
    assert bootstrap(answers(5, 0), ["p"] * 5, [ACCURACY])["right"] == Estimate(
        point(answers(5, 0), [ACCURACY])["right"]
    )


def test_a_score_that_is_no_mean_is_made_of_sums() -> None:
    values = [pope.counts(a, b) for a, b in [("yes", "yes"), ("no", "no"), ("yes", "no"), ("no", "yes")] * 20]
    found = bootstrap(values, [str(i) for i in range(80)], pope.MEASURES)
    assert found["F1"].value == pytest.approx(0.5)
    assert found["F1"].low is not None and found["F1"].low < 0.5 < (found["F1"].high or 0)


def test_a_model_against_itself_differs_by_nothing() -> None:
    values = answers(40, 4)
    assert paired(values, values, [str(i) for i in range(40)], [ACCURACY])["right"] == Estimate(0.0, 0.0, 0.0)


def test_paired_is_narrower_than_apart_where_answers_agree() -> None:
    a = answers(200, 5)
    b = [{"right": 1.0 - v["right"] if i < 10 else v["right"]} for i, v in enumerate(a)]
    clusters = [str(i) for i in range(200)]
    together = paired(a, b, clusters, [ACCURACY])["right"]
    one, two = (bootstrap(v, clusters, [ACCURACY])["right"] for v in (a, b))
    assert together.value == pytest.approx(one.value - two.value)
    assert width(together) < 0.5 * width(one)


def test_order_of_keys_does_not_matter_between_the_two() -> None:
    a, b = [{"x": 1.0, "right": 0.0}] * 3, [{"right": 1.0, "x": 0.0}] * 3
    assert paired(a, b, list("abc"), [ACCURACY])["right"].value == -1.0


def test_bad_input() -> None:
    with pytest.raises(InputError, match="no question was scored"):
        point([], [ACCURACY])
    with pytest.raises(InputError, match="one cluster a question"):
        bootstrap(answers(3, 0), ["a"], [ACCURACY])
    with pytest.raises(InputError, match="the same questions twice"):
        paired(answers(3, 0), answers(2, 0), list("abc"), [ACCURACY])


def test_nothing_counted_is_zero() -> None:
    assert ratio(np.array([1.0, 2.0]), np.array([0.0, 4.0])).tolist() == [0.0, 0.5]
    assert point([{"a": 0.0}], [Measure("r", lambda s: ratio(s["a"], s["a"]))])["r"] == 0.0


def width(e: Estimate) -> float:
    assert e.low is not None and e.high is not None
    return e.high - e.low


def test_a_score_without_sums_is_drawn_as_one_with_them() -> None:
    values, clusters = answers(37, 4), [f"p{i % 9}" for i in range(37)]
    right = np.array([v["right"] for v in values])
    whole = bootstrap(values, clusters, [ACCURACY], seed=3)["right"]
    found = reweighed(lambda times: times @ right / times.sum(axis=1), clusters, seed=3)
    assert (found.value, found.low, found.high) == pytest.approx((whole.value, whole.low, whole.high))
    assert reweighed(lambda times: times @ right, ["p"] * 37) == Estimate(right.sum())
