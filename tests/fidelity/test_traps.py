"""The traps: each of the fifteen that were found in the code of other projects has a test of its number."""

import ast
import re
from pathlib import Path

from ledger import record

TRAPS = Path(__file__).parents[1] / "test_traps.py"


def test_each_trap_has_its_test() -> None:
    names = [n.name for n in ast.parse(TRAPS.read_text(encoding="utf-8")).body if isinstance(n, ast.FunctionDef)]
    tested = [int(number) for name in names if name.startswith("test_") for number in re.findall(r"_(\d\d)(?=_)", name)]
    assert sorted(tested) == [*range(1, 16)]
    record("traps of other projects", "each of the 15 has its test", len(tested))
