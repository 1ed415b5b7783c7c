"""The room where an item's bytes come from: opening, naming and hashing what was given."""

import hashlib
import io
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mmlm.errors import InputError
from mmlm.sample import Image, Item

_BLOCK = 1 << 20


def called(item: Item) -> str:
    """What messages call an item: its path, or its kind and size."""
    match item.source:
        case Path():
            return str(item.source)
        case bytes():
            return f"{item.modality} of {len(item.source)} bytes"
        case _:
            return f"{item.modality} array {list(item.source.shape)}"


def _checked(path: Path, limit: int) -> Path:
    """`path`, once it is known to be an ordinary file of at most `limit` bytes: a pipe or a device could hang a worker."""
    try:
        found = path.stat()
    except FileNotFoundError as e:
        raise InputError(f"{path}: there is no such file") from e
    except (OSError, ValueError) as e:
        raise InputError(f"{path}: the file cannot be reached ({type(e).__name__})") from e
    if not stat.S_ISREG(found.st_mode):
        raise InputError(f"{path}: expected a file, came a folder or a device")
    if not found.st_size:
        raise InputError(f"{path}: the file is empty")
    if found.st_size > limit:
        raise InputError(f"{path}: {found.st_size >> 20} MiB; expected at most {limit >> 20} MiB")
    return path


@contextmanager
def opened(item: Item, limit: int) -> Iterator[BinaryIO]:
    """The encoded bytes of `item` as a stream. Raises InputError where a file is missing, empty or above `limit` bytes."""
    if isinstance(item.source, bytes):
        if not item.source:
            raise InputError(f"{called(item)}: there is nothing in it")
        yield io.BytesIO(item.source)
        return
    if not isinstance(item.source, Path):
        raise InputError(f"{called(item)}: expected a path or encoded bytes, came a {type(item.source).__name__}")
    try:
        stream = _checked(item.source, limit).open("rb")
    except OSError as e:
        raise InputError(f"{item.source}: the file cannot be opened ({type(e).__name__})") from e
    with stream:
        yield stream


@lru_cache(maxsize=1 << 16)
def _of_file(path: str, size: int, modified: int) -> str:
    """The hash of a file; `size` and `modified` stand in the key so that a changed file is read again."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(item: Item) -> str:
    """The SHA-256 of what `item` shows or sounds: of the encoded bytes (a path and its bytes agree), or of an array
    with its type, shape and rate. A file is read once as long as its size and time stay the same."""
    match item.source:
        case Path():
            path = _checked(item.source, 1 << 62)
            try:
                found = path.stat()
                return _of_file(str(path.absolute()), found.st_size, found.st_mtime_ns)
            except OSError as e:
                raise InputError(f"{path}: the file cannot be read ({type(e).__name__})") from e
        case bytes():
            return hashlib.sha256(item.source).hexdigest()
        case _:
            rate = 0 if isinstance(item, Image) else item.rate
            known = hashlib.sha256(f"{item.source.dtype.str} {item.source.shape} {rate}".encode())
            known.update(np.ascontiguousarray(item.source).data)
            return known.hexdigest()
