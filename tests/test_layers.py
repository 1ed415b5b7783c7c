"""Who may import whom: the ranks of the rooms, read off the sources without running them."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

ROOT = Path(__file__).parents[1]
PART_FOLDERS = ("encoders", "aligners", "decoders")

# A room (a file or folder of mmlm/) imports rooms of a lower rank and itself, nothing else.
ROOMS = (
    ("errors", "sample", "batch", "splice", "columns"),
    ("registry", "interfaces", "jsonfile", "media", "templates", "packages", "codec", "blocks"),
    ("objectives",),
    ("config", "weights", "writer"),
    ("vocabulary", "backbones", "data"),
    ("caches",),
    ("processor", "model"),
    ("assemble",),
    ("speech", "training", "looking"),
    ("reply",),
    ("interop",),
    ("evaluation", "plan", "talk", "inspection", "conformance"),
    ("report", "integrations"),
    ("quickstart", "demo", "arguments"),
    ("cli",),
    ("__main__",),
)
RANK = {room: rank for rank, rooms in enumerate(ROOMS) for room in rooms}
ENTRANCES = ("cli", "quickstart", "demo")  # begin a process, and import a room when it is asked

# What a part may know of the house. Everything else reaches it through its constructor.
OPEN_TO_PARTS = ("sample", "interfaces", "errors", "jsonfile", "weights", "media", "blocks")

# Packages that are heavy or optional, so that they are imported where they are used.
HEAVY = (
    *("accelerate", "av", "bitsandbytes", "diffusers", "gguf", "gradio", "huggingface_hub", "matplotlib", "open_clip"),
    *("peft", "pyarrow", "sentencepiece", "timm", "tokenizers", "torchvision", "tqdm", "transformers"),
    *("torch.distributed", "torch.nn.attention"),
    *("lmms_eval", "vlmeval"),
    "importlib.util",  # asks whether one of them is there
)

# Imports of our own that wait until they are needed: (file, module), each with its reason.
LATE = {
    # Reads formats that most weights are not in.
    ("mmlm/weights.py", "mmlm.packages"),
    # The door of the room: looking at its tables must not start torch.
    ("mmlm/training/__init__.py", "mmlm.training.loop"),
    # Answers are scored again without a model, and without torch.
    ("mmlm/evaluation/runner.py", "mmlm.evaluation.assembled"),
    ("mmlm/evaluation/runner.py", "mmlm.evaluation.probing"),
    # Imports VLMEvalKit, whose absence is told in our words.
    ("mmlm/integrations/vlmeval.py", "mmlm.integrations.vlmeval_model"),
}
UPWARD: set[tuple[str, str]] = set()

# Names that only annotations use; they close a circle that does not exist when the code runs.
TYPING = {("mmlm/interfaces.py", "mmlm.backbones.backbone")}


@dataclass(frozen=True, slots=True)
class Import:
    """One import: the file, its module, what it imports, and where in the file that stands."""

    file: str
    module: str
    target: str
    line: int
    place: Literal["top", "function", "typing"]
    relative: bool = False

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.target}"


def module_of(path: Path) -> str:
    """The name under which a file is imported: encoders/clip.py is mmlm.encoders.clip."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    parts = parts if parts[0] == "mmlm" else ("mmlm", *parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def sources(*folders: str) -> list[Path]:
    """The Python files of top-level folders."""
    return sorted(p for folder in folders for p in (ROOT / folder).rglob("*.py"))


def imports_in(path: Path) -> Iterator[Import]:
    """Every import of a file, `from package import module` taken apart and relative names made absolute."""
    module = module_of(path)
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]

    def visit(node: ast.AST, place: Literal["top", "function", "typing"]) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                names = [a.name for a in child.names]
            elif isinstance(child, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) - child.level + 1] if child.level else []
                origin = ".".join([*above, *([child.module] if child.module else [])])
                inner = [f"{origin}.{a.name}" for a in child.names]
                names = list(dict.fromkeys(n if n in MODULES else origin for n in inner))
            else:
                inside = place
                if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                    inside = "function"
                elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                    inside = "typing"
                yield from visit(child, inside)
                continue
            relative = isinstance(child, ast.ImportFrom) and child.level > 0
            yield from (Import(str(path.relative_to(ROOT)), module, n, child.lineno, place, relative) for n in names)

    yield from visit(ast.parse(path.read_text(encoding="utf-8"), str(path)), "top")


FILES = sources("mmlm", "demo", *PART_FOLDERS)
MODULES = {module_of(p) for p in FILES}
IMPORTS = [i for p in FILES for i in imports_in(p)]


def room(module: str) -> str:
    """The room of a module: mmlm.config.schema stands in `config`; the door, `mmlm` itself, in none."""
    return module.partition(".")[2].partition(".")[0]


CORE = [i for i in IMPORTS if room(i.module) and room(i.module) not in PART_FOLDERS]
PARTS = [i for i in IMPORTS if room(i.module) in PART_FOLDERS]


def ours(i: Import) -> bool:
    return i.target.startswith("mmlm.")


def test_every_room_has_a_rank() -> None:
    rooms = {room(m) for m in MODULES if m != "mmlm"} - {*PART_FOLDERS}
    assert not (unranked := rooms - RANK.keys()), (
        f"give these rooms a rank in {Path(__file__).name}: {sorted(unranked)}"
    )


def test_imports_run_one_way() -> None:
    wrong = [
        f"{i} (rank {RANK[room(i.target)]}, its own is {RANK[room(i.module)]})"
        for i in CORE
        if ours(i)
        and room(i.target) in RANK
        and room(i.target) != room(i.module)
        and RANK[room(i.target)] >= RANK[room(i.module)]
        and (i.file, i.target) not in (TYPING if i.place == "typing" else UPWARD if i.place == "function" else ())
    ]
    assert not wrong, "\n".join(wrong)


def test_the_core_never_imports_a_part() -> None:
    """It asks the registry by name, so that a part of somebody else's is as good as ours."""
    wrong = [str(i) for i in CORE if ours(i) and room(i.target) in PART_FOLDERS]
    assert not wrong, "\n".join(wrong)


def test_parts_know_only_the_open_rooms_and_their_siblings() -> None:
    wrong = [str(i) for i in PARTS if ours(i) and room(i.target) not in (*OPEN_TO_PARTS, room(i.module))]
    wrong += [str(i) for i in PARTS if i.target == "mmlm"]
    # A type checker finds a sibling only by a relative import, for it does not go through the door.
    wrong += [f"{i}, which is not relative" for i in PARTS if room(i.target) == room(i.module) and not i.relative]
    assert not wrong, "\n".join(wrong)


def test_nothing_is_imported_by_its_folder_name() -> None:
    """`encoders` is a stranger's package on the package index; ours is mmlm.encoders."""
    folders = {*PART_FOLDERS, "configs", "demo", "tests", "benchmarks"}
    wrong = [str(i) for i in IMPORTS if i.target.split(".")[0] in folders]
    wrong += [str(i) for i in IMPORTS if i.target.startswith(("mmlm.mmlm", "mmlm.tests", "mmlm.benchmarks"))]
    assert not wrong, "\n".join(wrong)


def test_there_are_no_cycles() -> None:
    graph = {
        m: {i.target for i in IMPORTS if i.module == m and i.place == "top" and i.target in MODULES} for m in MODULES
    }
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for target in graph[module]:
                visit(target, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


def test_imports_stand_at_the_top() -> None:
    """But for heavy packages, for the entry points, and for the few of ours that are listed with a reason."""
    wrong = [
        str(i)
        for i in IMPORTS
        if i.place == "function"
        and room(i.module) not in ENTRANCES
        and not any(i.target == h or i.target.startswith(h + ".") for h in HEAVY)
        and (i.file, i.target) not in LATE
    ]
    assert not wrong, "\n".join(wrong)


def test_the_lists_of_exceptions_hold_nothing_that_is_gone() -> None:
    found = {(i.file, i.target) for i in IMPORTS if i.place != "top"}
    assert not (gone := [pair for pair in (*LATE, *TYPING) if pair not in found]), (
        f"take these out of the lists: {gone}"
    )
    assert LATE >= UPWARD


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("import torch", [("torch", "top")]),
        ("from mmlm import registry", [("mmlm.registry", "top")]),
        ("from mmlm.config import load", [("mmlm.config", "top")]),
        ("from . import schema", [("mmlm.config.schema", "top")]),
        ("from .schema import SystemConfig", [("mmlm.config.schema", "top")]),
        ("from ..errors import InputError", [("mmlm.errors", "top")]),
        ("def f():\n    import av", [("av", "function")]),
        ("class A:\n    def f(self):\n        from mmlm.errors import InputError", [("mmlm.errors", "function")]),
        ("if TYPE_CHECKING:\n    from mmlm.batch import Batch", [("mmlm.batch", "typing")]),
        ("try:\n    import av\nexcept ImportError:\n    raise", [("av", "top")]),
    ],
)
def test_imports_are_read_rightly(
    text: str, expected: list[tuple[str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    file = tmp_path / "mmlm" / "config" / "probe.py"
    file.parent.mkdir(parents=True)
    file.write_text(text, encoding="utf-8")
    assert [(i.target, i.place) for i in imports_in(file)] == expected
