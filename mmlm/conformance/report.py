"""Part of the conformance room: the rows of a check, and how they are written down one by one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

# What code of others may raise when it is tried. An error of another kind is a fault of the checker and is not caught.
FAULTS = (
    *(ArithmeticError, AssertionError, AttributeError, ImportError, LookupError),
    *(NameError, OSError, RuntimeError, TypeError, ValueError),
)


class Unmet(ValueError):
    """A row does not hold; the message says what came."""


@dataclass(frozen=True, slots=True)
class Row:
    """One point of the contract: what it expects, what came, and whether that will do."""

    name: str
    passed: bool
    expected: str
    came: str


@dataclass(frozen=True, slots=True)
class Report:
    """All rows of one part."""

    kind: str
    target: str
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether every row holds."""
        return all(row.passed for row in self.rows)

    def table(self) -> str:
        """One line for a row that holds; for the others also what was expected."""
        width = max((len(row.name) for row in self.rows), default=0)
        lines = [f"{self.kind.removesuffix('s')} {self.target}"]
        for row in self.rows:
            lines.append(f"  {'ok    ' if row.passed else 'FAILED'}  {row.name.ljust(width)}  {row.came}")
            if not row.passed:
                lines.append(f"  {'':6}  {'':{width}}  expected: {row.expected}")
        held = sum(row.passed for row in self.rows)
        return "\n".join([*lines, f"{held} of {len(self.rows)} rows hold"])

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        rows = [{"name": r.name, "passed": r.passed, "expected": r.expected, "came": r.came} for r in self.rows]
        return {"kind": self.kind, "target": self.target, "passed": self.passed, "rows": rows}


class Sheet:
    """Rows as they are looked at."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def row(self, name: str, expected: str, look: Callable[[], str]) -> bool:
        """Add a row. `look` says what came, and raises where that will not do; gives whether the row holds."""
        try:
            came, passed = look(), True
        except Unmet as e:
            came, passed = str(e), False
        except FAULTS as e:
            said = str(e).strip().partition("\n")[0]
            came, passed = f"{type(e).__name__}: {said}" if said else type(e).__name__, False
        self.rows.append(Row(name, passed, expected, came))
        return passed


def need(condition: bool, came: str) -> None:
    """Raise Unmet with what came, unless `condition` holds."""
    if not condition:
        raise Unmet(came)


def equal(got: Tensor, expected: Tensor, tolerance: float = 1e-5) -> str:
    """What to say of two tensors that agree to `tolerance` (absolute, and relative to the expected); raises Unmet."""
    need(got.shape == expected.shape, f"the shape {list(got.shape)} in place of {list(expected.shape)}")
    if not got.numel():
        return "nothing to compare"
    off = (got - expected).abs()
    need(
        bool((off <= tolerance * (1 + expected.abs())).all()),
        f"values that differ by up to {float(off.max()):.1e}",
    )
    worst = float(off.max())
    return f"equal to {worst:.0e}" if worst else "equal to the bit"
