"""Evaluation room: what a system is asked to make - requests with the items that people would say, out of data for training."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mmlm.config import DataConfig
from mmlm.data.naming import block, checked
from mmlm.data.opening import open_reader
from mmlm.errors import InputError
from mmlm.evaluation.tasks.caption import captioned
from mmlm.evaluation.tasks.records import media
from mmlm.evaluation.tasks.task import asked
from mmlm.media import digest, load_audio, load_image, load_video
from mmlm.sample import Audio, Image, Item, Modality, Sample
from mmlm.training.readers.captions import meant
from mmlm.training.readers.field import Field
from mmlm.training.readers.prompt import Prompt, references
from mmlm.training.readers.source import MODALITIES, SUFFIXES, Folders
from mmlm.training.readers.table import open_records

_RATE = 8000  # Hz; a sound is read once only to see that it can be


@dataclass(frozen=True, slots=True)
class Request:
    """A conversation that ends with a user turn, the same with what the assistant says in the data, and of that the first
    item of each modality. `questions` are asked about the items, each with its answers; `meta` names groups. A request with
    a `fault` (its item is not there) is never put."""

    id: str
    sample: Sample
    whole: Sample
    items: Mapping[Modality, Item]
    captions: tuple[str, ...]
    questions: tuple[tuple[str, tuple[str, ...]], ...] = ()
    meta: Mapping[str, str] = field(default_factory=dict)
    fault: str = ""

    @property
    def caption(self) -> str:
        """What was asked for, in words."""
        return self.captions[0]


def read(path: Path, reader: str | None, images: str | None, split: str | None, prompt: str) -> list[Request]:
    """The requests of a data set. Without `reader` those of captions in the forms that the task `caption` reads, each picture
    asked for by its first one in the words of `prompt`; with it (a name, or a block in braces with options) each turn of the
    assistant's that holds items. Raises InputError where there is none."""
    captions = Prompt(prompt, once="caption")
    found = list(_turns(path, reader, images) if reader else _captioned(path, images, split, captions))
    if not any(r.items or r.fault for r in found):
        raise InputError(
            f"{path}: holds no item that is asked for; expected captions of pictures, or with reader=NAME samples in which "
            f"the assistant says items (as {{reader: captions, says: item}} gives)"
        )
    return found


def _captioned(path: Path, images: str | None, split: str | None, prompt: Prompt) -> Iterator[Request]:
    folders = Folders.beside(path, images, None, None)
    records = _records(path) if path.suffix == ".jsonl" else {}
    for id, name, said in captioned(path, split):
        record = records.get(id)
        if record is not None and not name.present:
            name = next((record[m] for m in MODALITIES if record[m].present), name)
        items, fault = media(folders, name, _kind(name))
        captions = tuple(c.strip() for c in said)
        turns = [t for item in items for t in meant(prompt, item, captions[0])]
        words = Sample(tuple(turns[:1]), id, name.where) if turns else asked(prompt([], caption=captions[0]), id, "")
        yield Request(
            id,
            words,
            Sample(tuple(turns), id, name.where),
            {i.modality: i for t in turns for i in t.items},
            captions,
            () if record is None else _asked(record["question"].value, [*references(record)]),
            {} if record is None else _meta(record["category"].value),
            fault,
        )


def _kind(name: Field) -> Modality:
    """What a file is by its ending: a picture where that says nothing else."""
    ending = name.value.rpartition(".")[2].lower() if isinstance(name.value, str) else ""
    return SUFFIXES.get(ending, "image")


def _records(path: Path) -> dict[str, Field]:
    """The records of JSON Lines by their ids."""
    table = open_records(path)
    return {r["id"].identity(): r for r in (table[i] for i in range(len(table)))}


def _turns(path: Path, reader: str, images: str | None) -> Iterator[Request]:
    """Each turn of the assistant's that holds items, with what came before it."""
    options = block(reader) if reader.lstrip().startswith("{") else {"reader": reader}
    name = options.pop("reader", None)
    if not isinstance(name, str):
        raise InputError(f"reader={reader}: expected the name of a reader, or {{reader: NAME, option: ...}}")
    if images is not None:
        options["images"] = images
    data = DataConfig(reader=name, path=str(path), ratio=1.0, options=checked("readers", name, options))
    source: Any = open_reader(data)
    for i in range(len(source)):
        try:
            sample: Sample = source[i]
        except InputError as e:
            nothing = asked((), source.where(i), source.where(i))
            yield Request(source.where(i), nothing, nothing, {}, ("",), fault=str(e))
            continue
        record = source.record(i) if hasattr(source, "record") else {}
        spoken = [k for k, t in enumerate(sample.turns) if t.role == "assistant" and t.items]
        for n, k in enumerate(spoken):
            id = sample.id if len(spoken) == 1 else f"{sample.id}/{n}"
            before, here = sample.turns[:k], sample.turns[k]
            items: dict[Modality, Item] = {}
            for item in here.items:
                items.setdefault(item.modality, item)
            text = next((t.text.strip() for t in reversed(before) if t.role == "user"), "")
            caption = next((i.caption for i in here.items if i.caption), text)
            yield Request(
                id,
                Sample(before, id, sample.origin),
                Sample((*before, here), id, sample.origin),
                items,
                (caption,),
                _asked(record.get("question"), record.get("answers")),
                _meta(record.get("category")),
            )


def _asked(question: object, answers: object) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """The question of a record, where it has one with answers."""
    if not isinstance(question, str) or not isinstance(answers, Sequence) or not answers:
        return ()
    return ((question, tuple(str(a) for a in answers)),)


def _meta(category: object) -> dict[str, str]:
    return {"category": category} if isinstance(category, str) else {}


def content(item: Item) -> str:
    """The digest of an item that can be read whole. Raises InputError for one that cannot."""
    if isinstance(item, Image):
        load_image(item)
    elif isinstance(item, Audio):
        load_audio(item, _RATE)
    else:
        load_video(item, 1)
    return digest(item)
