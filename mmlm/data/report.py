"""Part of the data room: what a look at data, or the making of data, found out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmlm.columns import aligned

_SHOWN = 3  # reasons that a table shows for each row; the JSON has all


@dataclass(frozen=True, slots=True)
class Row:
    """One data set or file: its figures by column, the records that cannot be used ("file:line: reason"), remarks."""

    values: Mapping[str, str | int | float | None]
    bad: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """Rows under one title; all rows have the same columns."""

    title: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether no record is bad."""
        return not any(row.bad for row in self.rows)

    def table(self) -> str:
        """The rows as aligned text, each with its first reasons and its remarks below it."""
        columns = list(self.rows[0].values) if self.rows else []
        cells = [columns, *([_cell(row.values[c]) for c in columns] for row in self.rows)]
        words = [i for i, c in enumerate(columns) if any(isinstance(row.values[c], str) for row in self.rows)]
        lines = [self.title]
        for line, row in zip(aligned(cells, words), [None, *self.rows], strict=True):
            lines.append(line)
            if row is not None:
                lines += [f"    {reason}" for reason in row.bad[:_SHOWN]]
                if len(row.bad) > _SHOWN:
                    lines.append(f"    and {len(row.bad) - _SHOWN} more")
                lines += [f"    {note}" for note in row.notes]
        return "\n".join([*lines, *self.notes])

    def as_json(self) -> dict[str, Any]:
        """The whole report as plain values, with every bad record."""
        rows = [{**row.values, "reasons": list(row.bad), "notes": list(row.notes)} for row in self.rows]
        return {"title": self.title, "rows": rows, "notes": list(self.notes)}


def _cell(value: str | float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.1%}" if isinstance(value, float) else str(value)
