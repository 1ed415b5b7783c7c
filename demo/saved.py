"""Part of the demo: a conversation as a zip file of chat messages and pictures, which `reader: messages` trains on, and back."""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Collection
from pathlib import Path

from mmlm.errors import InputError
from mmlm.media import digest
from mmlm.sample import Item, Modality, Sample
from mmlm.training.readers.messages import Messages
from mmlm.training.readers.source import MODALITIES, SUFFIXES

from .archive import unpack
from .history import Talk, record, talk_of
from .uploads import Limits, bare, checked, plain_name

NAME = "conversation.jsonl"
_MEDIA = "media"
_MOST = 200  # files of a conversation


def save(talk: Talk, system: str, folder: Path) -> Path:
    """A zip file in a new folder below `folder`: one record of messages, and the items beside it. Questions that have no
    answer are left out. Raises InputError where there is no answer at all, or where an item is gone."""
    sample = record(talk, system)
    out = Path(tempfile.mkdtemp(prefix="saved-", dir=folder)) / "conversation.zip"
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as box:
        files = {id(i): _put(box, i) for i in sample.items}
        messages = [{"role": t.role, "content": [_part(p, files) for p in t.parts if p != ""]} for t in sample.turns]
        box.writestr(NAME, json.dumps({"id": "conversation", "messages": messages}, ensure_ascii=False) + "\n")
    return out


def _put(box: zipfile.ZipFile, item: Item) -> str:
    """Put the file of an item into the box, once; gives its name there."""
    if not isinstance(item.source, Path) or not item.source.is_file():
        raise InputError("a file of this conversation is no longer here, so that it cannot be saved")
    name = f"{_MEDIA}/{digest(item)[:16]}{item.source.suffix.lower()}"
    if name not in box.namelist():
        box.write(item.source, name)
    return name


def _part(part: str | Item, files: dict[int, str]) -> dict[str, str | bool]:
    if isinstance(part, str):
        return {"type": "text", "text": part}
    told = {"caption": part.caption} if part.caption else {}
    return {"type": part.modality, "path": files[id(part)], **told, **({"beside": True} if part.beside else {})}


def load(archive: Path, folder: Path, takes: Collection[Modality], limits: Limits) -> tuple[str, Talk]:
    """The system text and the exchanges of a file that `save` wrote. Every item is decoded once.

    Raises InputError, with no path in it, for anything else.
    """
    name = plain_name(archive.name)
    home = Path(tempfile.mkdtemp(prefix="loaded-", dir=folder)).resolve()
    try:
        unpack(archive, home, {".jsonl", *(f".{s}" for s in SUFFIXES)}, files=_MOST)
        if not (home / NAME).is_file():
            raise InputError(f"{name} is no saved conversation: there is no {NAME} in it")
        system, talk = talk_of(_only(home / NAME))
        for exchange in talk:
            for turn, kinds in ((exchange.asked, takes), (exchange.said, MODALITIES)):
                for item in turn.items if turn else ():
                    if not isinstance(item.source, Path):
                        raise InputError(f"{name}: expected items as files, came one inside the text")
                    checked(item.source, home, kinds, limits)
    except InputError as e:
        shutil.rmtree(home, ignore_errors=True)
        raise InputError(bare(str(e), home)) from e
    return system, talk


def _only(path: Path) -> Sample:
    """The one record of a file."""
    reader = Messages(path)
    if len(reader) != 1:
        raise InputError(f"{NAME} holds {len(reader)} conversations; expected one")
    return reader[0]
