"""Part of the readers: where the files of a data set are, and what lies where in an uncompressed tar.

Nothing is unpacked to disk: a member is a span of bytes in its archive, whatever path its name spells.
"""

import mmap
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from mmlm.errors import InputError

_BLOCK = 512
_BRACE = re.compile(r"\{([^{}]*)\}")
_RANGE = re.compile(r"(\d+)\.\.(\d+)")
_MANY = 100_000
_TEXT = 1 << 20  # the most bytes a long name or an extended header may have


def expand(path: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """The files that `path` means: itself, the files of a folder, or those of a pattern such as part-{000..011}.tar."""
    if path.is_dir():
        found = sorted(p for p in path.iterdir() if p.suffix in suffixes and p.is_file())
        if not found:
            raise InputError(f"{path}: the folder holds no {' or '.join(suffixes)} file")
        return found
    found = [Path(p) for p in _braces(str(path))]
    for file in found:
        if not file.is_file():
            raise InputError(
                f"{file} does not exist; expected a {' or '.join(suffixes)} file, a folder of them, "
                "or a pattern with {000..011}"
            )
    return found


def _braces(text: str) -> list[str]:
    """The texts that a pattern with {000..011} or {a,b} stands for."""
    out = [text]
    while any(_BRACE.search(t) for t in out):
        out = list(islice((t for pattern in out for t in _once(pattern)), _MANY + 1))
        if len(out) > _MANY:
            raise InputError(f"{text}: the pattern stands for more than {_MANY} files")
    return out


def _once(pattern: str) -> Iterator[str]:
    """`pattern` with its first brace replaced by each of its values."""
    brace = _BRACE.search(pattern)
    if brace is None:
        yield pattern
        return
    head, tail = pattern[: brace.start()], pattern[brace.end() :]
    if span := _RANGE.fullmatch(brace[1]):
        first, last = int(span[1]), int(span[2])
        if last < first or last - first > _MANY:
            raise InputError(f"{pattern}: {brace[0]} should count upwards, over at most {_MANY} files")
        for n in range(first, last + 1):
            yield f"{head}{n:0{len(span[1])}d}{tail}"
    else:
        for value in brace[1].split(","):
            yield f"{head}{value}{tail}"


@dataclass(frozen=True, slots=True)
class Member:
    """A file in a tar: its name, and where its bytes are. `plain` is False for links, devices and sparse files."""

    name: str
    start: int
    size: int
    plain: bool


def members(path: Path) -> Iterator[Member]:
    """The members of an uncompressed tar (ustar, GNU and pax headers), folders left out.

    Raises InputError for what is not a tar, for a damaged header and for an archive that was cut short.
    """
    try:
        with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            yield from _walk(path, data)
    except (OSError, ValueError) as e:  # mmap refuses an empty file with ValueError
        if isinstance(e, InputError):
            raise
        raise InputError(f"{path}: cannot be read as a tar: {e}") from e


def _walk(path: Path, data: mmap.mmap) -> Iterator[Member]:
    at, count, long_name, long_size, ended = 0, 0, "", -1, False
    while at + _BLOCK <= len(data):
        head = data[at : at + _BLOCK]
        if not head.strip(b"\0"):  # the end, or the seam of archives that were joined
            at, ended = at + _BLOCK, True
            continue
        ended = False
        size, start = _size(path, head, count), at + _BLOCK
        kind = head[156:157]
        if kind not in b"xgLK" and long_size >= 0:
            size = long_size
        at = start + -(-size // _BLOCK) * _BLOCK
        if start + size > len(data):
            raise InputError(
                f"{path}: cut short: member {count} should end at byte {start + size}, the file ends at {len(data)}"
            )
        if kind in b"xL":
            if size > _TEXT:
                raise InputError(f"{path}: member {count} has a name of {size} bytes; expected at most {_TEXT}")
            body = data[start : start + size]
            long_name, long_size = _pax(path, body, count) if kind == b"x" else (_string(body), long_size)
        elif kind not in b"gK":
            if kind != b"5":
                yield Member(long_name or _name(head), start, size, kind in {b"\0", b"0", b"7"})
            long_name, long_size, count = "", -1, count + 1
    if not ended:
        raise InputError(f"{path}: cut short after {count} members: the empty block that ends an archive is missing")


def _size(path: Path, head: bytes, count: int) -> int:
    """The size in a header whose checksum is right."""
    try:
        claimed = int(head[148:156].strip(b" \0") or b"x", 8)
        if head[124] & 0x80:
            size = int.from_bytes(head[125:136], "big") if head[124] == 0x80 else -1
        else:
            size = int(head[124:136].strip(b" \0") or b"0", 8)
    except ValueError:
        claimed = size = -1
    if claimed != sum(head) - sum(head[148:156]) + 8 * ord(" ") or size < 0:
        hint = (
            "; compressed archives are not read, since their members cannot be reached one by one" if not count else ""
        )
        raise InputError(f"{path}: not a tar, or damaged: no valid header for member {count}{hint}")
    return size


def _name(head: bytes) -> str:
    """The name in a header, with the prefix that ustar (not GNU) puts before it."""
    name = _string(head[:100])
    prefix = _string(head[345:500]) if head[257:263] == b"ustar\0" else ""
    return f"{prefix}/{name}" if prefix else name


def _string(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "backslashreplace")


def _pax(path: Path, body: bytes, count: int) -> tuple[str, int]:
    """The name and the size in an extended header of records "LENGTH KEY=VALUE\\n"; "" and -1 where it says nothing."""
    name, size, at = "", -1, 0
    try:
        while at < len(body):
            digits = body[at : body.index(b" ", at)]
            end = at + int(digits)
            key, equals, value = body[at + len(digits) + 1 : end - 1].partition(b"=")
            if not equals or end > len(body) or int(digits) <= len(digits):
                raise ValueError("a record of the wrong length")
            if key == b"path":
                name = _string(value)
            elif key == b"size":
                size = int(value)
            at = end
    except ValueError as e:
        raise InputError(f"{path}: damaged: the extended header before member {count}: {e}") from e
    return name, size
