"""Part of the data room: every record of a config's data is read and its media decoded, before any training."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tqdm import tqdm

from mmlm.config import DataConfig, StageConfig, SystemConfig
from mmlm.data.opening import open_reader
from mmlm.data.report import Report, Row
from mmlm.errors import InputError
from mmlm.media import load_audio, load_image, load_video
from mmlm.sample import Audio, Image, Item, Sample

if TYPE_CHECKING:
    from mmlm.interfaces import Reader

Measure = Callable[[Sample, StageConfig], tuple[int, int]]
_RATE = 16_000  # Hz; sounds are decoded to be looked at, at the rate that most encoders take
_AT_ONCE = 256


def check(config: SystemConfig, *, measure: Measure | None = None, length: int | None = None) -> Report:
    """Look at all data of all stages, validation included: each record is read, and each item decoded once.

    `measure` gives the tokens of a sample and how many of them are learnt (an InputError of its makes the record bad);
    with it, samples above `length` tokens (the stage's length, or the config's) are counted. Raises InputError where
    there is no data, or not one record of it can be used.
    """
    rows, seen = [], _Seen()
    for stage in config.stages:
        for use, sets in (("train", stage.data), ("validate", stage.validation)):
            for data in sets:
                limit = length or stage.length or config.length
                rows.append(_set(data, stage, use, measure, limit, seen))
    if not any(row.values["ok"] for row in rows):
        reasons = [reason for row in rows for reason in row.bad[:1]] or ["no stage names any data"]
        raise InputError(f"config {config.name!r}: none of its data can be used: {'; '.join(reasons)}")
    return Report(f"data of {config.name}", tuple(rows))


@dataclass(slots=True)
class _Seen:
    """What was decoded already: a picture asked about ten times is decoded once. None stands for "can be decoded"."""

    files: dict[str, str | None] = field(default_factory=dict)

    def fault(self, item: Item) -> str | None:
        """Why `item` cannot be decoded, or None."""
        key = str(item.source) if isinstance(item.source, os.PathLike) else None
        if key is not None and key in self.files:
            return self.files[key]
        fault = _fault(item)
        if key is not None:
            self.files[key] = fault
        return fault


@dataclass(frozen=True, slots=True)
class _Look:
    """What one record turned out to be."""

    id: str
    fault: str | None = None
    items: int = 0
    tokens: int = 0
    learned: int = 0


def _set(data: DataConfig, stage: StageConfig, use: str, measure: Measure | None, limit: int, seen: _Seen) -> Row:
    """The row of one data set."""
    values: dict[str, str | int | float | None] = {"stage": stage.name, "use": use, "data": data.path}
    values["reader"] = data.reader
    try:
        reader = open_reader(data)
    except InputError as e:
        return Row({**values, "records": 0, "ok": 0, "bad": 0, "items": 0, "learnt": None, "too long": None}, (str(e),))
    looks = list(_looks(reader, lambda i: _look(reader, i, stage, measure, seen), data.path))
    good = [look for look in looks if look.fault is None]
    tokens = sum(look.tokens for look in good)
    values |= {
        "records": len(looks),
        "ok": len(good),
        "bad": len(looks) - len(good),
        "items": sum(look.items for look in good),
        "learnt": sum(look.learned for look in good) / tokens if tokens else None,
        "too long": sum(look.tokens > limit for look in good) if measure else None,
    }
    twice = [id for id, n in Counter(look.id for look in looks if look.id).items() if n > 1]
    notes = (f"{len(twice)} ids stand more than once, such as {', '.join(twice[:3])}",) if twice else ()
    return Row(values, tuple(look.fault for look in looks if look.fault is not None), notes)


def _looks(reader: "Reader", look: Callable[[int], _Look], name: str) -> Iterator[_Look]:
    """All records in order, looked at by several threads (decoders run outside the interpreter's lock)."""
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=len(reader), desc=name, unit=" records", disable=None, leave=False) as bar,
    ):
        every = range(len(reader))
        for start in every[::_AT_ONCE]:
            for found in pool.map(look, every[start : start + _AT_ONCE]):
                bar.update()
                yield found


def _look(reader: "Reader", i: int, stage: StageConfig, measure: Measure | None, seen: _Seen) -> _Look:
    """One record, with the reason if it cannot be used."""
    id = ""
    try:
        sample = reader[i]
        id = str(reader.record(i).get("id", sample.id)) if hasattr(reader, "record") else sample.id
        for item in sample.items:
            if (fault := seen.fault(item)) is not None:
                return _Look(id, f"{sample.origin}: {fault}")
        tokens, learned = measure(sample, stage) if measure else (0, 0)
    except InputError as e:
        return _Look(id, str(e))
    return _Look(id, None, len(sample.items), tokens, learned)


def _fault(item: Item) -> str | None:
    """Decode an item; why it cannot be, or None."""
    try:
        if isinstance(item, Image):
            load_image(item)
        elif isinstance(item, Audio):
            load_audio(item, _RATE)
        else:
            load_video(item, 1)
    except InputError as e:
        return str(e)
    return None
