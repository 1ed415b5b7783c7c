"""Part of the demo: dropped files, archives and tables become one file of questions, as `reader: qa` reads it."""

import csv
import json
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mmlm.errors import InputError
from mmlm.training.readers.source import MODALITIES, SUFFIXES

from .archive import unpack
from .uploads import bare, plain_name

MOST = 500  # questions
_TABLES = (".csv", ".jsonl")
_FILES = (*MODALITIES, "file")  # columns that may name a file


def gather(files: Sequence[Path], question: str, folder: Path) -> Path:
    """The questions that dropped files make, as a file of JSON Lines in a new folder below `folder`, with the files.

    They are `question` for each picture (sound, clip), loose or in a zip file; or those of a CSV or JSON Lines file, whose
    rows name files among the dropped ones. Raises InputError, with no path in it, for files that are none of these, and for
    more than MOST questions.
    """
    if not files:
        raise InputError(
            "there is nothing to ask about: drop pictures, a zip file of pictures, or a table of questions"
        )
    tables = [f for f in files if f.suffix.lower() in _TABLES]
    if len(tables) > 1:
        raise InputError("there are several tables of questions; expected one")
    home = Path(tempfile.mkdtemp(prefix="batch-", dir=folder)).resolve()
    try:
        media = _media([f for f in files if f not in tables], home)
        rows = _rows(tables[0], question, media) if tables else _each(media, question)
        if len(rows) > MOST:
            raise InputError(f"{len(rows)} questions are too many at once; expected at most {MOST}")
    except InputError as e:
        shutil.rmtree(home, ignore_errors=True)
        raise InputError(bare(str(e), home)) from e
    path = home / "questions.jsonl"
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8")
    return path


def _media(files: Sequence[Path], home: Path) -> dict[str, str]:
    """Loose files and those of archives, now below `home`: what a table may call them, and where they lie there."""
    found: dict[str, str] = {}
    for file in files:
        if file.suffix.lower() == ".zip":
            root = _free(home / file.stem)
            inside = unpack(file, root, {f".{s}" for s in SUFFIXES}, files=MOST)
        elif file.suffix.lower().removeprefix(".") in SUFFIXES:
            root, inside = home, [Path(shutil.copyfile(file, _free(home / file.name)))]
        else:
            raise InputError(f"{plain_name(file.name)} is no picture, sound, clip, zip file or table of questions")
        found |= {p.relative_to(root).as_posix(): p.relative_to(home).as_posix() for p in inside}
    return found


def _free(path: Path) -> Path:
    """`path`, or with a number where that is taken: what was dropped may hold one name in several places."""
    numbers = iter(range(2, 1 << 30))
    found = path
    while found.exists():
        found = path.with_stem(f"{path.stem}-{next(numbers)}")
    return found


def _each(media: Mapping[str, str], question: str) -> list[dict[str, str]]:
    """The same question about every file."""
    if not media:
        raise InputError("there is no picture, sound or clip among these files")
    if not question.strip():
        raise InputError("write the question that is asked about each of these files")
    return [_row(name, question, name, at) for name, at in media.items()]


def _row(id: str, question: str, name: str, at: str = "") -> dict[str, str]:
    """A record as the reader `qa` wants it, with the name that the person gave its file."""
    item: dict[str, str] = {SUFFIXES[at.rpartition(".")[2].lower()]: at} if at else {}
    return {"id": id, **item, "question": question, "file": name}


def _rows(table: Path, question: str, media: Mapping[str, str]) -> list[dict[str, str]]:
    """The rows of a table, each with its file among those that were dropped. Columns: `question`, `image` (`audio`, `video`,
    `file`), `id`; where there is no question in a row, it asks the common one."""
    name = plain_name(table.name)
    known = {Path(n).name: at for n, at in media.items()} | dict(media)
    made: list[dict[str, str]] = []
    for number, row in enumerate(_read(table, name), start=1):
        if not made:
            _columns(row, name, bool(question.strip()), bool(media))
        called = next((row[k] for k in _FILES if row.get(k)), "")
        asked = row.get("question") or question
        if not asked.strip():
            raise InputError(f"{name}, row {number}: there is no question")
        at = known.get(called) or known.get(Path(called).name, "") if called else ""
        if called and not at:
            raise InputError(f"{name}, row {number}: {plain_name(called)} is not among the dropped files")
        made.append(_row(row.get("id") or str(number), asked, called, at))
    if not made:
        raise InputError(f"{name} holds no row")
    if len({r["id"] for r in made}) < len(made):
        made = [r | {"id": f"{i}: {r['id']}"} for i, r in enumerate(made, start=1)]
    return made


def _columns(row: Mapping[str, str], name: str, asked: bool, media: bool) -> None:
    """Raise InputError where the first row of a table says nothing of what it should: the question, where none is asked of
    all, or its file, where files were dropped."""
    found = ", ".join(plain_name(k) for k in list(row)[:8]) or "none"
    if not asked and "question" not in row:
        raise InputError(f"{name}: expected a column question, or the question that is asked in each row; came {found}")
    if media and not any(k in row for k in _FILES):
        raise InputError(f"{name}: expected a column that names the files, image, audio, video or file; came {found}")


def _read(table: Path, name: str) -> Iterator[dict[str, str]]:
    """The rows of a CSV or JSON Lines file, their values as text."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as f:
            lines = csv.DictReader(f) if table.suffix.lower() == ".csv" else map(json.loads, filter(str.strip, f))
            for number, row in enumerate(lines, start=1):
                if number > MOST:
                    raise InputError(f"{name} has more than {MOST} rows")
                if not isinstance(row, dict):
                    raise InputError(f"{name}, row {number}: expected an object")
                texts = {k: "" if v is None else v for k, v in row.items()}
                yield {str(k).strip(): str(v).strip() for k, v in texts.items() if isinstance(v, str | int | float)}
    except InputError:
        raise
    except (OSError, ValueError, csv.Error, RecursionError) as e:
        raise InputError(f"{name} cannot be read: expected a table of questions in UTF-8, CSV or JSON Lines") from e
