"""Evaluation room: questions of presence made from any captioned pictures, in the three ways of POPE (Li et al.,
"Evaluating Object Hallucination in Large Vision-Language Models", 2023).

Each picture is asked about things that its captions name (yes) and as many that they do not (no): any of the others
(random), those that most pictures have (popular), or those that most often stand with the thing asked about (adversarial).
Captions are no annotation: what they do not name may be there all the same, so a few of the "no" are wrong.
"""

import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import PIL.Image
from tqdm import tqdm

from mmlm.data.forms import Record, number, write_lines
from mmlm.data.forms import presence as question
from mmlm.data.naming import named
from mmlm.data.report import Report, Row
from mmlm.data.scenes import article
from mmlm.errors import InputError
from mmlm.evaluation.metrics.chair import Objects, singular
from mmlm.evaluation.nouns import nouns, standing
from mmlm.media import digest, load_image
from mmlm.sample import Image

if TYPE_CHECKING:
    from mmlm.interfaces import Reader

FILE = "pope.jsonl"
LEVELS = ("random", "popular", "adversarial")
_SHOWN = 12
_ARTICLES = ("a ", "an ", "some ", "the ")  # a name of --words that begins so is asked about as it is


@dataclass(slots=True)
class Picture:
    """A picture with its captions, the things that they name, and those of them that are surely shown."""

    reader: "Reader"
    record: int
    captions: list[str] = field(default_factory=list)
    named: set[str] = field(default_factory=set)
    sure: list[str] = field(default_factory=list)


def presence(
    captions: str,
    out: Path,
    *,
    words: Path | None = None,
    limit: int = 500,
    each: int = 3,
    least: int = 5,
    seed: int = 0,
) -> Report:
    """`mmlm data presence`: write OUT/pope.jsonl and the pictures it asks about, for `mmlm eval --task pope --data OUT`.

    `captions` is named as `mmlm.data.naming` says. Things are those of `words` (a line each, `dog, puppy`), or else the
    nouns that captions of at least `least` pictures name by `mmlm.evaluation.nouns`' rule. `limit` pictures are drawn by
    `seed`, and at most `each` things of each are asked about. Raises InputError where nothing can be asked.
    """
    bad: list[str] = []
    pictures = _pictures(captions, bad)
    objects = _objects(pictures, words, least)
    _name(pictures, objects, certain=words is not None)
    counts = Counter(thing for p in pictures.values() for thing in p.named)
    beside = Counter((a, b) for p in pictures.values() for a in p.named for b in p.named if a != b)
    rows: list[Record] = []
    drawn = sorted((key for key, p in pictures.items() if p.sure), key=lambda key: number(f"{seed}/{key}"))
    asked = 0
    try:
        (out / "images").mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise InputError(f"{out}: expected a folder that can be written: {e.strerror}") from e
    for key in tqdm(drawn, desc="presence", total=min(limit, len(drawn)), disable=None, leave=False):
        if asked == limit:
            break
        picture = pictures[key]
        chosen = {level: _ask(level, picture, f"{seed}/{key}", each, counts, beside) for level in LEVELS}
        if not all(chosen.values()) or (name := _copy(picture, out, bad)) is None:
            continue
        rows += [q for level in LEVELS for q in _rows(name, level, chosen[level])]
        asked += 1
    if not rows:
        raise InputError(
            f"{captions}: no question can be made of {len(pictures)} pictures and {len(counts)} things; expected "
            f"captions that name at least two things of --words, or nouns that stand in --least {least} of them"
            + (f". The first fault: {bad[0]}" if bad else "")
        )
    write_lines(out / FILE, rows)
    return _report(captions, out, pictures, rows, asked, counts, words, bad, least)


def _pictures(captions: str, bad: list[str]) -> dict[str, Picture]:
    """The pictures of a captioned set with all that is said of each, by content."""
    found: dict[str, Picture] = {}
    for name, reader in named(captions):
        for i in tqdm(range(len(reader)), desc=name, unit=" records", disable=None, leave=False):
            try:
                key = digest(_one(reader, i))
            except InputError as e:
                bad.append(str(e))
                continue
            raw: Any = reader
            said = raw.record(i)["answers"] if hasattr(reader, "record") else []
            said = said or [t.text for t in reader[i].turns if t.role == "assistant"]
            picture = found.setdefault(key, Picture(reader, i))
            picture.captions += [s for s in said if s not in picture.captions]
    return found


def _one(reader: "Reader", i: int) -> Image:
    """The one picture of record i."""
    items = reader[i].items
    if len(items) != 1 or not isinstance(items[0], Image):
        raise InputError(f"{reader.where(i)}: expected one picture, got {len(items)} items")
    return items[0]


def _objects(pictures: Mapping[str, Picture], words: Path | None, least: int) -> Objects:
    """The things that can be asked about."""
    if words is not None:
        return Objects.load(words)
    every = nouns([p.captions for p in pictures.values()], least)
    found = {singular(n): n for n in reversed(every)}
    if len(found) < 2:
        raise InputError(
            f"expected at least two nouns that captions of {least} pictures name, got {len(found)} in {len(pictures)} "
            f"pictures; give the things with --words FILE, or a smaller --least"
        )
    return Objects.of([[noun] for noun in found.values()])


def _name(pictures: Mapping[str, Picture], objects: Objects, *, certain: bool) -> None:
    """Note what captions name. With things that somebody listed every mention is `certain`; of nouns that were found, only
    those that stand where a noun does are (an orange cat is no orange)."""
    for picture in pictures.values():
        every = [m for c in picture.captions for m in objects.mentions(c)]
        picture.named = set(every)
        there = (
            picture.named
            if certain
            else {m for c in picture.captions for n in standing(c) for m in objects.mentions(n)}
        )
        picture.sure = sorted(there)


def _ask(
    level: str,
    picture: Picture,
    key: str,
    each: int,
    counts: Mapping[str, int],
    beside: Mapping[tuple[str, str], int],
) -> list[tuple[str, str]]:
    """Pairs of a thing that is there and one that is not; the things there are the same at every level."""
    there = sorted(picture.sure, key=lambda thing: number(f"{key}/{thing}"))[:each]
    pairs: list[tuple[str, str]] = []
    for thing in there:
        ranks = {}
        for other in counts.keys() - picture.named - {absent for _, absent in pairs}:
            together = beside.get((thing, other), 0) if level == "adversarial" else 0
            frequency = 0 if level == "random" else counts[other]
            ranks[-together, -frequency, number(f"{key}/{level}/{other}")] = other
        if ranks:
            pairs.append((thing, ranks[min(ranks)]))
    return pairs


def _rows(image: str, level: str, pairs: Sequence[tuple[str, str]]) -> Iterator[Record]:
    """The questions of a picture at one level, as many to be answered with yes as with no."""
    for n, (there, absent) in enumerate(pairs):
        record = {"id": f"{Path(image).stem}/{level}/{n}", "image": image}
        for thing, answer in ((there, True), (absent, False)):
            noun = thing if thing.startswith(_ARTICLES) else f"{article(thing)} {thing}"
            row = question(record, noun, answer, level)
            yield {k: v for k, v in row.items() if k != "of"}


def _copy(picture: Picture, out: Path, bad: list[str]) -> str | None:
    """Put a picture into the folder, byte by byte, under a name made of its content; None where it cannot be read."""
    try:
        item = _one(picture.reader, picture.record)
        load_image(item)
        content = item.source.read_bytes() if isinstance(item.source, Path) else item.source
        if not isinstance(content, bytes):
            raise InputError(
                f"{picture.reader.where(picture.record)}: expected a picture in a file or encoded, got pixels"
            )
        with PIL.Image.open(io.BytesIO(content)) as opened:
            suffix = str(opened.format).lower()
        name = f"images/{digest(item)[:16]}.{suffix}"
    except InputError as e:
        bad.append(str(e))
        return None
    (out / name).write_bytes(content)
    return name


def _report(
    captions: str,
    out: Path,
    pictures: Mapping[str, Picture],
    rows: Sequence[Record],
    asked: int,
    counts: Counter[str],
    words: Path | None,
    bad: Sequence[str],
    least: int,
) -> Report:
    """How many questions of each kind there are, about what."""
    lines = []
    for level in LEVELS:
        mine = [r for r in rows if r["category"] == level]
        yes = sum(r["answer"] == "yes" for r in mine)
        things = len({r["question"] for r in mine})
        values = {"negatives": level, "pictures": asked, "questions": len(mine), "yes": yes, "no": len(mine) - yes}
        lines.append(Row({**values, "things": things}, tuple(bad) if level == LEVELS[0] else ()))
    origin = f"named in {words}" if words else f"nouns that captions of at least {least} pictures name"
    most = ", ".join(f"{thing} {n}" for thing, n in sorted(counts.items(), key=lambda c: (-c[1], c[0]))[:_SHOWN])
    notes = (
        f"{len(counts)} things, {origin}, in {len(pictures)} pictures; the most frequent: {most}",
        "what captions do not name may be there all the same: some of the no are wrong",
        f"ask them with `mmlm eval RUN --task pope --data {out / FILE}`",
    )
    return Report(f"questions of presence from {captions}", tuple(lines), notes)
