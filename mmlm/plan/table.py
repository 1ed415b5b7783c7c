"""Part of the plan: columns of plain text."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Section:
    """Rows under a head; the first `left` columns are words and stand on the left, the others are numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int
    note: str = ""


def render(section: Section) -> str:
    """The section with columns as wide as their widest entry, and its note below."""
    lines = [section.head, *section.rows]
    widths = [max(len(row[c]) for row in lines) for c in range(len(section.head))]

    def line(row: Sequence[str]) -> str:
        cells = [
            x.ljust(w) if c < section.left else x.rjust(w) for c, (x, w) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    rows = [line(section.head), "  ".join("-" * w for w in widths), *map(line, section.rows)]
    return "\n".join([*rows, section.note] if section.note else rows)
