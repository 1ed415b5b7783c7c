"""Part of the data room: the demonstration set made of Tux Paint's stamps, captioned pictures that Debian carries."""

import re
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import PIL.Image
from tqdm import tqdm

from mmlm.data.forms import Record, pick, presence, split_of, write_forms
from mmlm.data.report import Report
from mmlm.errors import InputError
from mmlm.media import load_image
from mmlm.sample import Image

PACKAGE = "tuxpaint-stamps-default"
_INSTALLED = Path("/usr/share/tuxpaint/stamps")
_SIDE, _QUALITY = 256, 88
_KIND = "What kind of thing is this?"
_WORDS = {
    "animals": "animal",
    "clothes": "clothing",
    "food": "food",
    "hobbies": "hobby",
    "household": "household",
    "medical": "medicine",
    "military": "military",
    "naturalforces": "nature",
    "people": "person",
    "plants": "plant",
    "seasonal": "holiday",
    "space": "space",
    "sports": "sport",
    "symbols": "symbol",
    "town": "town",
    "vehicles": "vehicle",
}
# In the package's tar: pictures, captions, and sounds that are not in another language (X_desc_fr.ogg).
_WANTED = re.compile(r"\./usr/share/tuxpaint/stamps/.*(\.png|\.svg|\.txt|(?<!_desc_[a-z]{2})\.ogg)")
_THING = re.compile(r"(An?) ((?:[a-z-]+ ){0,2}[a-z-]+)\.?")
_LICENCE = f"""The pictures, captions and sounds in this folder come from the Debian package {PACKAGE}
(Tux Paint's stamps). They belong to their authors and are distributed under the GNU General Public License, version 2.
Copyright 2002-2022 by Bill Kendrick and the contributors to Tux Paint; see the package's copyright file.
Whoever passes this folder on passes on these terms with it.

The pictures were laid on white, scaled to at most {_SIDE} pixels a side and written as JPEG; the questions were derived
from captions and folder names.
"""


def stamps(out: Path, source: Path | None = None) -> Report:
    """Make the set in the folder `out` from `source`: the package's `stamps` folder or its .deb (or as installed).

    A stamp is a PNG with a text file beside it, whose first line is the English caption. Raises InputError where the
    source is not there or holds no stamp.
    """
    with _folder(source) as folder:
        found, plain = _stamps_in(folder)
        (out / "images").mkdir(parents=True, exist_ok=True)
        (out / "audio").mkdir(exist_ok=True)
        pictures = [_stamp(folder, file, out) for file in tqdm(found, desc="stamps", disable=None, leave=False)]
        drawn = sum(not f.with_suffix(".png").is_file() for f in folder.rglob("*.svg"))
    (out / "LICENSE.txt").write_text(_LICENCE, encoding="utf-8", newline="\n")
    rows = write_forms(out, "stamps", pictures, {"qa": _kinds(pictures), "pope": _presence(pictures)})
    notes = (f"left out: {plain} pictures without a caption, {drawn} that are drawn as SVG only", f"written to {out}")
    return Report("stamps", rows, notes)


@contextmanager
def _folder(source: Path | None) -> Iterator[Path]:
    """The folder of stamps: given, installed, or unpacked from a .deb for as long as it is needed."""
    if source is not None and source.is_file():
        with tempfile.TemporaryDirectory() as unpacked:
            _unpack(source, Path(unpacked))
            yield Path(unpacked) / "usr/share/tuxpaint/stamps"
        return
    start = source or _INSTALLED
    for folder in (start / "usr/share/tuxpaint/stamps", start / "stamps", start):
        if folder.is_dir():
            yield folder
            return
    raise InputError(
        f"the stamps are not in {start}; install the package {PACKAGE}, or fetch it with `apt-get download {PACKAGE}` "
        f"and give the .deb file as source"
    )


def _unpack(package: Path, to: Path) -> None:
    """The stamps of a .deb, and nothing else of it, below the folder `to`."""
    tool = shutil.which("dpkg-deb")
    if tool is None:
        raise InputError(
            f"{package}: dpkg-deb, which opens .deb files, is not installed; unpack it and give the folder"
        )
    with tempfile.TemporaryFile() as log:
        command = [tool, "--fsys-tarfile", str(package.resolve())]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:
            try:
                with tarfile.open(fileobj=process.stdout, mode="r|", bufsize=1 << 20) as archive:
                    every = tqdm(archive, desc="unpacking", unit=" files", disable=None, leave=False)
                    wanted = (m for m in every if m.isreg() and _WANTED.fullmatch(m.name))
                    archive.extractall(to, members=wanted, filter="data")
            except tarfile.TarError as e:
                raise InputError(
                    f"{package}: expected a Debian package, got a file that dpkg-deb cannot open: {e}"
                ) from e
            finally:
                process.kill()


def _stamps_in(folder: Path) -> tuple[list[Path], int]:
    """The pictures that have a caption, in the order of their paths, and the number of those that have none."""
    every = sorted(folder.rglob("*.png"))
    found = [p for p in every if p.with_suffix(".txt").is_file()]
    if not found:
        raise InputError(
            f"{folder}: expected pictures (.png) with captions (.txt) beside them, "
            f"got {len(every)} pictures and no caption"
        )
    return found, len(every) - len(found)


def _stamp(folder: Path, file: Path, out: Path) -> Record:
    """Write one stamp's picture and sounds; its row."""
    way = file.relative_to(folder).with_suffix("").parts
    id = "__".join(way)
    picture = load_image(Image(file))
    picture.thumbnail((_SIDE, _SIDE), PIL.Image.Resampling.LANCZOS)
    picture.save(out / f"images/{id}.jpg", "JPEG", quality=_QUALITY)
    caption = file.with_suffix(".txt").read_bytes().partition(b"\n")[0].decode("utf-8", "replace").strip()
    if not caption or "\N{REPLACEMENT CHARACTER}" in caption:
        raise InputError(f"{file.with_suffix('.txt')}:1: expected a caption in UTF-8, got {caption!r}")
    row: Record = {
        "id": id,
        "image": f"images/{id}.jpg",
        "caption": caption,
        "category": way[0],
        "path": [p for p in way[:-1] if p != "cartoon"],
        "style": "cartoon" if "cartoon" in way[:-1] else "photo_or_drawing",
    }
    for kind, ending in (("speech", "_desc"), ("sound", "")):
        if (sound := file.with_name(f"{file.stem}{ending}.ogg")).is_file():
            row[kind] = f"audio/{id}.{kind}.ogg"
            (out / row[kind]).write_bytes(sound.read_bytes())
    return {**row, "split": split_of(id)}


def _kinds(pictures: list[Record]) -> list[Record]:
    """A question for each picture, whose answer is the word for its category."""
    words = {c: _WORDS.get(c, c) for c in sorted({p["category"] for p in pictures})}
    return [
        {
            "id": f"{p['id']}/kind",
            "of": p["id"],
            "image": p["image"],
            "question": _KIND,
            "answer": words[p["category"]],
            "choices": list(words.values()),
            "category": p["category"],
        }
        for p in pictures
    ]


def _presence(pictures: list[Record]) -> list[Record]:
    """Two questions for each picture whose caption is "A thing.": about that thing (yes) and about another's (no).

    The other comes from a category of its own, or, harder, from another folder of the same category. It never shares a
    word with the caption, so that no is true.
    """
    things: list[tuple[Record, str]] = []
    for p in pictures:
        if match := _THING.fullmatch(p["caption"]):
            things.append((p, f"{match[1].lower()} {match[2]}"))
    words = {thing: _words(thing) for _, thing in things}
    asked = []
    for p, thing in things:
        strange = [t for t in things if not words[thing] & words[t[1]]]
        far = [t for t in strange if t[0]["category"] != p["category"]]
        near = [t for t in strange if t[0]["category"] == p["category"] and t[0]["path"][1:2] != p["path"][1:2]]
        hard = bool(near) and pick(f"{p['id']}/hard", (True, False))
        if others := near if hard else far:
            level = "adversarial" if hard else "random"
            asked.append(presence(p, thing, True, level))
            asked.append(presence(p, pick(f"{p['id']}/other", others)[1], False, level))
    return asked


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.lower())) - {"a", "an"}
