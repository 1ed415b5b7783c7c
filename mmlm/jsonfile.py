"""Reading JSON that somebody else wrote: one object from a file, of reasonable size, with every key once."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from mmlm.errors import InputError

_MOST_JSON = 64 << 20


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of reasonable size, without a key twice. Raises InputError."""
    try:
        if (size := path.stat().st_size) > _MOST_JSON:
            raise InputError(f"{path} has {size:,} bytes; expected a JSON object of at most {_MOST_JSON:,}")
        found = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=once)
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror}") from e
    except InputError:
        raise
    except (ValueError, RecursionError) as e:
        raise InputError(f"{path} is not JSON: {e}") from e
    if not isinstance(found, dict):
        raise InputError(f"{path} holds a JSON {type(found).__name__}; expected an object")
    return found


def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object whose keys all stand once: where one stands twice, two readers may disagree on what the file says."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(k for k, n in Counter(k for k, _ in pairs).items() if n > 1)
        raise ValueError(f"the key {twice!r} stands twice in one object")
    return found
