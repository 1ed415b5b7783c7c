"""From an exact name to a class: the project's own tables, third-party entry points, "module:Class" strings.

Nothing is imported to list names; a class is imported when it is asked for, so that installing diffusers is not the
price of running CLIP.
"""

import difflib
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from mmlm.errors import InputError

# kind -> the package whose `PARTS` table maps a name to "module:Class" below that package
KINDS = {
    "encoders": "mmlm.encoders",
    "aligners": "mmlm.aligners",
    "output_aligners": "mmlm.aligners.outputs",
    "decoders": "mmlm.decoders",
    "backbones": "mmlm.backbones",
    "grafts": "mmlm.backbones.grafts",
    "readers": "mmlm.training.readers",
    "tasks": "mmlm.evaluation.tasks",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """One name of a kind: where its class is, and who says so ("mmlm", or the name of another distribution)."""

    name: str
    target: str  # "package.module:Class"
    source: str


def entries(kind: str) -> dict[str, Entry]:
    """All names of `kind`: the project's table and the entry-point group `mmlm.<kind>`. A name given twice is an error."""
    table: dict[str, str] = import_module(KINDS[kind]).PARTS
    found = {n: Entry(n, f"{KINDS[kind]}.{target}", "mmlm") for n, target in table.items()}
    for point in entry_points(group=f"mmlm.{kind}"):
        source = point.dist.name if point.dist else "an entry point"
        if point.name in found:
            raise InputError(
                f"the {kind} name {point.name!r} is taken by {found[point.name].source} ({found[point.name].target}) "
                f"and by {source} ({point.value}); uninstall one of them"
            )
        found[point.name] = Entry(point.name, point.value, source)
    return found


def locate(kind: str, name: str) -> Entry:
    """The entry for `name`, exactly as spelt, or for a "module:Class" string. Raises InputError with the nearest name."""
    if ":" in name:
        return Entry(name, name, "config")
    found = entries(kind)
    if name not in found:
        near = difflib.get_close_matches(name, found, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(
            f"there is no {kind.removesuffix('s')} named {name!r}{hint} Known: {', '.join(sorted(found))}; or write module:Class"
        )
    return found[name]


def component(kind: str, name: str) -> type[Any]:
    """The class behind `name`. Raises InputError where the module or the class does not exist."""
    entry = locate(kind, name)
    what = f"{kind.removesuffix('s')} {name!r}"
    module, _, attribute = entry.target.partition(":")
    if not (module and attribute) or module.startswith("."):
        raise InputError(f"{what}: expected module:Class, got {entry.target!r} (from {entry.source})")
    try:
        found = import_module(module)
    except ImportError as e:
        raise InputError(f"{what} ({entry.target}) cannot be imported: {e}") from e
    if not isinstance(cls := getattr(found, attribute, None), type):
        raise InputError(f"{what}: {module} has no class {attribute!r}")
    return cls
