"""Rows of words and numbers as columns of plain text, for every table that a terminal shows."""

from collections.abc import Collection, Sequence


def aligned(rows: Sequence[Sequence[str]], words: Collection[int]) -> list[str]:
    """A line for each row, in columns as wide as their widest entry: those numbered in `words` are set to the left, the
    others, numbers, to the right. All rows are of one length."""
    wide = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i in words else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, wide, strict=True))
        ).rstrip()
        for row in rows
    ]
