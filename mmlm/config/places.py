"""Where in a config a key belongs: the blocks of the schema by their paths."""

from collections.abc import Collection, Iterator
from functools import cache
from typing import Any, get_args, get_origin

from pydantic import BaseModel

from mmlm.config.problems import Path, dotted
from mmlm.config.reading import Node
from mmlm.config.schema import PartConfig, SystemConfig

_ENTRY = "*"  # any key of a mapping, any index of a list


def at(root: Node, path: Path) -> Node | None:
    """The node at a path; None where there is none."""
    node = root
    for step in path:
        if step not in _keys(node):
            return None
        node = node.value[step]
    return node


def keys(root: Node, path: Path) -> list[Any]:
    """The keys or indices of the mapping or list at a path; none where there is something else."""
    node = at(root, path)
    return list(_keys(node)) if node is not None else []


def _keys(node: Node) -> Collection[Any]:
    match node.value:
        case dict():
            return node.value.keys()
        case list():
            return range(len(node.value))
    return ()


@cache
def _blocks() -> dict[Path, type[BaseModel]]:
    """Every block of the schema by its path, with * for names and indices."""
    return dict(_inside(SystemConfig, ()))


def _inside(kind: Any, path: Path) -> Iterator[tuple[Path, type[BaseModel]]]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield path, kind
        for name, field in kind.model_fields.items():
            if not (issubclass(kind, PartConfig) and name == "encoder"):  # a part in a part: the same block again
                yield from _inside(field.annotation, (*path, name))
        return
    deeper = (*path, _ENTRY) if get_origin(kind) in (dict, list) else path
    for argument in get_args(kind):
        yield from _inside(argument, deeper)


def fields(path: Path) -> list[str]:
    """The keys of the block at a path of a config; none where the schema has no block there."""
    for general, block in _blocks().items():
        if len(general) == len(path) and all(g in (_ENTRY, p) for g, p in zip(general, path, strict=True)):
            return [f for f in block.model_fields if f != "options"]
    return []


def homes(root: Node, key: str) -> list[str]:
    """Where the schema has a key of this name, as paths into this config."""
    found = []
    for general, block in _blocks().items():
        if key in block.model_fields and key != "options":
            path: list[Any] = []
            for step in general:
                known = keys(root, tuple(path)) if step == _ENTRY else [step]
                path.append(known[0] if known else "NAME")
            found.append(dotted((*path, key)))
    return found
