"""Part of the data room: the records of one or several data sets as they are read through, with their pictures by print."""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import accumulate
from multiprocessing import get_context
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from mmlm.data.likeness import Prints, look
from mmlm.errors import InputError
from mmlm.media import digest
from mmlm.sample import Image, Sample

if TYPE_CHECKING:
    from mmlm.interfaces import Reader

Looks = Callable[[Iterable[Image]], Iterable[Prints | str | None]]  # the print of each picture, as `look` gives it
_AT_ONCE = 256


@dataclass(slots=True)
class Gathered:
    """Readers in a row, and the distinct pictures of what was read (those of one print are one picture)."""

    sets: Sequence[tuple[str, "Reader"]]
    prints: list[Prints] = field(default_factory=list)
    names: list[str] = field(default_factory=list)  # of a picture, where it was met first
    holders: list[list[int]] = field(default_factory=list)  # of a picture: the records that show it
    pictures: dict[int, list[int]] = field(default_factory=dict)  # of a record
    bad: list[str] = field(default_factory=list)
    flat: int = 0
    usable: int = 0
    _known: dict[str, int | None] = field(default_factory=dict)  # path or content hash -> picture
    _numbers: dict[bytes, int] = field(default_factory=dict)  # print -> picture

    @property
    def records(self) -> int:
        return sum(len(reader) for _, reader in self.sets)

    def where(self, record: int) -> str:
        """The place of a record for messages."""
        ends = list(accumulate(len(reader) for _, reader in self.sets))
        i = bisect_right(ends, record)
        return self.sets[i][1].where(record - (ends[i - 1] if i else 0))

    def read(self, looks: Looks) -> Iterator[tuple[int, Sample]]:
        """Every record that can be read, by number, once its pictures are taken in."""
        first = 0
        for name, reader in self.sets:
            with tqdm(total=len(reader), desc=name, unit=" records", disable=None, leave=False) as bar:
                for start in range(0, len(reader), _AT_ONCE):
                    numbers = range(start, min(start + _AT_ONCE, len(reader)))
                    block = {first + i: sample for i in numbers if (sample := self._sample(reader, i)) is not None}
                    self._take(block, looks)
                    yield from block.items()
                    bar.update(len(numbers))
            first += len(reader)

    def _sample(self, reader: "Reader", i: int) -> Sample | None:
        try:
            sample = reader[i]
        except InputError as e:
            self.bad.append(str(e))
            return None
        self.usable += 1
        return sample

    def _take(self, block: dict[int, Sample], looks: Looks) -> None:
        """The pictures of some records: those that are new are decoded."""
        keys: dict[int, list[str]] = {}
        new: dict[str, Image] = {}
        for record, sample in block.items():
            for item in sample.items:
                if isinstance(item, Image) and (key := self._key(item, sample)) is not None:
                    keys.setdefault(record, []).append(key)
                    if key not in self._known:
                        new[key] = item
        for (key, item), found in zip(new.items(), looks(new.values()), strict=True):
            self._known[key] = self._number(item, found)
        for record, mine in keys.items():
            for number in dict.fromkeys(n for k in mine if (n := self._known[k]) is not None):
                self.holders[number].append(record)
                self.pictures.setdefault(record, []).append(number)

    def _key(self, item: Image, sample: Sample) -> str | None:
        try:
            return str(item.source) if isinstance(item.source, Path) else digest(item)
        except InputError as e:
            self.bad.append(f"{sample.origin}: {e}")
            return None

    def _number(self, item: Image, found: Prints | str | None) -> int | None:
        """The number of a picture by its print; None where it cannot be compared."""
        if isinstance(found, str):
            self.bad.append(found)
            return None
        if found is None:
            self.flat += 1
            return None
        number = self._numbers.setdefault(found.tobytes(), len(self.prints))
        if number == len(self.prints):
            self.prints.append(found)
            self.names.append(str(item.source) if isinstance(item.source, Path) else digest(item))
            self.holders.append([])
        return number


@contextmanager
def decoding(workers: int) -> Iterator[Looks]:
    """How pictures get their prints: in this process, or in `workers` others."""
    if not workers:
        yield lambda items: map(look, items)
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        yield lambda items: pool.map(look, items, chunksize=8)
