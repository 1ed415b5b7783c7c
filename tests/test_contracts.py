"""Every name of every table, held against the contract of its kind: a part is tested by being listed."""

import pytest

from mmlm.conformance import check, kind_of
from mmlm.registry import KINDS, component, entries

KEPT = ("encoders", "aligners", "output_aligners", "decoders", "grafts", "backbones", "readers", "tasks")
NAMES = [(kind, name) for kind in KEPT for name in entries(kind)]


@pytest.mark.parametrize(("kind", "name"), NAMES, ids=[f"{k}-{n}" for k, n in NAMES])
def test_part_keeps_its_contract(kind: str, name: str) -> None:
    report = check(kind, name)
    assert report.passed, report.table()


@pytest.mark.parametrize(("kind", "name"), NAMES, ids=[f"{k}-{n}" for k, n in NAMES])
def test_part_is_told_by_its_class(kind: str, name: str) -> None:
    """`mmlm check-part module:Class` needs no --kind for any part of ours."""
    assert kind_of(component(kind, name)) == kind


def test_every_kind_that_can_be_listed_is_kept() -> None:
    """A new kind of part comes with a contract."""
    assert not [kind for kind in KINDS if kind not in KEPT and entries(kind)]
