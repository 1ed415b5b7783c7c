"""Evaluation room: records of data files to questions, on top of the readers that training uses."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from mmlm.errors import InputError
from mmlm.evaluation.tasks.task import Question, asked, first_turn, readable
from mmlm.sample import Item, Modality, Sample
from mmlm.training.readers.field import Field
from mmlm.training.readers.source import MODALITIES, Folders
from mmlm.training.readers.table import open_tables


@runtime_checkable
class Records(Protocol):
    """What a task asks of a reader."""

    def __len__(self) -> int: ...
    def __getitem__(self, i: int) -> Sample: ...
    def record(self, i: int) -> dict[str, Any]: ...
    def where(self, i: int) -> str: ...


def read(reader: Records, i: int, *groups: str) -> Question:
    """Question i of a reader: its record must be whole; a picture that cannot be had is the question's fault."""
    record, where = reader.record(i), reader.where(i)
    text = Field(where, "question", record.get("question")).text()
    if not record["answers"]:
        raise InputError(f"{where}: answers: expected at least one answer to score against, got none")
    fault = ""
    try:
        sample = first_turn(reader[i])
    except InputError as e:
        fault, sample = str(e), asked([text], record["id"], where)
    choices = record.get("choices")
    return Question(
        id=record["id"],
        sample=sample,
        references=tuple(record["answers"]),
        picture=_pictured(record),
        choices=tuple(choices) if choices else None,
        meta={g: str(record[g]) for g in groups if isinstance(record.get(g), str)},
        fault=fault,
    )


def _pictured(record: Mapping[str, Any]) -> str:
    """What a record calls its pictures (or sounds, or clips); without any it stands for itself."""
    keys = [k for k in (*MODALITIES, *(m + "s" for m in MODALITIES), "image_id") if record.get(k) is not None]
    return json.dumps(record[keys[0]]) if keys else f"id {record['id']}"


def picture(folders: Folders, name: Field) -> tuple[list[Item], str]:
    """The picture that a field names, and why it cannot be had where it cannot."""
    return media(folders, name, "image")


def media(folders: Folders, name: Field, modality: Modality) -> tuple[list[Item], str]:
    """The item that a field names, and why it cannot be had where it cannot."""
    try:
        return [folders.item(name, modality)], ""
    except InputError as e:
        return [], str(e)


def entries(path: Path, what: str) -> Iterator[tuple[str, Field]]:
    """The members of a file that is one JSON object of objects."""
    try:
        found = json.loads(readable(path, what).read_text(encoding="utf-8-sig"))
    except (ValueError, RecursionError) as e:  # not UTF-8, not JSON, numbers of thousands of digits, deep nesting
        raise InputError(f"{path}: expected JSON, {what}; got: {e}") from e
    if not isinstance(found, dict) or not found:
        raise InputError(f"{path}: expected {what}; got a JSON {type(found).__name__} of {len(found) if found else 0}")
    for key, value in found.items():
        yield key, Field(f"{path}#{key}", "", value)


def listed(path: Path, what: str) -> list[Field]:
    """The questions of a file that is one JSON object with a list of them, 'data'."""
    tables, _ = open_tables(readable(path, f"{what}'s object with a list of questions, 'data'"), {"data": ()})
    table = tables.get("data", ())
    if not len(table):
        raise InputError(f"{path}: expected a list 'data' with at least one question, got none")
    return [table[i] for i in range(len(table))]


def meta(record: Field, *names: str) -> dict[str, str]:
    """Those of a record's fields, by name, that hold text: the groups it belongs to."""
    return {n: record[n].text() for n in names if isinstance(record[n].value, str)}
