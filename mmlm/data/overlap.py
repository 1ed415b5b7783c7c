"""Part of the data room: what of one set stands in another - the pictures by likeness, the texts by shared phrases."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mmlm.data.gathered import Gathered, decoding
from mmlm.data.likeness import FREQUENCIES, MARGIN, STEPS, Alike
from mmlm.data.naming import named
from mmlm.data.phrases import FEWEST, SIZE, Phrases
from mmlm.data.report import Report, Row
from mmlm.errors import InputError

_SHOWN = 10
_NONE: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class Shared:
    """A record of EVAL that stands in TRAIN, and where: `kind` says whether one record there has its picture and a text
    of it, or a picture or a text alone. `bits` is how far the pictures are apart (of 64), `text` the share of its
    phrases that stand anywhere in TRAIN, and `phrase` one of them."""

    kind: str
    eval: str
    train: str
    eval_picture: str = ""
    train_picture: str = ""
    bits: int | None = None
    text: float = 0.0
    phrase: str = ""


@dataclass(frozen=True, slots=True)
class Overlap:
    """The counts, and every record that stands in both, the surest first."""

    report: Report
    shared: Sequence[Shared]

    def table(self) -> str:
        """The counts as text, with the surest records."""
        lines = [self.report.table()]
        for s in self.shared[:_SHOWN]:
            apart = "" if s.bits is None else f", {s.bits} bits apart: {s.eval_picture} = {s.train_picture}"
            said = f", {s.text:.0%} of its text: {s.phrase}" if s.text else ""
            lines.append(f"  {s.kind}: {s.eval} in {s.train}{apart}{said}")
        if len(self.shared) > _SHOWN:
            lines.append(f"  and {len(self.shared) - _SHOWN} more (--out FILE lists all)")
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """The counts as plain values, with the surest records."""
        return {**self.report.as_json(), "surest": [asdict(s) for s in self.shared[:_SHOWN]]}

    def write(self, path: Path) -> None:
        """Every shared record, one line each."""
        lines = (json.dumps(asdict(s), ensure_ascii=False) + "\n" for s in self.shared)
        path.write_text("".join(lines), encoding="utf-8", errors="backslashreplace", newline="\n")


def overlap(train: str, evaluation: str, *, out: Path | None = None, size: int = SIZE, workers: int = 0) -> Overlap:
    """`mmlm data overlap`: which records of `evaluation` stand in `train`, both named as `mmlm.data.naming` says.

    `size` is the number of words of a phrase; `workers` processes decode pictures (0: this one does). Sounds and clips are
    not compared. Raises InputError where a set cannot be opened, or holds no record that can be read.
    """
    if size < FEWEST:
        raise InputError(f"expected phrases of at least {FEWEST} words, got {size}")
    there, here = Gathered(named(train)), Gathered(named(evaluation, "validation"))
    if out is not None:
        _writable(out)
    texts = Phrases(size)
    with decoding(workers) as looks:
        for record, sample in here.read(looks):
            texts.add(record, sample)
        form = texts.settle(here.records)
        _some(here, evaluation)
        for record, sample in there.read(looks):
            texts.seek(record, sample)
        _some(there, train)
    alike = Alike(here.prints).find(there.prints)
    shared = sorted(_shared(here, there, alike, texts), key=_sureness)
    found = Overlap(_report(f"what of {evaluation} stands in {train}", here, there, alike, texts, shared, form), shared)
    if out is not None:
        found.write(out)
    return found


def _writable(out: Path) -> None:
    """Raise InputError where the list could not be written: better now than after an hour."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.open("ab").close()
    except OSError as e:
        raise InputError(f"--out {out}: expected a file that can be written: {e.strerror}") from e


def _some(side: Gathered, name: str) -> None:
    """Raise InputError where not one record of a set could be read."""
    if not side.usable:
        raise InputError(f"{name}: none of its {side.records} records can be read: {side.bad[0]}")


def _shared(here: Gathered, there: Gathered, alike: dict[tuple[int, int], int], texts: Phrases) -> Iterator[Shared]:
    """The records of `here` whose picture or text stands `there`."""
    near: dict[int, list[tuple[int, int]]] = {}
    for (other, own), bits in alike.items():
        near.setdefault(own, []).append((bits, other))
    spelt = {number: phrase for phrase, number in texts.numbers.items() if number in texts.first}
    for record in sorted(here.pictures.keys() | texts.records.keys()):
        mine = texts.records.get(record, frozenset())
        known = sorted(mine & spelt.keys())
        said = (len(known) / len(mine), spelt[known[0]]) if known else (0.0, "")
        pairs = sorted((b, other, own) for own in here.pictures.get(record, ()) for b, other in near.get(own, ()))
        if pairs:
            every = ((b, o, i, r, mine & texts.shared.get(r, _NONE)) for b, o, i in pairs for r in there.holders[o])
            bits, other, own, place, both = next(
                (e for e in every if e[4]), (*pairs[0], there.holders[pairs[0][1]][0], _NONE)
            )
            names = here.names[own], there.names[other]
            said = (said[0], spelt[min(both)]) if both else said
            kind = "picture and text" if both else "picture"
            yield Shared(kind, here.where(record), there.where(place), *names, bits, *said)
        elif known:
            place = Counter(texts.first[n] for n in known).most_common(1)[0][0]
            yield Shared("text", here.where(record), there.where(place), text=said[0], phrase=said[1])


def _sureness(shared: Shared) -> tuple[int, int, float]:
    """Pictures with their texts first, then pictures, then texts; each from the nearest on."""
    kinds = ("picture and text", "picture", "text")
    return kinds.index(shared.kind), 64 if shared.bits is None else shared.bits, -shared.text


def _report(
    title: str,
    here: Gathered,
    there: Gathered,
    alike: dict[tuple[int, int], int],
    texts: Phrases,
    shared: Sequence[Shared],
    form: int,
) -> Report:
    """The counts."""
    said = sum(any(n in texts.first for n in found) for found in texts.records.values())
    both, able = sum(s.kind == "picture and text" for s in shared), here.pictures.keys() & texts.records.keys()
    rows = [
        _row("pictures", len(there.prints), len(here.prints), len({own for _, own in alike})),
        _row("texts", there.usable, len(texts.records), said),
        _row("picture and text", there.usable, len(able), both),
        _row("records", there.usable, here.usable, len(shared), (*here.bad, *there.bad)),
    ]
    notes = [
        f"pictures: alike where at most {FREQUENCIES} of 64 bits of a DCT hash and {STEPS} of 64 of a difference hash are "
        f"not the same, of the whole or without a margin of {MARGIN:.0%}; mirrored and turned ones are not found",
        f"texts: lines that share {texts.size} words in a row, or shorter ones that are the same, from {FEWEST} words on",
    ]
    if form:
        notes.append(f"{form} phrases stand in more than a tenth of EVAL's records, and were taken for its form")
    if here.flat or there.flat:
        notes.append(f"{here.flat} pictures of EVAL and {there.flat} of TRAIN show nothing and were not compared")
    return Report(title, tuple(rows), tuple(notes))


def _row(what: str, train: int, evaluation: int, found: int, bad: tuple[str, ...] = ()) -> Row:
    share = found / evaluation if evaluation else None
    return Row({"what": what, "in TRAIN": train, "in EVAL": evaluation, "found": found, "share": share}, bad)
