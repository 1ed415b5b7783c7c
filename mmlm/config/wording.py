"""Pydantic's errors in the words of this project: what was expected, what came, what was probably meant."""

import re
from collections.abc import Iterator
from typing import Any

from pydantic import ValidationError

from mmlm.config.places import at
from mmlm.config.problems import Path, got, hint, one_of
from mmlm.config.reading import Node, scalar

_KINDS = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a string",
    "none_required": "null",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "finite_number": "a finite number",
    "string_too_short": "a string that is not empty",
}
_BOUNDS = {
    "greater_than": ("gt", ">"),
    "greater_than_equal": ("ge", ">="),
    "less_than": ("lt", "<"),
    "less_than_equal": ("le", "<="),
}


def told(error: ValidationError, node: Node, base: Path = ()) -> Iterator[tuple[Path, str]]:
    """Each mistake once: its path (below `base`, where `node` stands) and the message.

    The branches of a union complain one by one; here they are one message: expected this or that.
    """
    expected: dict[Path, dict[str, list[str]]] = {}
    values: dict[Path, Any] = {}
    for e in error.errors(include_url=False):
        path = trace(node, e["loc"], missing=e["type"] == "missing")
        what, choices = _expected(e)
        expected.setdefault(path, {}).setdefault(what, choices)
        values[path] = e["input"] if e["type"] != "missing" else None
    for path, ways in expected.items():
        value, choices = values[path], [c for listed in ways.values() for c in listed]
        if list(ways) == [""]:
            what = "one more entry" if path and isinstance(path[-1], int) else "this key"
            yield (*base, *path), f"expected {what}, got nothing"
            continue
        word = isinstance(value, str) and choices
        came = repr(value) if word else got(value)
        tail = (hint(value, choices) if word else "") or _advice(ways, value)
        yield (*base, *path), f"expected {' or '.join(w for w in ways if w)}, got {came}{tail}"


def trace(node: Node, loc: tuple[int | str, ...], missing: bool) -> Path:
    """Pydantic's location as a path of keys that exist; names of union branches on the way are left out."""
    path: list[int | str] = []
    for i, step in enumerate(loc):
        if (below := at(node, (step,))) is not None:
            node = below
        elif i < len(loc) - 1 or not (missing or step == "modality"):  # a modality may come from the stream's name
            continue
        path.append(step)
    return tuple(path)


def _expected(error: Any) -> tuple[str, list[str]]:
    """What one error would have liked to see, and the words to choose from if it is a choice; "" for a missing key."""
    kind, context = error["type"], error.get("ctx", {})
    if kind == "missing":
        return "", []
    if kind == "literal_error":
        choices = re.findall(r"'([^']*)'", context["expected"])
        return (one_of(choices), choices) if choices else (context["expected"], [])
    if kind in _BOUNDS:
        key, sign = _BOUNDS[kind]
        return f"a number {sign} {context[key]:g}", []
    if kind in ("too_short", "too_long"):
        limit = context.get("min_length", context.get("max_length"))
        return f"at {'least' if kind == 'too_short' else 'most'} {limit} {'entry' if limit == 1 else 'entries'}", []
    return _KINDS.get(kind, error["msg"][0].lower() + error["msg"][1:]), []


def _advice(ways: dict[str, list[str]], value: Any) -> str:
    """What to write instead, where the value shows what was meant."""
    if "an integer" in ways and isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        return f"; write {int(value)}"
    if "a string" in ways and isinstance(value, bool | int | float):
        return "; put it in quotes"
    if not isinstance(value, str):
        return ""
    if "true or false" in ways and value.lower() in ("yes", "on", "no", "off"):
        return f"; write {'true' if value.lower() in ('yes', 'on') else 'false'}"
    number = {"an integer", "a number"} & set(ways) and isinstance(scalar(value), int | float)
    return "; numbers stand without quotes" if number else ""
