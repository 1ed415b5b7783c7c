"""The shapes that signatures say are checked while the tests run (tests/shapes.py), in every room, and only then."""

import ast
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapes
import torch
from jaxtyping import TypeCheckError

from mmlm.backbones.backbone import Backbone
from mmlm.backbones.grafts.gated_cross_attention import Block
from mmlm.batch import Memory, Units
from mmlm.blocks.attention import attention
from mmlm.blocks.mlp import MLP
from mmlm.blocks.rotary import rotate
from mmlm.caches import FeatureCache
from mmlm.interfaces import Features
from mmlm.media.grey import grey
from mmlm.model import Losses
from mmlm.plan.work import on_shapes
from mmlm.processor import Placed
from mmlm.registry import component
from mmlm.reply import Decoding, _choose
from mmlm.splice import splice

ROOT = Path(__file__).parents[1]
FILES = sorted(
    path
    for folder in ("mmlm", "encoders", "aligners", "decoders")
    for path in (ROOT / folder).rglob("*.py")
    if "from jaxtyping import" in path.read_text(encoding="utf-8")
)
ONE = torch.zeros(1, dtype=torch.long)


class Broken(torch.nn.Module):
    """Gives whole numbers where it should not."""

    def forward(self, x: Any) -> Any:
        return x.long()


def part(kind: str, name: str) -> Any:
    """A part's `forward`, as the assembler finds it: through the door, by name."""
    return component(kind, name).forward


# A call of one function of each room, with a wrong shape or type in it; the module behind a method is never reached.
WRONG: dict[str, Callable[[], object]] = {
    "aligners": lambda: part("aligners", "spatiotemporal")(None, torch.zeros(2, 3, 4)),
    "backbones": lambda: Backbone.embed(None, torch.zeros(1, 5)),  # type: ignore[arg-type]
    "backbones.grafts": lambda: Block.forward(None, torch.zeros(2, 5, 8), torch.zeros(3, 1, 4), None),  # type: ignore[arg-type]
    "batch: sizes that differ": lambda: Memory(
        torch.zeros(2, 3, 4), torch.zeros(2, 5).long(), torch.zeros(2, 7).long()
    ),
    "batch: floats for ints": lambda: Units(torch.zeros(2, 4), (2,), ONE.float(), ONE),
    "blocks: a size too few": lambda: attention(torch.zeros(1, 5, 8), torch.zeros(1, 2, 5, 8), torch.zeros(1, 2, 5, 8)),
    "blocks: a size between two": lambda: rotate(torch.zeros(2, 3, 5, 8), torch.zeros(2, 6, 4)),
    "blocks: a method": lambda: MLP(8, 9)(torch.zeros(2, 8).long()),
    "encoders": lambda: part("encoders", "clip")(None, torch.zeros(2, 4, 7, 7)),
    "interfaces": lambda: Features(torch.zeros(2, 3), (2,)),
    "media": lambda: grey(np.zeros((2, 3, 3))),
    "model: a method": lambda: FeatureCache().features(Broken(), Units(torch.zeros(2, 4), (2,), ONE, ONE, ("a",))),  # type: ignore[arg-type]
    "model: inside a mapping": lambda: Losses({"text": torch.zeros(2)}, {"text": 1}),
    "plan": lambda: on_shapes(Broken(), torch.zeros(2)),
    "processor": lambda: Placed("image", torch.zeros(3).long(), 0, 3, "key"),
    "reply": lambda: _choose(torch.zeros(5), Decoding(), []),
    "splice": lambda: splice(torch.zeros(1, 5, 8), ONE, torch.zeros(1, 9)),
}


@pytest.mark.parametrize("room", WRONG)
def test_a_wrong_shape_is_refused(room: str) -> None:
    with pytest.raises(TypeCheckError):
        WRONG[room]()


def signed(path: Path) -> Iterator[str]:
    """Functions of a file whose signature says a shape, as the source has them."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = {
        alias.name
        for n in ast.walk(tree)
        if isinstance(n, ast.ImportFrom) and n.module == "jaxtyping"
        for alias in n.names
    }

    def visit(node: ast.AST, above: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef):
                hints = [a.annotation for a in ast.walk(child.args) if isinstance(a, ast.arg)]
                said = {n.id for h in [*hints, child.returns] if h for n in ast.walk(h) if isinstance(n, ast.Name)}
                if said & names:
                    yield f"{above}{child.name}"
                yield from visit(child, f"{above}{child.name}.")
            elif isinstance(child, ast.ClassDef):
                yield from visit(child, f"{above}{child.name}.")
            else:
                yield from visit(child, above)

    yield from visit(tree, "")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_function_that_says_a_shape_is_checked(path: Path) -> None:
    """A function inside a function is not: its signature would say what nobody holds it to."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    module = ".".join(p for p in (parts if parts[0] == "mmlm" else ("mmlm", *parts)) if p != "__init__")
    import_module(module)
    missed = [name for name in signed(path) if f"{module}:{name}" not in shapes.checked]
    assert not missed, f"{module}: {', '.join(missed)}"


def test_in_normal_use_nothing_is_checked() -> None:
    code = (
        "import sys, torch\n"
        "import mmlm.reply, mmlm.backbones.causal, mmlm.encoders.clip, mmlm.aligners.mlp\n"
        "from mmlm.splice import splice\n"
        "from mmlm.batch import Units\n"
        "Units(torch.zeros(2), (2,), None, None)\n"
        "print([m for m in sys.modules if m.partition('.')[0] in ('beartype', 'shapes', 'typeguard')])\n"
        "print(hasattr(splice, '__wrapped__'))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.split("\n")[:2] == ["[]", "False"], done.stderr


def test_a_module_that_was_there_before_is_named() -> None:
    with pytest.raises(RuntimeError, match=r"imported before their shapes could be checked: mmlm, "):
        shapes.install()
