"""The order of samples: a pure function, fair to every record."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmlm.errors import InputError
from mmlm.training.order import Mixture, pack


def test_an_epoch_holds_each_record_as_often_as_the_ratio_says() -> None:
    mixture = Mixture((7, 4, 10), (1.0, 2.0, 0.5), seed=3)
    assert len(mixture) == 7 + 8 + 5
    first = [mixture.place(i) for i in range(20)]
    assert Counter(d for d, _ in first) == {0: 7, 1: 8, 2: 5}
    assert Counter(first)[0, 0] == 1 and all(Counter(first)[1, k] == 2 for k in range(4))
    second = [mixture.place(i) for i in range(20, 40)]
    halves = [k for d, k in first + second if d == 2]
    assert sorted(halves) == list(range(10)), "a ratio of a half takes the other half in the next epoch"
    assert first != second and sorted(first)[:7] == sorted(second)[:7]


def test_the_order_depends_on_the_seed_alone() -> None:
    a, b, c = (Mixture((50,), (1.0,), seed=s) for s in (1, 1, 2))
    assert [a.place(i) for i in range(120)] == [b.place(i) for i in (*range(120),)]
    assert [a.place(i) for i in range(50)] != [c.place(i) for i in range(50)]
    assert a.place(77) == Mixture((50,), (1.0,), seed=1).place(77), "any position can be asked for first"


def test_an_empty_mixture_is_refused() -> None:
    with pytest.raises(InputError, match="hold no sample"):
        Mixture((1,), (0.1,), seed=0)


@given(st.lists(st.integers(1, 40), max_size=30), st.integers(40, 90))
def test_packing_loses_nothing_and_never_overfills(lengths: list[int], room: int) -> None:
    rows = pack(lengths, room)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in row) <= room for row in rows)
    assert len(rows) <= max(2 * -(-sum(lengths) // room), 1) or not lengths
