"""Part of the inspection: JSON files and the headers of safetensors files, read without torch and without trust."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmlm.errors import InputError
from mmlm.jsonfile import once

_MOST_HEADER = 100_000_000  # bytes of a safetensors header: the format's own limit
_BITS = {
    **dict.fromkeys(("F64", "I64", "U64"), 64),
    **dict.fromkeys(("F32", "I32", "U32"), 32),
    **dict.fromkeys(("F16", "BF16", "I16", "U16"), 16),
    **dict.fromkeys(("F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL"), 8),
}


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor as the header of its file describes it; its values are the bytes `begin` to `end` after the header."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def values(self) -> int:
        """How many numbers it holds."""
        return math.prod(self.shape)


def header(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name: eight bytes of length, JSON, then the values, which are not read.

    Raises InputError where the header does not describe the file exactly (a name twice, a gap, a tensor past the end).
    """
    try:
        found, rest = _raw(path)
        tensors = {name: _tensor(name, about) for name, about in found.items() if name != "__metadata__"}
        at = 0
        for name, tensor in sorted(tensors.items(), key=lambda pair: (pair[1].begin, pair[1].end)):
            if tensor.begin != at:
                raise ValueError(f"{name!r} begins at byte {tensor.begin}, but the tensors before it end at {at}")
            at = tensor.end
        if at != rest:
            raise ValueError(f"its tensors take {at} bytes, but {rest} follow the header")
    except OSError as e:
        raise InputError(f"{path} cannot be read: {e.strerror}") from e
    except (ValueError, RecursionError) as e:
        raise InputError(
            f"{path} is not a readable safetensors file: {e}; pickles and damaged files are not read"
        ) from e
    return tensors


def _raw(path: Path) -> tuple[dict[str, Any], int]:
    """The JSON of a header, and how many bytes follow it. Raises ValueError with what is wrong."""
    size = path.stat().st_size
    with path.open("rb") as f:
        length = int.from_bytes(f.read(8), "little")
        if size < 8 or length > min(_MOST_HEADER, size - 8):
            raise ValueError(f"it has {size} bytes and announces a header of {length}")
        found = json.loads(f.read(length).decode("utf-8"), object_pairs_hook=once)
    if not isinstance(found, dict):
        raise ValueError("its header is no JSON object")
    return found, size - 8 - length


def _tensor(name: str, about: Any) -> Tensor:
    """One entry of a header. Raises ValueError where it is none, or its type and shape do not make its bytes."""

    def counts(value: Any) -> bool:
        return isinstance(value, list) and all(type(n) is int and 0 <= n < 2**63 for n in value)

    match about:
        case {"dtype": str(dtype), "shape": list(shape), "data_offsets": [begin, end]} if counts([*shape, begin, end]):
            tensor = Tensor(dtype, tuple(shape), begin, end)
        case _:
            raise ValueError(f"{name!r} has no dtype, shape and data_offsets")
    bits = _BITS.get(dtype)  # a type that is not listed is counted, but its size is not checked
    if end < begin or (bits is not None and tensor.values * bits != (end - begin) * 8):
        raise ValueError(f"{name!r} has the shape {shape} of {dtype}, but {end - begin} bytes")
    return tensor


def headers(files: Sequence[Path]) -> dict[str, Tensor]:
    """The tensors of several files; one that stands in two of them is an InputError."""
    found: dict[str, Tensor] = {}
    for file in files:
        own = header(file)
        if twice := found.keys() & own.keys():
            raise InputError(f"{file}: the tensor {min(twice)!r} stands in another file of the folder too; remove one")
        found |= own
    return found
