"""The parts that a config names: found in the tables, their blocks checked against what their classes take."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from mmlm import registry
from mmlm.config.places import at, keys
from mmlm.config.problems import Path, Problem, hint, nearest, one_of
from mmlm.config.reading import Node, plain
from mmlm.config.schema import BackboneConfig, DataConfig, PartConfig
from mmlm.config.signature import Signature, signature
from mmlm.config.wording import told
from mmlm.errors import InputError

# The kinds that a config names: the model of the block, and the key that names the class.
MODELS: dict[str, type[PartConfig | DataConfig]] = {
    "encoders": PartConfig,
    "aligners": PartConfig,
    "backbones": BackboneConfig,
    "grafts": PartConfig,
    "output_aligners": PartConfig,
    "decoders": PartConfig,
    "readers": DataConfig,
}
KEYS = {kind: "reader" if kind == "readers" else "type" for kind in MODELS}


class Tables:
    """The names of every kind, asked of the registry once."""

    def __init__(self) -> None:
        self._found: dict[str, dict[str, registry.Entry]] = {}

    def names(self, kind: str) -> dict[str, registry.Entry]:
        """All entries of a kind."""
        if kind not in self._found:
            self._found[kind] = registry.entries(kind)
        return self._found[kind]

    def target(self, kind: str, name: str) -> str:
        """The "module:Class" behind a name. Raises InputError that suggests a name, or says of which kind it is."""
        if ":" in name:
            return name
        if name in (known := self.names(kind)):
            return known[name].target
        others = [k for k in MODELS if k != kind and kind in MODELS and name in self.names(k)]
        told_kind = f"; `{name}` is one of the {others[0]}" if others else hint(name, known)
        raise InputError(f"expected {one_of(sorted(known))} or module:Class, got {name!r}{told_kind}")


@dataclass(frozen=True)
class Block:
    """One block of a config that names a class: where it stands, and of which kind the class is."""

    path: Path
    kind: str
    node: Node
    tables: Tables

    @property
    def key(self) -> str:
        """The key that names the class."""
        return KEYS[self.kind]

    @cached_property
    def signature(self) -> Signature | InputError | None:
        """What the class takes; the error where it cannot be had, None where the block does not name it properly."""
        named = self.node.value.get(self.key)
        if named is None or not isinstance(named.value, str) or not named.value:
            return None
        try:
            return signature(self.tables.target(self.kind, named.value))
        except InputError as e:
            return e

    @property
    def fields(self) -> list[str]:
        """The keys of the block that are not options."""
        return [f for f in MODELS[self.kind].model_fields if f != "options"]

    def options(self) -> dict[str, Node]:
        """The keys that are options of the class."""
        return {k: n for k, n in self.node.value.items() if k not in self.fields}

    def __str__(self) -> str:
        return f"{self.kind.removesuffix('s')} {self.node.value[self.key].value}"


def blocks(root: Node) -> list[Block]:
    """All blocks that name a class, as far as the tree has the right form."""
    tables = Tables()
    found: list[Block] = []

    def part(path: Path, kind: str) -> None:
        node = at(root, path)
        if node is not None and isinstance(node.value, dict):
            found.append(Block(path, kind, node, tables))
            if kind in ("encoders", "decoders"):
                part((*path, "encoder"), "encoders")

    for name in keys(root, ("inputs",)):
        part(("inputs", name, "encoder"), "encoders")
        part(("inputs", name, "aligner"), "aligners")
    part(("backbone",), "backbones")
    for name in keys(root, ("backbone", "grafts")):
        part(("backbone", "grafts", name), "grafts")
    for name in keys(root, ("outputs",)):
        part(("outputs", name, "aligner"), "output_aligners")
        part(("outputs", name, "decoder"), "decoders")
    for i in keys(root, ("stages",)):
        for key in ("data", "validation"):
            for j in keys(root, ("stages", i, key)):
                part(("stages", i, key, j), "readers")
    return found


def check_blocks(found: list[Block], exists: Callable[[str], str]) -> tuple[list[Problem], dict[Path, Any]]:
    """What is wrong with the blocks; and by path, the option values as the classes take them.

    `exists` tells for a key where else it would be known (the tail of a message, empty for nowhere).
    """
    problems: list[Problem] = []
    values: dict[Path, Any] = {}
    for block in found:
        if isinstance(block.signature, InputError):
            problems.append(Problem(block.node.value[block.key].spot, (*block.path, block.key), str(block.signature)))
        elif block.signature is not None:
            meant: set[str] = set()
            problems += _check_options(block, block.signature, exists, values, meant)
            problems += _check_handed(block, block.signature, meant)
    return problems, values


def _check_handed(block: Block, signed: Signature, meant: set[str]) -> Iterator[Problem]:
    """`weights` and `encoder` are given exactly where the class asks for them (`meant`: given, but misspelt)."""
    for key in ("weights", "encoder") if block.kind != "readers" else ():
        node = block.node.value.get(key)
        given = node is not None and node.value is not None
        if signed.handed.get(key, False) and not given and key not in meant:
            spot = (node or block.node).spot
            yield Problem(spot, (*block.path, key), f"expected `{key}`, which {block} needs, got nothing")
        elif node is not None and given and key not in signed.handed:
            yield Problem(node.spot, (*block.path, key), f"expected no `{key}`, which {block} does not take; got one")


def _check_options(
    block: Block, signed: Signature, exists: Callable[[str], str], values: dict[Path, Any], meant: set[str]
) -> Iterator[Problem]:
    """Options exist and have values of their kind. What misspelt ones were meant to be goes to `meant`."""
    given = block.options()
    missed = {n for n, o in signed.options.items() if o.required and n not in given}
    for name, node in given.items():
        path = (*block.path, name)
        if name not in signed.options:
            text, near = _unknown(block, signed, name, exists)
            meant.update(near)
            yield Problem(node.spot, path, text)
            continue
        try:
            values[path] = signed.options[name].check(plain(node))
        except ValidationError as e:
            for where, text in told(e, node, path):
                yield Problem((at(node, where[len(path) :]) or node).spot, where, text)
    for name in sorted(missed - meant):
        expected = f"expected the option `{name}` ({signed.options[name].annotation}), which {block} needs"
        yield Problem(block.node.spot, (*block.path, name), f"{expected}, got nothing")


def _unknown(block: Block, signed: Signature, name: str, exists: Callable[[str], str]) -> tuple[str, list[str]]:
    """The message for a key that is neither of the block nor an option, and what it was probably meant to be."""
    known = [*signed.options, *(f for f in block.fields if f not in ("weights", "encoder") or f in signed.handed)]
    near = hint(name, known)
    listed = "" if near else f" ({one_of(list(signed.options))})" if signed.options else ", which has none"
    text = f"expected an option of {block}{listed}, got the unknown option `{name}`{near}{exists(name)}"
    if block.node.value[name].spot.file != block.node.value[block.key].spot.file:
        text += f"; if it is inherited, `{name}: null` takes it away"
    return text, nearest(name, known)
