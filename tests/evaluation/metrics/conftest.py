"""What every test against the numbers of reference programs found: it stands in the table of docs/fidelity.md."""

from collections.abc import Iterator

import ledger
import pytest


@pytest.fixture(autouse=True)
def measured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Record the largest difference of a test that reads such numbers."""
    seen = ledger.watched(monkeypatch)
    yield
    name = ledger.named(request)
    if {"goldens", "generated"} & {*request.fixturenames} or name.endswith(("goldens", "cases", "edges")):
        ledger.conclude("metrics", name, seen)
