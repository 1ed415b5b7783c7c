"""Rows as columns: words to the left, numbers to the right, no space at the end of a line."""

from mmlm.columns import aligned


def test_words_stand_left_and_numbers_right() -> None:
    rows = [["part", "n", "share"], ["a", "12345", "-"], ["encoder", "7", "0.5"]]
    assert aligned(rows, words=range(1)) == ["part         n  share", "a        12345      -", "encoder      7    0.5"]
    assert aligned(rows, words=(0, 2))[1] == "a        12345  -"
    assert aligned([["a", ""], ["bb", ""]], words=range(2)) == ["a", "bb"]
