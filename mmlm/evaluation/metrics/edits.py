"""Evaluation room: how far one sequence is from another - the Levenshtein distance, and a way that has it.

A column of the table of distances is kept as two numbers, whose bits say where it goes up and where it goes down.
G. Myers, "A fast bit-vector algorithm for approximate string matching" (1999); H. Hyyro, "A bit-vector algorithm for
computing Levenshtein and Damerau edit distances" (2003).
"""

from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass

Items = Sequence[Hashable]


@dataclass(frozen=True, slots=True)
class Edits:
    """What makes one sequence of another on a shortest way: items kept, exchanged, left out and put in."""

    hits: int
    substitutions: int
    deletions: int
    insertions: int

    @property
    def distance(self) -> int:
        """The number of edits."""
        return self.substitutions + self.deletions + self.insertions


def distance(reference: Items, said: Items) -> int:
    """The fewest exchanges, deletions and insertions of one item that make `said` of `reference`."""
    last = deque(_columns(reference, said), maxlen=1)
    up, down = last[0] if last else ((1 << len(reference)) - 1, 0)
    return len(said) + up.bit_count() - down.bit_count()


def edits(reference: Items, said: Items) -> Edits:
    """The edits of one shortest way. Shortest ways can differ in their hits, so the one taken is stated: a common
    beginning and a common end are kept; between them, from the end, an item is left out wherever that is shortest, put
    in where one item less on both sides would be further apart, and kept or exchanged otherwise."""
    begin = _shared(reference, said)
    reference, said = reference[begin:], said[begin:]
    end = _shared(reference[::-1], said[::-1])
    reference, said = reference[: len(reference) - end], said[: len(said) - end]
    columns = list(_columns(reference, said))
    i, j = len(reference), len(said)
    hits, substitutions, deletions, insertions = begin + end, 0, 0, 0
    while i and j:
        if columns[j - 1][0] >> (i - 1) & 1:
            deletions, i = deletions + 1, i - 1
        elif j > 1 and columns[j - 2][1] >> (i - 1) & 1:
            insertions, j = insertions + 1, j - 1
        else:
            i, j = i - 1, j - 1
            same = reference[i] == said[j]
            hits, substitutions = hits + same, substitutions + (not same)
    return Edits(hits, substitutions, deletions + i, insertions + j)


def _shared(a: Items, b: Items) -> int:
    """How many items both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def _columns(reference: Items, said: Items) -> Iterator[tuple[int, int]]:
    """After each item of `said`: bit i of the first number where reference[: i + 1] is one further away than
    reference[:i], of the second where it is one nearer."""
    places: dict[Hashable, int] = {}
    for i, item in enumerate(reference):
        places[item] = places.get(item, 0) | 1 << i
    full = (1 << len(reference)) - 1
    up, down = full, 0
    for item in said:
        here = places.get(item, 0)
        diagonal = (((here & up) + up) ^ up) | here | down
        right, left = (down | ~(diagonal | up)) << 1 | 1, (diagonal & up) << 1
        up, down = (left | ~(diagonal | right)) & full, right & diagonal & full
        yield up, down
