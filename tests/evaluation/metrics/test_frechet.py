"""The Frechet distance where it is known by hand, without full rank, and on what is no set of features."""

import numpy as np
import pytest

from mmlm.errors import InputError
from mmlm.evaluation.metrics import frechet


def test_a_set_is_at_no_distance_from_itself() -> None:
    rng = np.random.default_rng(0)
    for shape in ((50, 7), (5, 40), (2, 3)):
        features = frechet.of_features(rng.normal(size=shape))
        assert frechet.distance(features, features) == pytest.approx(0.0, abs=1e-9)


def test_one_dimension_by_hand() -> None:
    """(m1 - m2)^2 + (s1 - s2)^2."""
    one, two = (
        frechet.of_moments(np.array([1.0]), np.array([[4.0]])),
        frechet.of_moments(np.array([3.0]), np.array([[9.0]])),
    )
    assert frechet.distance(one, two) == pytest.approx(5.0, abs=1e-12)


def test_without_full_rank_by_hand() -> None:
    """Covariances on different axes share nothing; those on one axis do, whatever the rest."""
    mean = np.zeros(3)
    first = frechet.of_moments(mean, np.diag([4.0, 0.0, 0.0]))
    assert frechet.distance(first, frechet.of_moments(mean, np.diag([0.0, 9.0, 0.0]))) == pytest.approx(13.0, abs=1e-12)
    assert frechet.distance(first, frechet.of_moments(mean, np.diag([9.0, 0.0, 1.0]))) == pytest.approx(2.0, abs=1e-12)
    assert frechet.distance(first, frechet.of_moments(mean, np.zeros((3, 3)))) == pytest.approx(4.0, abs=1e-12)


def test_features_and_moments_agree_without_full_rank() -> None:
    rng = np.random.default_rng(1)
    sets = [rng.normal(size=(6, 30)) @ np.diag(np.logspace(0, -3, 30)) for _ in range(2)]
    moments = [frechet.of_moments(s.mean(0), np.cov(s, rowvar=False)) for s in sets]
    assert frechet.distance(*moments) == pytest.approx(frechet.distance(*map(frechet.of_features, sets)), abs=1e-7)


@pytest.mark.parametrize("features", [np.zeros((1, 3)), np.zeros(3), np.zeros((3, 0)), np.full((3, 2), np.nan)])
def test_what_is_no_set_of_features_is_refused(features: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"expected finite numbers \[N, D\]"):
        frechet.of_features(features)


@pytest.mark.parametrize(
    ("covariance", "reason"),
    [
        (np.eye(3), r"expected finite numbers \[D\] and \[D, D\]"),
        (np.array([[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (np.diag([1.0, -0.5]), "negative eigenvalue"),
    ],
)
def test_what_is_no_covariance_is_refused(covariance: np.ndarray, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        frechet.of_moments(np.zeros(2), covariance)


def test_two_extractors_are_refused() -> None:
    rng = np.random.default_rng(2)
    with pytest.raises(InputError, match="one extractor"):
        frechet.distance(frechet.of_features(rng.normal(size=(4, 2))), frechet.of_features(rng.normal(size=(4, 3))))
    assert frechet.version("clip-vit-b32") == "frechet/clip-vit-b32-1"
