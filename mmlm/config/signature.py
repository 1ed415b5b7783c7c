"""The options of a part, read from the source of its class: the keyword-only parameters of its constructor.

What stands before the `*` the assembler hands over; of that a config only says `weights` and `encoder`.
"""

import ast
import re
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from functools import cache, reduce
from operator import or_
from types import GenericAlias
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from mmlm.config.source import Class, Module, dotted_name, find_class, lineage, value_of

CHECKED = ConfigDict(strict=True, allow_inf_nan=False)


class _Unread:
    """Stands for a default that is more than a literal."""

    def __repr__(self) -> str:
        return "..."


UNREAD = _Unread()


@dataclass(frozen=True, slots=True)
class Option:
    """One keyword-only parameter. `type` is what its annotation allows; Any where that is not understood."""

    name: str
    annotation: str
    type: Any
    required: bool
    default: Any
    about: str

    def check(self, value: Any) -> Any:
        """The value as the constructor takes it (a list becomes a tuple, 1 becomes 1.0 where that is asked for).

        Raises pydantic's ValidationError; strict: a string is no number, and true is not 1.
        """
        return TypeAdapter(self.type, config=CHECKED).validate_python(value)


@dataclass(frozen=True, slots=True)
class Signature:
    """What a config may say of a part. `handed` tells for each parameter before the `*` whether it must be given."""

    target: str
    about: str
    options: Mapping[str, Option]
    handed: Mapping[str, bool]
    attributes: Mapping[str, Any]


@cache
def signature(target: str) -> Signature:
    """The signature of "module:Class", without importing it. Raises InputError where there is no such class.

    A class without a constructor of its own has its base's; one whose constructor takes **keywords hands them on, so
    the base's options are its own too.
    """
    found = find_class(target)
    line = lineage(found)
    options: dict[str, Option] = {}
    handed: dict[str, bool] | None = None
    for owner in line:
        if (init := _constructor(owner.node)) is None:
            continue
        handed = _handed(owner, init) if handed is None else handed
        for option in _options(owner, init, line):
            options.setdefault(option.name, option)
        if init.args.kwarg is None:
            break
    told = (ast.get_docstring(found.node) or "").partition("\n\n")[0]
    about = re.split(r"(?<=\.)\s+(?=[A-Z`])", " ".join(told.split()))[0]
    return Signature(target, about, options, handed or {}, _attributes(line))


def _constructor(node: ast.ClassDef) -> ast.FunctionDef | None:
    return next((s for s in node.body if isinstance(s, ast.FunctionDef) and s.name == "__init__"), None)


def _handed(owner: Class, init: ast.FunctionDef) -> dict[str, bool]:
    """Parameters before the `*`: required unless they have a default or may be None."""
    arguments = [*init.args.posonlyargs, *init.args.args][1:]
    given = {a.arg for a in arguments[len(arguments) - len(init.args.defaults) :]}
    return {a.arg: a.arg not in given and not (a.annotation and _allows_none(a.annotation)) for a in arguments}


def _allows_none(node: ast.expr) -> bool:
    text = node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ast.unparse(node)
    return "None" in re.findall(r"\w+", text) or "Optional" in text


def _options(owner: Class, init: ast.FunctionDef, line: list[Class]) -> list[Option]:
    texts = [ast.get_docstring(init) or "", *(ast.get_docstring(c.node) or "" for c in (owner, *line))]
    found = []
    for argument, default in zip(init.args.kwonlyargs, init.args.kw_defaults, strict=True):
        value = _literal(owner.module, default) if default is not None else UNREAD
        kind = _type(owner.module, argument.annotation) if argument.annotation else Any
        shown = "anything"
        if argument.annotation:
            shown = ast.unparse(_Expand(owner.module).visit(deepcopy(argument.annotation)))
        about = _comment(owner.module, argument) or next((t for d in texts if (t := _about(argument.arg, d))), "")
        found.append(Option(argument.arg, shown, kind, default is None, value, about))
    return found


class _Expand(ast.NodeTransformer):
    """An annotation with the names that a module gives to types replaced by what they mean, for people to read."""

    def __init__(self, module: Module) -> None:
        self.module = module

    def visit(self, node: ast.AST) -> Any:
        """The node, or what its name stands for."""
        name = dotted_name(node) if isinstance(node, ast.Name | ast.Attribute) else ""
        there = value_of(self.module, name) if name else None
        return there[1] if there else self.generic_visit(node)


def _attributes(line: list[Class]) -> dict[str, Any]:
    """Class attributes that are literals, the nearest class's first: `tiny`, `reads_memory`."""
    found: dict[str, Any] = {}
    for owner in line:
        for statement in owner.node.body:
            match statement:
                case (
                    ast.Assign(targets=[ast.Name(id=name)], value=value)
                    | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
                ):
                    found.setdefault(name, _literal(owner.module, value))
    return found


def _literal(module: Module, node: ast.expr) -> Any:
    """The value of a literal, or of a name that a literal is assigned to; UNREAD for anything else."""
    if isinstance(node, ast.Name) and (there := value_of(module, node.id)):
        return _literal(*there)
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError):
        return UNREAD


_SIMPLE: dict[str, Any] = {"int": int, "float": float, "bool": bool, "str": str, "None": None}


def _type(module: Module, node: ast.expr) -> Any:
    """The type that an annotation names, out of a small alphabet; Any (unchecked) for what is not in it."""
    match node:
        case ast.Constant(value=None):
            return None
        case ast.Constant(value=str() as text):
            return _type(module, ast.parse(text, mode="eval").body)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _type(module, left) | _type(module, right)
        case ast.Subscript(value=value, slice=inner):
            members = list(inner.elts) if isinstance(inner, ast.Tuple) else [inner]
            return _generic(module, dotted_name(value).rpartition(".")[2], members)
        case ast.Name(id=name) if name in _SIMPLE:
            return _SIMPLE[name]
        case ast.Name() | ast.Attribute():
            there = value_of(module, dotted_name(node))
            return _type(*there) if there else _generic(module, dotted_name(node).rpartition(".")[2], [])
    return Any


def _generic(module: Module, name: str, members: list[ast.expr]) -> Any:
    if name == "Literal":
        values = tuple(_literal(module, m) for m in members)
        return Literal[values] if values and UNREAD not in values else Any
    if name == "Annotated":
        return _type(module, members[0])
    endless = bool(members) and isinstance(members[-1], ast.Constant) and members[-1].value is ...
    inner = [_type(module, m) for m in (members[:-1] if endless else members)]
    first: Any = inner[0] if inner else Any
    match name, inner:
        case ("Optional", [_]):
            return first | None
        case ("Union", [_, *_]):
            return reduce(or_, inner)
        case ("list" | "Sequence", [] | [_]):
            return GenericAlias(list, (first,))
        case ("dict" | "Mapping", [] | [_, _]):
            return GenericAlias(dict, tuple(inner) or (str, Any))
        case ("tuple", _):
            kind: Any = GenericAlias(tuple, (first, ...) if endless or not inner else tuple(inner))
            return Annotated[kind, Field(strict=False)]  # YAML has lists only
    return Any


def _comment(module: Module, argument: ast.arg) -> str:
    """The comment behind a parameter that stands on a line of its own."""
    line = module.lines[argument.lineno - 1]
    alone = not line[: argument.col_offset].strip()
    found = re.search(r",\s*#\s*(.+)$", line) if alone else None
    return found.group(1).strip() if found else ""


def _about(name: str, text: str) -> str:
    """What a docstring says of a parameter: an entry "name: ..." with its indented lines, or the sentence of `name`."""
    entry = re.search(rf"^([ \t]*){name}[ \t]*(?:\([^)\n]*\))?:[ \t]+(.+(?:\n\1[ \t]+\S.*)*)", text, re.MULTILINE)
    if entry:
        return " ".join(entry.group(2).split())
    for paragraph in text.split("\n\n"):
        for sentence in re.split(r"(?<=[.;])\s+(?=[A-Z`])", " ".join(paragraph.split())):
            if f"`{name}`" in sentence:
                return sentence.removeprefix(f"`{name}`: ").rstrip(";.")
    return ""
