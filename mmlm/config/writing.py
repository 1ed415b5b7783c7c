"""A config written back as YAML, so that reading it gives the same config again."""

import json
import os
import re
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mmlm.config.reading import scalar
from mmlm.config.schema import SystemConfig

_PLAIN = re.compile(r"[A-Za-z_./][A-Za-z0-9_./+-]*(?: [A-Za-z0-9_./+-]+)*")
_WIDTH = 100


def dump(config: SystemConfig, home: Path | None = None) -> str:
    """The resolved config as YAML: what was inherited and overridden stands in it, and every default. Weights that lie
    below `home`, the folder that the YAML is for, are named from there, so that the folder can be moved."""
    found = tree(config)
    return yaml(_at_home(found, os.path.abspath(home) + os.sep) if home else found)


def _at_home(value: Any, home: str) -> Any:
    match value:
        case dict():
            found = {k: _at_home(v, home) for k, v in value.items()}
            if isinstance(weights := found.get("weights"), str) and weights.startswith(home):
                found["weights"] = f"./{Path(weights.removeprefix(home)).as_posix()}"
            return found
        case list():
            return [_at_home(v, home) for v in value]
    return value


def yaml(value: dict[str, Any]) -> str:
    """Plain values as YAML 1.2, which is read back as exactly these."""
    return "\n".join(_block(value, 0)) + "\n" if value else "{}\n"


def tree(value: Any) -> Any:
    """A config as plain mappings and lists, options beside `type`, as a file says it."""
    match value:
        case BaseModel():
            found = {n: tree(getattr(value, n)) for n, f in type(value).model_fields.items() if n != "options"}
            defaults = {n: f.default for n, f in type(value).model_fields.items()}
            found = {n: v for n, v in found.items() if v is not None or defaults[n] is not None}
            if found.get("steps") is not None:
                del found["epochs"]  # the two exclude each other
            return {**found, **tree(getattr(value, "options", {}))}
        case dict():
            return {k: tree(v) for k, v in value.items()}
        case list() | tuple():
            return [tree(v) for v in value]
    return value


def _block(value: Any, depth: int) -> list[str]:
    """Lines of a mapping or list in block style; what is flat and fits on a line stands in flow style."""
    pad = "  " * depth
    lines: list[str] = []
    entries: list[tuple[str | None, Any]] = (
        list(value.items()) if isinstance(value, dict) else [(None, v) for v in value]
    )
    for key, item in entries:
        head = f"{pad}-" if key is None else f"{pad}{_text(key)}:"
        if _short(item, len(head)):
            lines.append(f"{head} {_flow(item)}")
        elif key is not None:
            lines += [head, *_block(item, depth + 1)]
        else:
            inner = _block(item, depth + 1)
            lines += [f"{head} {inner[0].lstrip()}", *inner[1:]]
    return lines


def _short(value: Any, used: int) -> bool:
    if not isinstance(value, dict | list) or not value:
        return True
    inner = value.values() if isinstance(value, dict) else value
    nested = any(isinstance(v, dict | list) for v in inner) and isinstance(value, dict)
    return not nested and used + len(_flow(value)) < _WIDTH


def _flow(value: Any) -> str:
    match value:
        case dict():
            return "{" + ", ".join(f"{_text(k)}: {_flow(v)}" for k, v in value.items()) + "}"
        case list():
            return "[" + ", ".join(map(_flow, value)) + "]"
        case str():
            return _text(value)
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case float():
            return {"inf": ".inf", "-inf": "-.inf", "nan": ".nan"}.get(repr(value), repr(value))
    return repr(value)


def _text(value: str) -> str:
    """A string, quoted wherever it could be taken for something else."""
    if _PLAIN.fullmatch(value) and scalar(value) == value:
        return value
    quoted = json.dumps(value, ensure_ascii=False)
    return "".join(c if c.isprintable() else f"\\U{ord(c):08x}" for c in quoted)
