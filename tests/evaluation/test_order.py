"""Batches keep pictures together and do not decide the order; the control moves every picture."""

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mmlm.evaluation.control import exchange
from mmlm.evaluation.order import batches, by_picture
from mmlm.sample import Audio, Image, Sample, Turn


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdefg"), st.integers(1, 90)), max_size=40), st.integers(1, 9))
def test_every_question_once_and_pictures_together(questions: list[tuple[str, int]], size: int) -> None:
    names, lengths = [q[0] for q in questions], [q[1] for q in questions]
    groups = by_picture(names, lengths)
    made = batches(groups, [1] * len(names), size)
    flat = [i for b in made for i in b]
    assert flat == [i for g in groups for i in g]
    assert sorted(flat) == list(range(len(names)))
    assert all(1 <= len(b) <= size for b in made)
    for group in groups:
        assert len({names[i] for i in group}) == 1
        holding = sum(any(i in b for i in group) for b in made)
        assert holding == 1 or len(group) > size


def test_longest_first() -> None:
    assert by_picture(["a", "b", "a", "c"], [3, 9, 5, 5]) == [[1], [2, 0], [3]]


def test_a_question_weighs_its_options() -> None:
    assert batches([[0], [1], [2]], [4, 4, 9], 8) == [[0, 1], [2]]


def picture(number: int) -> Image:
    return Image(np.full((1, 1, 3), number, dtype=np.uint8))


@pytest.mark.parametrize("pictures", [2, 3, 7, 20])
def test_no_question_keeps_its_picture(pictures: int) -> None:
    rng = random.Random(pictures)
    shown = [rng.randrange(pictures) for _ in range(5 * pictures)] + list(range(pictures))
    samples = [Sample((Turn("user", (picture(n), "what?")),)) for n in shown]
    found = exchange(samples, [(str(n),) for n in shown], seed=3)
    assert sorted(found) == list(range(len(shown)))
    moved = {n: found[i].items[0].source[0, 0, 0] for i, n in enumerate(shown)}  # type: ignore[index]
    assert all(own != other for own, other in moved.items())
    assert sorted(moved.values()) == sorted(moved)
    assert all(found[i].items[0].source[0, 0, 0] == moved[n] for i, n in enumerate(shown))  # type: ignore[index]
    assert all(s.turns[0].text == "what?" for s in found.values())


def test_only_pictures_of_the_same_kind_change_places() -> None:
    sound = Audio(np.zeros(3, dtype=np.float32), 8000)
    samples = [
        Sample((Turn("user", (picture(0), "x")),)),
        Sample((Turn("user", (picture(1), "x", picture(2))),)),
        Sample((Turn("user", (sound, "x")),)),
        Sample((Turn("user", ("x",)),)),
        Sample((Turn("user", (picture(3), "y")),)),
    ]
    digests = [("0",), ("1", "2"), ("s",), (), ("3",)]
    found = exchange(samples, digests, seed=0)
    assert sorted(found) == [0, 4]
    assert found[0].items == samples[4].items
    assert found[4].turns[0].parts == (*samples[0].items, "y")


def test_the_same_picture_twice_is_one_picture() -> None:
    samples = [Sample((Turn("user", (picture(0), q)),)) for q in "ab"]
    assert exchange(samples, [("0",), ("0",)], seed=0) == {}
