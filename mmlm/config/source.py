"""Python modules read as text: where a class is defined and what it inherits, without importing anything.

A config is checked in a fraction of a second, and nothing of a part runs for it.
"""

import ast
import importlib.util
import sys
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from mmlm.config.problems import hint
from mmlm.errors import InputError


@dataclass(frozen=True, slots=True, eq=False)
class Module:
    """The text of a module: its classes, its plain assignments, and where its imported names come from."""

    name: str
    lines: list[str]
    classes: dict[str, ast.ClassDef] = field(default_factory=dict)
    values: dict[str, ast.expr] = field(default_factory=dict)
    imports: dict[str, tuple[str, str | None]] = field(default_factory=dict)  # name -> (module, name there or None)
    stars: list[str] = field(default_factory=list)  # modules of which everything is imported


@dataclass(frozen=True, slots=True, eq=False)
class Class:
    """A class where it is defined."""

    module: Module
    node: ast.ClassDef


@cache
def load(name: str) -> Module:
    """The module `name`, read but not run. Raises InputError where there is no such module or no Python source."""
    found = _find(name)
    if found is None:
        raise InputError(f"there is no module {name!r}; is the package installed, or its folder on PYTHONPATH?")
    file, folders = found
    if file is None or file.suffix != ".py":
        raise InputError(f"the module {name!r} ({file or 'a folder'}) has no Python source to read the options from")
    try:
        with tokenize.open(file) as opened:
            text = opened.read()
        tree = ast.parse(text)
    except (SyntaxError, UnicodeDecodeError) as e:
        raise InputError(f"{file} is not Python: {e}") from e
    module = Module(name, text.splitlines())
    package = name if folders else name.rpartition(".")[0]
    for statement in _statements(tree.body):
        _note(module, statement, package)
    return module


def _find(name: str) -> tuple[Path | None, tuple[str, ...]] | None:
    """The file of a module and, for a package, its folders; None where there is no such module.

    Packages on the way are searched as folders: to ask importlib for a.b would run a.
    """
    loaded = sys.modules.get(name)
    if loaded is not None and (loaded.__spec__ is not None or name != "__main__"):
        origin = getattr(loaded, "__file__", None)
        return (Path(origin) if origin else None), tuple(getattr(loaded, "__path__", ()))
    parent, _, last = name.rpartition(".")
    if not parent:
        spec = importlib.util.find_spec(last)
        if spec is None:
            return None
        has_file = spec.has_location and spec.origin is not None
        return (Path(str(spec.origin)) if has_file else None), tuple(spec.submodule_search_locations or ())
    above = _find(parent)
    places = [Path(folder) / last for folder in above[1]] if above else []
    for place in places:
        if (place / "__init__.py").is_file():
            return place / "__init__.py", (str(place),)
        if place.with_suffix(".py").is_file():
            return place.with_suffix(".py"), ()
    folders = tuple(str(p) for p in places if p.is_dir())
    return (None, folders) if folders else None


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """What stands at the top of a module, also under `if` and `try`."""
    for statement in body:
        if isinstance(statement, ast.If | ast.Try):
            yield from _statements(statement.body + statement.orelse)
        else:
            yield statement


def _note(module: Module, statement: ast.stmt, package: str) -> None:
    match statement:
        case ast.ClassDef():
            module.classes[statement.name] = statement
        case ast.Assign(targets=[ast.Name(id=name)], value=value):
            module.values[name] = value
        case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
            module.values[name] = value
        case ast.Import():
            for alias in statement.names:
                target = alias.name if alias.asname else alias.name.partition(".")[0]
                module.imports[alias.asname or target] = (target, None)
        case ast.ImportFrom():
            origin = _absolute(statement, package)
            if statement.names[0].name == "*":
                module.stars.append(origin)
            for alias in statement.names:
                module.imports[alias.asname or alias.name] = (origin, alias.name)


def _absolute(statement: ast.ImportFrom, package: str) -> str:
    """The full name of the module that `from ... import` names, seen from inside `package`."""
    above = package.split(".")
    start = above[: max(0, len(above) - statement.level + 1)] if statement.level else []
    return ".".join([*start, statement.module] if statement.module else start)


def find_class(target: str) -> Class:
    """The class behind "module:Class", followed through re-exports. Raises InputError where there is none."""
    name, _, attribute = target.partition(":")
    if not (name and attribute.isidentifier() and all(p.isidentifier() for p in name.split("."))):
        raise InputError(f"expected module:Class, got {target!r}")
    module = load(name)
    if (found := _resolve(module, attribute, anywhere=True)) is None:
        raise InputError(f"the module {name!r} has no class {attribute!r}{hint(attribute, module.classes)}")
    return found


def lineage(found: Class) -> list[Class]:
    """The class and its bases, nearest first, as far as they are of the same package or of this one."""
    line: list[Class] = []
    waiting = [found]
    while waiting:
        here = waiting.pop(0)
        if any(here.node is seen.node for seen in line):
            continue
        line.append(here)
        bases = [b.value if isinstance(b, ast.Subscript) else b for b in here.node.bases]
        names = [n for b in bases if (n := dotted_name(b))]
        waiting = [c for n in names if (c := _resolve(here.module, n)) is not None] + waiting
    return line


def value_of(module: Module, name: str, seen: frozenset[str] = frozenset()) -> tuple[Module, ast.expr] | None:
    """What is assigned to a name at the top of a module, with the module it is from (followed through imports)."""
    if name in module.values:
        return module, module.values[name]
    for origin, there in _origins(module, name, anywhere=False):
        if origin not in seen and (found := value_of(load(origin), there, seen | {module.name})):
            return found
    return None


def dotted_name(node: ast.expr) -> str:
    """The source text of a name or of a.b.c; empty for anything else."""
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attribute):
            before = dotted_name(value)
            return f"{before}.{attribute}" if before else ""
    return ""


def _resolve(module: Module, name: str, anywhere: bool = False, seen: frozenset[str] = frozenset()) -> Class | None:
    """The class that a name means in a module; None for one of a stranger, whose source is not worth reading."""
    if name in module.classes:
        return Class(module, module.classes[name])
    for origin, there in _origins(module, name, anywhere):
        if origin not in seen and (found := _resolve(load(origin), there, anywhere, seen | {module.name})):
            return found
    return None


def _origins(module: Module, name: str, anywhere: bool) -> Iterator[tuple[str, str]]:
    """Module and name there of an imported name: in the same package or in this project, or anywhere."""
    head, _, attribute = name.rpartition(".")
    found = [(star, name) for star in module.stars]
    if name in module.imports and module.imports[name][1] is not None:
        found.insert(0, (module.imports[name][0], str(module.imports[name][1])))
    elif head in module.imports:
        package, inner = module.imports[head]
        found.insert(0, (f"{package}.{inner}" if inner else package, attribute))
    for origin, there in found:
        ours = origin.partition(".")[0] in (module.name.partition(".")[0], "mmlm")
        if (ours or anywhere) and origin != module.name and _find(origin):
            yield origin, there
