"""What each stage of each shipped system trains, by name. Run as a program, it writes the golden file anew."""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mmlm.assemble import assemble
from mmlm.config import load
from mmlm.training import policy

GOLDEN = Path(__file__).parent / "freeze.json"
SYSTEMS = sorted(p.stem for p in (Path(__file__).parents[2] / "configs" / "systems").glob("*.yaml"))
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


def folded(names: Iterable[str]) -> list[str]:
    """Names that differ in their first number alone as one, with its values: `layers.0-1.norm.weight`, `layers.0,2.up`."""
    found: dict[str, set[int]] = {}
    for name in names:
        number = _NUMBER.search(name)
        pattern = f"{name[: number.start()]}*{name[number.end() :]}" if number else name
        found.setdefault(pattern, set()).update([int(number.group())] if number else [])
    return sorted(p.replace("*", _values(sorted(v)), 1) if v else p for p, v in found.items())


def _values(numbers: list[int]) -> str:
    if len(numbers) > 1 and numbers == [*range(numbers[0], numbers[-1] + 1)]:
        return f"{numbers[0]}-{numbers[-1]}"
    return ",".join(map(str, numbers))


def plan_of(system: str) -> dict[str, Any]:
    """For each stage of a system at scale=tiny: its trained tensors, their values, and their names, by the part that says so."""
    config = load(system, ["scale=tiny"])
    model = assemble(config).model
    found: dict[str, Any] = {}
    for stage in config.stages:
        policy.apply(model, stage)
        trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
        found[stage.name] = {
            "tensors": len(trained),
            "parameters": sum(p.numel() for p in trained.values()),
            "of": sum(p.numel() for p in model.parameters()),
            "rates": {part: how.lr for part, how in stage.train.items()},
            "trained": folded(trained),
        }
    return found


def main() -> None:
    """Write the golden file."""
    GOLDEN.write_text(json.dumps({s: plan_of(s) for s in SYSTEMS}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
