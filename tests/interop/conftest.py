"""What every test of this room says of what it compared with transformers: it stands in the table of docs/fidelity.md."""

from collections.abc import Iterator

import ledger
import pytest


@pytest.fixture(autouse=True)
def measured(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Record the largest difference of a test that holds a system, or its pictures, against theirs."""
    seen = ledger.watched(monkeypatch)
    yield
    params = getattr(getattr(request.node, "callspec", None), "params", {})
    which = next((str(params[n]) for n in ("pair", "both") if n in params), None)
    if which or seen:
        room = request.node.path.stem.removeprefix("test_").replace("_", " ")
        ledger.conclude(f"{room}: {which}" if which else room, ledger.named(request), seen)
