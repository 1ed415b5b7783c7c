"""What is wrong with a config: each mistake with its file, line and key, all of them told at once."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import NoReturn

from mmlm.errors import InputError

COMMAND_LINE = "command line"
Path = tuple[str | int, ...]


@dataclass(frozen=True, slots=True, order=True)
class Spot:
    """Where a value was written: a file and a line from 1 on; line 0 where lines mean nothing (the command line)."""

    file: str
    line: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}" if self.line else self.file


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake: where it was written, at which key, and what was expected and came."""

    spot: Spot
    path: Path
    text: str

    def __str__(self) -> str:
        key = f"{dotted(self.path)}: " if self.path else ""
        return f"{self.spot}: {key}{self.text}"


def dotted(path: Iterable[str | int]) -> str:
    """A key path as overrides write it: stages.0.batch."""
    return ".".join(map(str, path))


def fail(problems: Iterable[Problem]) -> NoReturn:
    """Raise one InputError that tells all problems, file by file in the order they came up, sorted by line."""
    listed = list(dict.fromkeys(problems))
    files = list(dict.fromkeys(p.spot.file for p in listed))
    listed.sort(key=lambda p: (p.spot.file == COMMAND_LINE, files.index(p.spot.file), p.spot.line))
    raise InputError("\n".join(map(str, listed)))


def nearest(word: str, choices: Iterable[str]) -> list[str]:
    """The choice that `word` was probably meant to be, or the two best where they are about equally near."""
    if len(word) > 100:  # no slip of the pen, and slow to compare
        return []
    scored = sorted(((_likeness(word, c), c) for c in dict.fromkeys(choices)), key=lambda s: -s[0])
    found = [(score, c) for score, c in scored if score >= (0.5 if len(word) <= 3 else 0.6)]
    return [c for score, c in found[:2] if score >= found[0][0] - 0.05]


def _likeness(word: str, choice: str) -> float:
    """From 0 (nothing in common) to 1 (the same but for case and dashes)."""
    a, b = (s.casefold().replace("-", "_") for s in (word, choice))
    if a == b:
        return 1.0
    if len(a) > 2 and b.endswith(f".{a}"):
        return 0.95
    if sorted(a) == sorted(b):
        return 0.9  # two letters changed places, which a matcher of common runs rates low in short words
    return SequenceMatcher(None, a, b, autojunk=False).ratio()


def hint(word: str, choices: Iterable[str]) -> str:
    """The tail of a message: "; did you mean `x`?", or nothing where no choice is near."""
    near = nearest(word, choices)
    return f"; did you mean {' or '.join(f'`{c}`' for c in near)}?" if near else ""


def one_of(choices: Sequence[str]) -> str:
    """ "one of a, b, c", cut where the list is long."""
    shown = ", ".join(choices[:40]) + (", ..." if len(choices) > 40 else "")
    return f"one of {shown}" if len(choices) > 1 else (shown or "nothing")


def got(value: object) -> str:
    """A value as a message shows it: as YAML writes it, with its kind where that is the question."""
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case int() | float():
            return repr(value)
        case str():
            return f"{value if len(value) <= 60 else value[:57] + '...'!r} (a string)"
        case dict():
            return f"a mapping ({', '.join(str(k)[:20] for k in list(value)[:4])}{', ...' if len(value) > 4 else ''})"
        case list() | tuple():
            return f"a list of {len(value)}"
    return repr(value)
