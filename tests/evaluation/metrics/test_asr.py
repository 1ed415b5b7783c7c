"""Error rates at their edges, and the edits against a slow program written from the definition."""

import random
from functools import cache

import pytest

from mmlm.evaluation.metrics import asr
from mmlm.evaluation.metrics.edits import Edits, distance, edits
from mmlm.evaluation.statistics import point


@cache
def slow(a: str, b: str) -> int:
    if not a or not b:
        return len(a) + len(b)
    return min(slow(a[1:], b[1:]) + (a[0] != b[0]), slow(a[1:], b) + 1, slow(a, b[1:]) + 1)


@pytest.mark.parametrize("seed", range(5))
def test_edits_are_a_shortest_way(seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(100):
        a, b = ("".join(rng.choices("abc", k=rng.randint(0, 9))) for _ in range(2))
        found = edits(a, b)
        assert distance(a, b) == found.distance == slow(a, b)
        assert found.hits + found.substitutions + found.deletions == len(a)
        assert found.hits + found.substitutions + found.insertions == len(b)


def test_edits_of_nothing() -> None:
    assert edits("", "") == Edits(0, 0, 0, 0)
    assert edits("", "ab") == Edits(0, 0, 0, 2)
    assert edits("ab", "") == Edits(0, 0, 2, 0)
    assert distance([1, (2,)], [1, (3,)]) == 1


def test_nothing_said_and_nothing_to_say() -> None:
    assert point([asr.counts("", "")], asr.MEASURES) == {"WER": 0.0, "CER": 0.0, "MER": 0.0, "WIL": 0.0}
    assert point([asr.counts("big words", "")], asr.MEASURES) == {"WER": 2.0, "CER": 9.0, "MER": 1.0, "WIL": 1.0}
    assert asr.counts("big words", "")["utterance_wer"] == 2.0
    assert asr.counts("", "two words")["utterance_wer"] == 1.0


def test_the_rate_of_a_set_is_not_the_mean_of_rates() -> None:
    rows = [asr.counts("a", "b"), asr.counts("c d e", "c d e")]
    assert point(rows, asr.MEASURES)["WER"] == 0.25


def test_normalisers_are_named() -> None:
    assert asr.counts("Hello, World!", "hello world", "none")["utterance_wer"] == 1.0
    assert asr.counts("Hello, World! [noise]", "hello world")["utterance_wer"] == 0.0
    assert [asr.version(n) for n in asr.NORMALISERS] == ["error-rates/none-1", "error-rates/basic-1"]


def test_long_references_are_read_whole() -> None:
    text = "word " * 2000
    assert asr.counts(text, text)["utterance_wer"] == 0.0
