"""Part of the plan: columns of plain text."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmlm.columns import aligned


@dataclass(frozen=True, slots=True)
class Section:
    """Rows under a head; the first `left` columns are words and stand on the left, the others are numbers."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    left: int
    note: str = ""


def render(section: Section) -> str:
    """The section with columns as wide as their widest entry, and its note below."""
    head, *rows = aligned([section.head, *section.rows], words=range(section.left))
    rule = "  ".join("-" * max(map(len, column)) for column in zip(section.head, *section.rows, strict=True))
    return "\n".join([head, rule, *rows, *([section.note] if section.note else [])])
