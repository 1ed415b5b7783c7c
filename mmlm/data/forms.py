"""Part of the data room: the files that every demonstration set consists of, whoever made its pictures.

    NAME.jsonl            all pictures: id, image, caption, category, path, style, split (and speech, sound)
    {split}.jsonl         captions as conversations (reader `messages`)
    captions-{split}.json captions in COCO's form (reader `captions`)
    qa-{split}.jsonl      questions with choices (reader `qa`)
    pope-{split}.jsonl    yes-or-no questions about what is there, as many of each (reader `qa`)
    speech-{split}.jsonl  spoken captions, where there are any (reader `qa`)

What is written depends on the pictures and their ids only: two runs give the same bytes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from mmlm.data.report import Row

T = TypeVar("T")
Record = dict[str, Any]
SPLITS = ("train", "val", "test")
_REQUEST = "What is in the picture?"
_HEARD = "What is said?"


def number(key: str) -> int:
    """A number that looks drawn at random and depends on `key` alone."""
    return int(hashlib.sha1(key.encode(), usedforsecurity=False).hexdigest(), 16)


def pick(key: str, options: Sequence[T]) -> T:
    """One of `options`, by `key`."""
    return options[number(key) % len(options)]


def split_of(id: str) -> str:
    """The split of an id: 15 in 100 test, 10 in 100 val, the others train."""
    place = number(id) % 100
    return "test" if place < 15 else "val" if place < 25 else "train"


def write_forms(
    out: Path, name: str, pictures: Sequence[Record], questions: Mapping[str, Sequence[Record]]
) -> tuple[Row, ...]:
    """Write every file of a set; `questions` holds, by file ("qa", "pope"), rows that name their picture by `of`.

    Returns a row per split: how many of everything it has.
    """
    rows = []
    splits = {p["id"]: p["split"] for p in pictures}
    for split in SPLITS:
        mine = [p for p in pictures if p["split"] == split]
        write_lines(out / f"{split}.jsonl", [_conversation(p) for p in mine])
        write_json(out / f"captions-{split}.json", _coco(name, split, mine))
        counts = {}
        for form, asked in questions.items():
            chosen = [{k: v for k, v in q.items() if k != "of"} for q in asked if splits[q["of"]] == split]
            write_lines(out / f"{form}-{split}.jsonl", chosen)
            counts[form] = len(chosen)
        spoken = [p for p in mine if "speech" in p]
        if any("speech" in p for p in pictures):
            write_lines(out / f"speech-{split}.jsonl", [_spoken(p) for p in spoken])
        rows.append(Row({"split": split, "pictures": len(mine), **counts, "spoken": len(spoken)}))
    # The list of all pictures comes last: where it is, the set is whole.
    write_lines(out / f"{name}.jsonl", pictures)
    return tuple(rows)


def write_lines(path: Path, rows: Sequence[Record]) -> None:
    """Rows as JSON Lines."""
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), encoding="utf-8", newline="\n")


def write_json(path: Path, value: Record) -> None:
    """One JSON object."""
    path.write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8", newline="\n")


def presence(picture: Record, thing: str, there: bool, level: str) -> Record:
    """The question whether `thing` is in a picture."""
    answer = "yes" if there else "no"
    return {
        "id": f"{picture['id']}/{answer}",
        "of": picture["id"],
        "image": picture["image"],
        "question": f"Is there {thing} in the picture?",
        "answer": answer,
        "choices": ["yes", "no"],
        "category": level,
    }


def _conversation(picture: Record) -> Record:
    asked = [{"type": "image", "path": picture["image"]}, {"type": "text", "text": "\n" + _REQUEST}]
    said = {"role": "assistant", "content": picture["caption"]}
    return {"id": picture["id"], "messages": [{"role": "user", "content": asked}, said]}


def _coco(name: str, split: str, pictures: Sequence[Record]) -> Record:
    return {
        "info": {"description": f"{name}, {split}"},
        "images": [{"id": p["id"], "file_name": p["image"]} for p in pictures],
        "annotations": [{"id": p["id"], "image_id": p["id"], "caption": p["caption"]} for p in pictures],
    }


def _spoken(picture: Record) -> Record:
    return {"id": picture["id"], "audio": picture["speech"], "question": _HEARD, "answer": picture["caption"]}
