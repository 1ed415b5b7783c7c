"""What all rooms of the tests share."""

import os
from pathlib import Path

import pytest
import shapes

shapes.install()  # before any test, and so before any module of mmlm, is imported


@pytest.fixture(scope="session")
def stamps() -> Path:
    """The folder of the stamps (real pictures and sounds with captions), from MMLM_STAMPS or beside the repository."""
    beside = Path(__file__).parents[2] / "shared" / "data" / "stamps"
    folder = Path(os.environ.get("MMLM_STAMPS", beside))
    if not (folder / "stamps.jsonl").is_file():
        pytest.skip(f"there are no stamps in {folder}; set MMLM_STAMPS to the folder that holds stamps.jsonl")
    return folder
