"""From a tree to a SystemConfig: the schema, the parts' options and the rules, all mistakes told at once."""

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError

from mmlm.config.parts import Block, Tables, blocks, check_blocks
from mmlm.config.places import at, fields, homes, keys
from mmlm.config.problems import Path, Problem, Spot, dotted, fail, hint, nearest, one_of
from mmlm.config.reading import Node, plain
from mmlm.config.rules import broken
from mmlm.config.schema import SystemConfig
from mmlm.config.signature import Signature, signature
from mmlm.config.wording import told, trace
from mmlm.errors import InputError


def check(root: Node, problems: list[Problem]) -> SystemConfig:
    """The config that the tree says. Raises one InputError with `problems` and everything found here.

    A null over an inherited value stays where null is a value of the field (`clip: null`), and takes the key away
    elsewhere.
    """
    found, config = _examine(root)
    erased = [p.path for p in found if (node := at(root, p.path)) is not None and node.erases]
    if erased:
        for path in erased:
            parent = at(root, path[:-1])
            if parent is not None and isinstance(parent.value, dict):
                parent.value.pop(path[-1], None)
        found, config = _examine(root)
    spoilt = {p.spot for p in problems if p.spot.line}
    found = [p for p in found if p.spot not in spoilt]
    if found or problems or config is None:
        fail([*problems, *found])
    return config


def _examine(root: Node) -> tuple[list[Problem], SystemConfig | None]:
    """Everything that is wrong with the tree, and the config if that is nothing."""
    data = plain(root)
    parts = blocks(root)

    def exists(key: str) -> str:
        """Where else a key is known, as the tail of a message."""
        options = [
            dotted((*b.path, key)) for b in parts if isinstance(b.signature, Signature) and key in b.signature.options
        ]
        found = [*homes(root, key), *options]
        return f"; `{key}` exists at {' and '.join(found[:3])}" if found else ""

    problems, values = check_blocks(parts, exists)
    problems += _check_memory(root, parts)
    problems += [Problem(_spot(root, path), path, text) for path, text in broken(data)]
    for block in parts:
        _collect(data, block, values)
    try:
        config = SystemConfig.model_validate(data)
    except ValidationError as e:
        return [*_check_schema(e, root, exists), *problems], None
    return problems, config


def _check_schema(error: ValidationError, root: Node, exists: Callable[[str], str]) -> Iterator[Problem]:
    """Pydantic's complaints. A key that is missed only because it is misspelt is told once, as the misspelling."""
    done: set[Path] = {()}
    misspelt: set[Path] = set()
    for e in error.errors(include_url=False):
        if e["type"] == "extra_forbidden":
            path = trace(root, e["loc"], missing=False)
            key, known = str(path[-1]), fields(path[:-1])
            done.add(path)
            misspelt |= {(*path[:-1], meant) for meant in nearest(key, known)}
            near = hint(key, known)
            keys_here = "" if near else f" ({one_of(known)})"
            text = f"expected a key of this block{keys_here}, got the unknown key `{key}`{near}{exists(key)}"
            yield Problem(_spot(root, path), path, text)
    for path, text in told(error, root):
        if path in done or (path in misspelt and at(root, path) is None):
            continue
        spot = _spot(root, path)
        if path[-1] == "modality" and at(root, path) is None:
            text += " (the stream's name, as no modality is given)"
        elif at(root, path) is None and (slip := _misspelt(root, path)):
            spot, text = _spot(root, (*path[:-1], slip)), f"{text}; did you mean `{path[-1]}` where it says `{slip}`?"
        yield Problem(spot, path, text)


def _misspelt(root: Node, path: Path) -> str | None:
    """The key that may have been meant for the one that is missed at `path`."""
    others = [k for k in keys(root, path[:-1]) if isinstance(k, str) and k not in fields(path[:-1])]
    return next(iter(nearest(str(path[-1]), others)), None)


def _check_memory(root: Node, parts: list[Block]) -> Iterator[Problem]:
    """A stream that feeds memory needs a graft that reads it."""
    grafts = [b.signature for b in parts if b.kind == "grafts"]
    if any(not isinstance(g, Signature) or g.attributes.get("reads_memory") is True for g in grafts):
        return
    for name in keys(root, ("inputs",)):
        node = at(root, ("inputs", name, "into"))
        if node is not None and node.value == "memory":
            text = f"expected a graft under backbone.grafts that reads memory ({_memory_grafts()}), got none"
            yield Problem(node.spot, ("inputs", name, "into"), text)


def _memory_grafts() -> str:
    """The names of the grafts that read memory."""
    found = []
    for name, entry in Tables().names("grafts").items():
        try:
            if signature(entry.target).attributes.get("reads_memory") is True:
                found.append(name)
        except InputError:
            continue  # a graft whose source cannot be read is no help here
    return one_of(sorted(found)) if found else "module:Class of your own"


def _spot(root: Node, path: Path) -> Spot:
    """Where a path was written; for one that is not there, the block where it is missed."""
    while (node := at(root, path)) is None:
        path = path[:-1]
    return node.spot


def _collect(data: Any, block: Block, values: dict[Path, Any]) -> None:
    """Put a block's options together, each as its class takes it."""
    for step in block.path:
        data = data[step]
    given = block.options()
    options = {name: data.pop(name) for name in given}
    data["options"] = {name: values.get((*block.path, name), value) for name, value in options.items()}
