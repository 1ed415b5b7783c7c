"""Part of the readers: from what a record says of its media to lazy items. Nothing is decoded or fetched here."""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from mmlm.errors import InputError
from mmlm.sample import ITEMS, Item, Modality
from mmlm.training.readers.field import Field

MODALITIES: tuple[Modality, ...] = get_args(Modality)
LIMIT = 256 << 20  # the most bytes one item may have where it stands inside a file of records
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://|data:|file:")
_SUFFIXES: dict[Modality, str] = {
    "image": "jpg jpeg png webp gif bmp tif tiff",
    "audio": "wav ogg flac mp3 m4a opus",
    "video": "mp4 webm mkv mov avi",
}
SUFFIXES: dict[str, Modality] = {s: m for m, suffixes in _SUFFIXES.items() for s in suffixes.split()}


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the media of a data set lie, one folder per modality. No path of a record can lead out of it."""

    roots: Mapping[Modality, Path]

    @classmethod
    def beside(cls, file: Path, images: str | None, videos: str | None, audios: str | None) -> "Folders":
        """The folders that the options name, relative to the folder of `file`; without an option, that folder itself
        (or the one that `images` names)."""
        home = file.parent
        image = home / Path(images).expanduser() if images is not None else home
        roots: dict[Modality, Path] = {
            "image": image,
            "video": home / Path(videos).expanduser() if videos is not None else image,
            "audio": home / Path(audios).expanduser() if audios is not None else image,
        }
        for modality, root in roots.items():
            if not root.is_dir():
                raise InputError(
                    f"{file}: the folder of its {modality} files, {root}, does not exist; "
                    f"a relative `{modality}s` is taken from the folder of the data file"
                )
        return cls({m: r.resolve() for m, r in roots.items()})

    def item(self, field: Field, modality: Modality) -> Item:
        """The file that `field` names. URLs, absolute paths and ways out of the folder are refused."""
        text = field.text()
        if _SCHEME.match(text):
            raise field.refuse(f"a path below {self.roots[modality]} (nothing is fetched: download it first)")
        if "\0" in text:
            raise field.refuse("a path without the character NUL")
        root, path = self.roots[modality], Path(text)
        if path.is_absolute() or ".." in path.parts:
            raise field.refuse(f"a path below {root}, relative to it and without '..'")
        try:
            found = (root / path).resolve()
            inside, there = found.is_relative_to(root), found.is_file()
        except (OSError, RuntimeError) as e:  # a name too long, links in a circle, no permission
            raise field.refuse(f"a path below {root} that can be followed") from e
        if not inside:
            raise field.refuse(f"a path that stays below {root}, which a link in it does not")
        if not there:
            raise field.refuse(f"a file that exists below {root}")
        return ITEMS[modality](found)


def embedded(field: Field, modality: Modality) -> Item:
    """The item inside a data URI, `data:image/png;base64,...`."""
    head, comma, body = field.text().partition(",")
    if not comma or not re.fullmatch(rf"data:{modality}/[\w.+-]+;base64", head):
        raise field.refuse(f"a data URI, data:{modality}/...;base64,... (nothing is fetched)")
    return encoded(Field(field.where, field.name, body), modality)


def encoded(field: Field, modality: Modality) -> Item:
    """The item inside a base64 string."""
    body = field.text()
    if len(body) * 3 // 4 > LIMIT:
        raise field.refuse(f"at most {LIMIT} bytes")
    try:
        return ITEMS[modality](base64.b64decode(body, validate=True))
    except (binascii.Error, ValueError) as e:
        raise field.refuse("base64") from e


def listed(record: Field, modality: Modality) -> list[Field]:
    """What a record lists under `image` or `images` (`video`, `audio` alike): nothing, one or several."""
    one, many = record[modality], record[f"{modality}s"]
    if one.present and many.present:
        raise many.refuse(f"either {modality!r} or '{modality}s', not both")
    found = many if many.present else one
    if not found.present:
        return []
    fields = found.elements() if isinstance(found.value, list) else [found]
    return [f["path"] if isinstance(f.value, dict) else f for f in fields]
