"""Part of the inspection: what was found out, as text and as plain values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

Kind = Literal["run", "checkpoint", "model folder", "adapter folder", "weights file", "data file", "picture"]
Fact = str | int | Sequence[str] | Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Inspection:
    """What a path is: a sentence, named facts, and warnings."""

    path: Path
    kind: Kind
    sentence: str
    facts: Mapping[str, Fact]
    warnings: tuple[str, ...] = ()

    def table(self) -> str:
        """The sentence, and the facts below it with their names on the left."""
        width = max((len(n) for n in self.facts), default=0)
        lines = [self.sentence]
        for name, fact in self.facts.items():
            told = list(_told(fact)) or ["none"]
            lines += [f"  {(name if i == 0 else '').ljust(width)}  {line}" for i, line in enumerate(told)]
        lines += [f"  warning: {w}" for w in self.warnings]
        return "\n".join(map(_printable, lines))

    def as_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {
            "path": str(self.path),
            "kind": self.kind,
            "sentence": self.sentence,
            "facts": {name: _plain(fact) for name, fact in self.facts.items()},
            "warnings": list(self.warnings),
        }


def _told(fact: Fact) -> Iterator[str]:
    """A fact as lines."""
    match fact:
        case str():
            yield fact
        case int():
            yield f"{fact:,}"
        case Mapping():
            width = max((len(k) for k in fact), default=0)
            yield from (f"{k.ljust(width)}  {v}" for k, v in fact.items())
        case _:
            yield from fact


def _plain(fact: Fact) -> Any:
    if isinstance(fact, str | int):
        return fact
    return dict(fact) if isinstance(fact, Mapping) else list(fact)


def _printable(line: str) -> str:
    """A line without control characters: names in files come from strangers, and a terminal obeys what it is sent."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line)
