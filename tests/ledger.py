"""What the checks of fidelity find: a line for each, in the file that MMLM_LEDGER names; `fidelity/table.py` reads them.

MMLM_FIDELITY=full asks for all cases; without it a check runs a share of them, so that all tests together stay quick.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

FULL = os.environ.get("MMLM_FIDELITY") == "full"


def share(full: int, part: int) -> int:
    """How many cases to run: all, or a part of them."""
    return full if FULL else part


def record(family: str, check: str, cases: int, difference: float = 0.0, allowed: float = 0.0) -> None:
    """Note what a check found: its cases, the largest difference among them, and how large it may be."""
    line = {"family": family, "check": check, "cases": cases, "difference": difference, "allowed": allowed}
    if path := os.environ.get("MMLM_LEDGER"):
        with open(path, "a", encoding="utf-8") as file:  # one short write, so that processes do not mix their lines
            file.write(json.dumps(line) + "\n")


def flat(value: Any) -> Tensor:
    """The numbers that a number, a tensor or array, a sequence or a mapping holds, in fp64."""
    if isinstance(value, Mapping | Sequence):
        parts = [flat(v) for v in (value.values() if isinstance(value, Mapping) else value)]
        return torch.cat([torch.zeros(0, dtype=torch.float64), *parts])
    return torch.as_tensor(value, dtype=torch.float64).detach().flatten()


def largest(actual: Any, expected: Any) -> float:
    """The largest absolute difference between the numbers of two values; mappings are compared by key. What is equal
    differs by 0, infinities too."""
    if isinstance(expected, Mapping):
        actual = [actual[k] for k in expected]
    a, e = flat(actual), flat(expected)
    return float(torch.where(a == e, 0.0, a - e).abs().max()) if a.numel() else 0.0


def _allowed(expected: Any, absolute: float, relative: float) -> float:
    """How far the largest of the expected numbers may be missed."""
    size = flat(expected).abs()
    return absolute + (relative * float(size.max()) if relative and size.numel() else 0.0)


class _Approx:
    """pytest.approx that says what it saw."""

    __array_ufunc__ = None  # an array asks this side, instead of comparing its elements one by one

    def __init__(self, plain: Any, expected: Any, allowed: float, seen: list[tuple[float, float]]) -> None:
        self.plain, self.expected, self.allowed, self.seen = plain, expected, allowed, seen

    def __eq__(self, actual: object) -> bool:
        equal = bool(actual == self.plain)
        if equal:
            self.seen.append((largest(actual, self.expected), self.allowed))
        return equal

    def __repr__(self) -> str:
        return repr(self.plain)


def watched(patch: pytest.MonkeyPatch) -> list[tuple[float, float]]:
    """From now on, each comparison by torch.testing.assert_close or pytest.approx adds its difference, and the one that it
    allows: no test has to think of it, and none can forget."""
    seen: list[tuple[float, float]] = []
    close, approx = torch.testing.assert_close, pytest.approx

    def assert_close(actual: Any, expected: Any, **how: Any) -> None:
        close(actual, expected, **how)
        atol, rtol = how.get("atol", 1e-5), how.get("rtol", 1.3e-6)  # the defaults of torch in fp32
        seen.append((largest(actual, expected), _allowed(expected, atol, rtol)))

    def measured(expected: Any, rel: Any = None, abs: Any = None, nan_ok: bool = False) -> _Approx:
        return _Approx(approx(expected, rel, abs, nan_ok), expected, _allowed(expected, abs or 1e-12, rel or 0.0), seen)

    patch.setattr(torch.testing, "assert_close", assert_close)
    patch.setattr(pytest, "approx", measured)
    return seen


def conclude(family: str, check: str, seen: Sequence[tuple[float, float]]) -> None:
    """Record what was watched; a test that compared nothing but what must be equal is one case without a difference."""
    differences, allowed = zip(*seen, strict=True) if seen else ((0.0,), (0.0,))
    record(family, check, max(len(seen), 1), max(differences), max(allowed))


def named(request: pytest.FixtureRequest) -> str:
    """A test's name as words."""
    function: Iterator[str] = iter(getattr(request.node, "originalname", request.node.name).split("_"))
    next(function)
    return " ".join(function)
