"""Part of the data room: texts that stand in two sets, found by the phrases they share.

Lines are compared, as words in lower case without punctuation. Of a line with `size` words or more every run of that many
is a phrase; a shorter one is a phrase as a whole, if it has at least `FEWEST` words. (T. Brown et al., "Language Models
are Few-Shot Learners", 2020, appendix C, compare runs of 8 to 13 words in this way.) A phrase of more than a tenth of all
records, and of more than ten, is the form of the set and says nothing of a record.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from mmlm.sample import Sample

SIZE, FEWEST = 13, 4
_COMMON, _SHARE = 10, 10
_IDEOGRAPHS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff"  # written without spaces, so each is taken for a word
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\W_{_IDEOGRAPHS}]+")


def phrases(sample: Sample, size: int) -> Iterator[str]:
    """The phrases of all turns of a sample."""
    for turn in sample.turns:
        for line in turn.text.splitlines():
            words = _WORD.findall(line.casefold())
            if len(words) >= FEWEST:
                for start in range(max(1, len(words) - size + 1)):
                    yield " ".join(words[start : start + size])


@dataclass(slots=True)
class Phrases:
    """The phrases of one set, by record, and those of them that records of another set hold."""

    size: int
    numbers: dict[str, int] = field(default_factory=dict)
    records: dict[int, frozenset[int]] = field(default_factory=dict)  # record here -> its phrases
    shared: dict[int, frozenset[int]] = field(default_factory=dict)  # record there -> the phrases it shares
    first: dict[int, int] = field(default_factory=dict)  # phrase -> the first record there that holds it

    def add(self, record: int, sample: Sample) -> None:
        """Take in a record of the set."""
        every = (self.numbers.setdefault(p, len(self.numbers)) for p in phrases(sample, self.size))
        if found := frozenset(every):
            self.records[record] = found

    def settle(self, total: int) -> int:
        """Leave out, once all `total` records are taken in, what is the form of the set; gives how many phrases."""
        counts = [0] * len(self.numbers)
        for found in self.records.values():
            for number in found:
                counts[number] += 1
        common = {n for n, count in enumerate(counts) if count > max(_COMMON, total / _SHARE)}
        left = {r: found - common for r, found in self.records.items()}
        self.records = {r: found for r, found in left.items() if found}
        self.numbers = {p: n for p, n in self.numbers.items() if n not in common}
        return len(common)

    def seek(self, record: int, sample: Sample) -> None:
        """Look for phrases of the set in a record of another."""
        found = frozenset(n for p in phrases(sample, self.size) if (n := self.numbers.get(p)) is not None)
        if found:
            self.shared[record] = found
            for number in found:
                self.first.setdefault(number, record)
