"""A config file read as a tree whose every value remembers its file and line: the safe subset of YAML 1.2.

The values are those of the core schema (YAML 1.2.2, section 10.3): `1e-3` is a number, `no` and `12:30` are strings.
Anchors, aliases, merge keys and tags of one's own are refused, so a file cannot grow while it is read.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from mmlm.config.problems import Problem, Spot, fail, got

SIZE, DEPTH, VALUES = 2**20, 32, 20_000  # a reader in pure Python takes a second or so for that many values

_CORE = "tag:yaml.org,2002:"
_NULL = re.compile(r"(?:~|null|Null|NULL)?")
_TRUE, _FALSE = re.compile("true|True|TRUE"), re.compile("false|False|FALSE")
_INT, _OCTAL, _HEX = re.compile(r"[-+]?[0-9]+"), re.compile("0o[0-7]+"), re.compile("0x[0-9a-fA-F]+")
_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_INFINITE, _NAN = re.compile(r"[-+]?\.(?:inf|Inf|INF)"), re.compile(r"\.(?:nan|NaN|NAN)")


@dataclass(slots=True)
class Node:
    """A value, and where it was written: a scalar, a list of nodes, or a mapping of nodes (then the key's line).

    `erases` marks a null that stands in place of an inherited value.
    """

    value: Any
    spot: Spot
    erases: bool = False


def scalar(text: str) -> bool | int | float | str | None:
    """The value of a plain scalar in YAML 1.2's core schema."""
    if _NULL.fullmatch(text):
        return None
    if _TRUE.fullmatch(text) or _FALSE.fullmatch(text):
        return text[0] in "tT"
    if _INT.fullmatch(text) and len(text) < 100:
        return int(text)
    if _OCTAL.fullmatch(text) or _HEX.fullmatch(text):
        return int(text, 0)
    if _INFINITE.fullmatch(text) or _NAN.fullmatch(text):
        return float(text.replace(".", ""))
    return float(text) if _FLOAT.fullmatch(text) else text


def read_file(path: Path, problems: list[Problem]) -> Node:
    """The tree of a config file. What is wrong but leaves a tree goes to `problems`; the rest is an InputError."""
    spot = Spot(str(path))
    try:
        with path.open("rb") as file:
            raw = file.read(SIZE + 1)
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as e:
        fail([Problem(spot, (), f"expected UTF-8 text, got byte {e.object[e.start]:#04x} at offset {e.start}")])
    except OSError as e:
        fail([Problem(spot, (), f"expected a config file, which cannot be read: {e.strerror}")])
    if len(raw) > SIZE:
        fail([Problem(spot, (), f"expected at most {SIZE} bytes, which is far more than a config needs; got more")])
    node = read_text(text, str(path), problems)
    if not isinstance(node.value, dict):
        fail([*problems, Problem(node.spot, (), f"expected a mapping (name, backbone, ...), got {got(plain(node))}")])
    _anchor(node, path.parent)
    return node


def _anchor(node: Node, folder: Path) -> None:
    """Weights that begin with ./ or ../ stand beside the file that names them, wherever the program is started."""
    match node.value:
        case dict():
            for key, inner in node.value.items():
                if key == "weights" and isinstance(inner.value, str) and inner.value.startswith(("./", "../")):
                    inner.value = os.path.abspath(folder / inner.value)
                _anchor(inner, folder)
        case list():
            for inner in node.value:
                _anchor(inner, folder)


def read_text(text: str, file: str, problems: list[Problem], lines: bool = True) -> Node:
    """The tree of one YAML document; `lines` False where the text is no file (an override)."""
    if len(text) > SIZE:
        fail([Problem(Spot(file), (), f"expected at most {SIZE} characters, got {len(text)}")])
    reader = _Reader(file, lines, problems)
    try:
        return reader.document(YAML(typ="safe", pure=True).parse(text))
    except MarkedYAMLError as e:
        mark = e.problem_mark or e.context_mark
        told = ", ".join(str(t) for t in (e.context, e.problem) if t)
        fail([*problems, Problem(Spot(file, mark.line + 1 if mark and lines else 0), (), f"not YAML: {told}")])
    except ReaderError as e:
        line = text.count("\n", 0, e.position) + 1 if lines else 0
        fail([*problems, Problem(Spot(file, line), (), f"not YAML: {e.reason} (#x{e.character:04x})")])


def plain(node: Node) -> Any:
    """The tree without its lines: scalars, lists and dicts."""
    match node.value:
        case dict():
            return {k: plain(v) for k, v in node.value.items()}
        case list():
            return [plain(v) for v in node.value]
    return node.value


def plant(value: Any, spot: Spot) -> Node:
    """A tree of plain values, all written at `spot`."""
    match value:
        case dict():
            return Node({k: plant(v, spot) for k, v in value.items()}, spot)
        case list() | tuple():
            return Node([plant(v, spot) for v in value], spot)
    return Node(value, spot)


class _Reader:
    """Builds the tree from the parser's events, which come one after the other whatever the file holds."""

    def __init__(self, file: str, lines: bool, problems: list[Problem]) -> None:
        self.file, self.lines, self.problems, self.count = file, lines, problems, 0

    def document(self, events: Iterator[Any]) -> Node:
        root: Node | None = None
        for event in events:
            if isinstance(event, DocumentStartEvent):
                if event.version not in (None, (1, 2)):
                    self._note(event, (), f"expected YAML 1.2, got %YAML {'.'.join(map(str, event.version))}")
            elif isinstance(event, ScalarEvent | AliasEvent | MappingStartEvent | SequenceStartEvent):
                if root is not None:
                    fail(
                        [
                            *self.problems,
                            Problem(self._spot(event), (), "expected one document, got a second after ---"),
                        ]
                    )
                root = self._node(event, events, ())
        return root or Node(None, Spot(self.file, 1 if self.lines else 0))

    def _node(self, event: Any, events: Iterator[Any], path: tuple[str | int, ...], spot: Spot | None = None) -> Node:
        spot = spot or self._spot(event)
        self.count += 1
        if len(path) > DEPTH:
            fail([*self.problems, Problem(self._spot(event), path[:4], f"expected at most {DEPTH} levels, got more")])
        if self.count > VALUES:
            fail([*self.problems, Problem(self._spot(event), (), f"expected at most {VALUES} values, got more")])
        if event.anchor is not None:
            mark = "*" if isinstance(event, AliasEvent) else "&"
            self._note(
                event, path, f"expected a plain value, got {mark}{event.anchor}: write the value out, or quote the text"
            )
        match event:
            case MappingStartEvent():
                self._tag(event, path, "map")
                return Node(self._mapping(events, path), spot)
            case SequenceStartEvent():
                self._tag(event, path, "seq")
                return Node(self._sequence(events, path), spot)
            case ScalarEvent():
                return Node(self._scalar(event, path), spot)
        return Node(None, spot)

    def _mapping(self, events: Iterator[Any], path: tuple[str | int, ...]) -> dict[str, Node]:
        found: dict[str, Node] = {}
        while not isinstance(event := next(events), MappingEndEvent):
            spot = self._spot(event)
            key = self._node(event, events, (*path, "")).value
            if not isinstance(key, str):
                self._note(
                    event, path, f"expected a word for a key, got {got(plain(Node(key, spot)))}; put it in quotes"
                )
                key = str(key)
            value = self._node(next(events), events, (*path, key), spot)
            if key in found:
                self._note(
                    event,
                    (*path, key),
                    f"expected a key once, got it again; it stands already at line {found[key].spot.line}",
                )
            else:
                found[key] = value
        return found

    def _sequence(self, events: Iterator[Any], path: tuple[str | int, ...]) -> list[Node]:
        found: list[Node] = []
        while not isinstance(event := next(events), SequenceEndEvent):
            found.append(self._node(event, events, (*path, len(found))))
        return found

    def _scalar(self, event: Any, path: tuple[str | int, ...]) -> bool | int | float | str | None:
        text, tag = str(event.value), event.tag
        if tag is None:
            return scalar(text) if event.style is None else text
        if tag in ("!", f"{_CORE}str"):
            return text
        value = scalar(text)
        name = {type(None): "null", bool: "bool", int: "int", float: "float", str: "str"}[type(value)]
        if (name, tag) == ("int", f"{_CORE}float"):
            return float(text)
        self._tag(event, path, name)
        return value

    def _tag(self, event: Any, path: tuple[str | int, ...], name: str) -> None:
        if event.tag not in (None, "!", f"{_CORE}{name}"):
            tag = event.tag.replace(_CORE, "!!")
            self._note(event, path, f"expected a plain value, got the tag {tag}: remove it, or quote the text")

    def _note(self, event: Any, path: tuple[str | int, ...], text: str) -> None:
        self.problems.append(Problem(self._spot(event), path, text))

    def _spot(self, event: Any) -> Spot:
        return Spot(self.file, event.start_mark.line + 1 if self.lines else 0)
