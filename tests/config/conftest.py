"""The shelf: tables of parts whose modules cannot be imported, in place of the project's own."""

from pathlib import Path

import pytest

from mmlm import registry

HERE = Path(__file__).parent
SHELF = {
    kind: f"shelf.{kind}"
    for kind in ("encoders", "aligners", "backbones", "grafts", "readers", "output_aligners", "decoders")
}


@pytest.fixture(autouse=True)
def shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the tables of the shelf in place of the project's."""
    monkeypatch.syspath_prepend(HERE)
    monkeypatch.setattr(registry, "KINDS", SHELF)
    monkeypatch.setattr(registry, "entry_points", lambda group: [])


@pytest.fixture
def typical() -> Path:
    """The config of house.md section 7, grown by a second stream, grafts and a validation set."""
    return HERE / "typical.yaml"
