"""Splits and choices depend on an id alone."""

import hashlib
from collections import Counter

from mmlm.data.forms import pick, split_of


def test_splits_follow_sha1() -> None:
    assert split_of("animals__birds__little-penguin") == "val" and split_of("animals__birds__duck") == "test"
    for k in range(1000):
        place = int(hashlib.sha1(f"x{k}".encode()).hexdigest(), 16) % 100
        assert split_of(f"x{k}") == (["test"] * 15 + ["val"] * 10 + ["train"] * 75)[place]


def test_pick_is_even_and_stable() -> None:
    drawn = Counter(pick(f"{k}", "abc") for k in range(3000))
    assert all(900 < n < 1100 for n in drawn.values())
    assert pick("7", "abc") == pick("7", "abc")
