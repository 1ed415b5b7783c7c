"""Evaluation room: CHAIR, how much of what a caption mentions is not in the picture (Rohrbach et al., "Object
Hallucination in Image Captioning", 2018).

CHAIRi = mentions of absent objects / mentions; CHAIRs = captions that mention an absent object / captions; recall =
present objects mentioned / objects present. Which words name an object is said by a table that the caller gives: a
text file with one object a line, its name first and then its synonyms, `dog, puppy, hot dog bun`. None is carried here.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mmlm.errors import InputError
from mmlm.evaluation.metrics.tokens import VERSION as TOKENS
from mmlm.evaluation.metrics.tokens import tokenise
from mmlm.evaluation.statistics import Measure, mean, ratio

VERSION = f"chair-1+{TOKENS}"
_IRREGULAR = {
    "men": "man", "women": "woman", "people": "person", "persons": "person", "children": "child", "mice": "mouse",
    "geese": "goose", "feet": "foot", "teeth": "tooth", "knives": "knife", "wives": "wife", "wolves": "wolf",
    "calves": "calf", "leaves": "leaf", "loaves": "loaf", "scarves": "scarf", "shelves": "shelf", "halves": "half",
    "oxen": "ox", "buses": "bus", "busses": "bus",
}  # fmt: skip
_ENDINGS = (("ies", "y"), ("sses", "ss"), ("shes", "sh"), ("ches", "ch"), ("xes", "x"), ("zzes", "zz"), ("oes", "o"))
_UNCHANGED = ("ss", "us", "is")


@dataclass(frozen=True, slots=True)
class Objects:
    """Which phrases, in the singular and as tokens, name which object."""

    names: dict[tuple[str, ...], str]

    @classmethod
    def of(cls, lists: Iterable[Sequence[str]]) -> "Objects":
        """From one list of phrases per object, its name first. InputError where a phrase names two objects."""
        names: dict[tuple[str, ...], str] = {}
        for phrases in lists:
            for phrase in phrases:
                words = _singulars(phrase)
                if not words or names.setdefault(words, phrases[0]) != phrases[0]:
                    other = f"it names {names[words]!r} too" if words else "it holds no word"
                    raise InputError(f"the object {phrases[0]!r}: {phrase!r} cannot name it; {other}")
        if not names:
            raise InputError("a table of objects needs at least one object, and none came")
        return cls(names)

    @classmethod
    def load(cls, path: Path) -> "Objects":
        """From a file with one object a line, `name, synonym, synonym`; blank lines and those after # are passed over."""
        try:
            lines = path.read_text(encoding="utf-8-sig").splitlines()
        except (OSError, UnicodeDecodeError) as e:
            raise InputError(f"{path}: expected a text file of objects, a line each: {type(e).__name__}") from e
        kept = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
        try:
            return cls.of([[p.strip() for p in line.split(",") if p.strip()] or [line] for line in kept])
        except InputError as e:
            raise InputError(f"{path}: {e}") from e

    def mentions(self, text: str) -> list[str]:
        """The objects that a caption names, in order and as often as it does; of phrases that begin at one word the
        longest is taken, so that "hot dog" is no dog."""
        words, found, i = _singulars(text), [], 0
        longest = max(map(len, self.names))
        while i < len(words):
            sizes = range(min(longest, len(words) - i), 0, -1)
            size = next((n for n in sizes if words[i : i + n] in self.names), 0)
            if size:
                found.append(self.names[words[i : i + size]])
            i += size or 1
        return found


def counts(mentioned: Sequence[str], present: Iterable[str]) -> dict[str, float]:
    """One caption's part of the table: `mentioned` in order, with repetitions; `present` in the picture."""
    there = set(present)
    absent = sum(m not in there for m in mentioned)
    return {
        "mentions": float(len(mentioned)),
        "absent": float(absent),
        "CHAIRs": float(absent > 0),
        "found": float(len(there & set(mentioned))),
        "present": float(len(there)),
    }


# Where nothing was mentioned nothing was made up: 0, and the recall beside it says so.
MEASURES = (
    Measure("CHAIRi", lambda s: ratio(s["absent"], s["mentions"])),
    mean("CHAIRs"),
    Measure("recall", lambda s: ratio(s["found"], s["present"])),
)


def singular(word: str) -> str:
    """The singular of an English noun by its ending; what does not end like a plural is returned as it is."""
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    for ending, one in _ENDINGS:
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word[: -len(ending)] + one
    return word[:-1] if word.endswith("s") and len(word) > 3 and not word.endswith(_UNCHANGED) else word


def _singulars(text: str) -> tuple[str, ...]:
    return tuple(singular(w) for w in tokenise(text))
