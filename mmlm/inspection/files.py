"""Part of the inspection: single files of weights, records, or a picture."""

from pathlib import Path

from mmlm.errors import InputError
from mmlm.inspection.headers import header
from mmlm.inspection.models import PICKLES, sizes
from mmlm.inspection.report import Fact, Inspection
from mmlm.jsonfile import read_json
from mmlm.media import load_image
from mmlm.sample import Image
from mmlm.training.readers.source import SUFFIXES
from mmlm.training.readers.table import open_records

# What a record, or the whole file, must have for a reader to be worth trying.
_READERS = {
    "llava": ("conversations",),
    "messages": ("messages",),
    "qa": ("question", "answer"),
    "vqa": ("question", "question_id"),
    "captions": ("images", "annotations"),
}


def look_at_file(path: Path) -> Inspection:
    """A file by its ending. Raises InputError for one that cannot be described."""
    ending = path.suffix.lower()
    if ending == ".safetensors":
        return Inspection(path, "weights file", f"{path} is a file of weights.", sizes(header(path)))
    if ending in PICKLES:
        raise InputError(
            f"{path} looks like a pickle, which is never read; save the weights as .safetensors where they were made"
        )
    if SUFFIXES.get(ending.lstrip(".")) == "image":
        picture = load_image(Image(path))
        size = f"{picture.width} x {picture.height} pixels"
        return Inspection(path, "picture", f"{path} is a picture.", {"size": size})
    if ending in {".json", ".jsonl"}:
        return _look_at_records(path)
    raise InputError(
        f"{path} is no file that mmlm can describe; expected .safetensors, .json, .jsonl or a picture. "
        f"`mmlm data check` looks at other data, with a config that names their reader"
    )


def _look_at_records(path: Path) -> Inspection:
    """A file of records: how many, which fields the first one has, which readers may fit."""
    facts: dict[str, Fact]
    try:
        table = open_records(path)
        keys = list(table[0].object())
        facts = {"form": "a JSON list" if table.lines is None else "JSON Lines", "records": len(table)}
    except InputError as no_records:
        try:
            whole = read_json(path)
        except InputError:
            raise no_records from None
        keys = list(whole)
        lists = {k: f"{len(v):,} records" for k, v in whole.items() if isinstance(v, list)}
        facts = {"form": "one JSON object" + (" of lists" if lists else ""), "lists": lists}
    fits = [name for name, needs in _READERS.items() if all(n in keys for n in needs)]
    facts |= {"fields": ", ".join(map(str, keys[:20])), "readers that may fit": fits}
    return Inspection(path, "data file", f"{path} is a file of data.", facts)
