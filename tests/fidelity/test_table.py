"""The closing table says what the checks found, in an order that does not depend on who was first."""

from pathlib import Path

import pytest
import torch
from fidelity import table
from ledger import largest, record, watched

LINES = [("b", "x", 2, 1e-6, 1e-5), ("a", "y", 1000, 0.0, 0.0), ("b", "x", 3, 2.5e-6, 1e-5)]


def test_rows_are_added_up_and_sorted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = []
    for order in (LINES, LINES[::-1]):
        path = tmp_path / str(len(shown))
        monkeypatch.setenv("MMLM_LEDGER", str(path))
        for line in order:
            record(*line)
        shown.append(table.table(path.read_text().splitlines()))
    assert shown[0] == shown[1]
    assert shown[0].splitlines() == [
        "| family | check | cases | difference | allowed |",
        "| ------ | ----- | ----: | ---------: | ------: |",
        "| a      | y     | 1,000 |          0 |       0 |",
        "| b      | x     |     5 |    2.5e-06 | 1.0e-05 |",
    ]
    table.main(path, tmp_path / "docs" / "fidelity.md")
    page = (tmp_path / "docs" / "fidelity.md").read_text()
    assert page.endswith(shown[0]) and "    make fidelity\n" in page


def test_comparisons_are_watched() -> None:
    with pytest.MonkeyPatch.context() as patch:
        seen = watched(patch)
        torch.testing.assert_close(torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.5]), atol=1.0, rtol=0.2)
        found, row = {"a": 1.0, "b": 2.0}, [1.0]
        assert found == pytest.approx({"a": 1.0, "b": 2.25}, abs=0.5)
        assert row == pytest.approx([1.0], abs=1e-9)
        assert row != pytest.approx([3.0], abs=1e-9)
        with pytest.raises(AssertionError):
            torch.testing.assert_close(torch.ones(2), torch.zeros(2), atol=0.1, rtol=0.0)
    assert seen == [(0.5, 1.5), (0.25, 0.5), (0.0, 1e-9)]


def test_what_is_equal_differs_by_nothing() -> None:
    assert largest(float("inf"), float("inf")) == 0.0
    assert largest([], []) == 0.0 and largest(torch.zeros(0, 3), torch.zeros(0, 3)) == 0.0
    assert largest([torch.ones(2), 3], [torch.zeros(2), 3]) == 1.0
    assert 0 < largest(0.1, 0.1 + 1e-15) < 2e-15  # fp64 is not rounded on the way
    assert largest({"a": 1.0, "b": 2.0, "c": 9.0}, {"b": 2.0, "a": 4.0}) == 3.0
