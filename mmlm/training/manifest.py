"""When a checkpoint is whole: its manifest, written last, lists every file with size and hash. Needs no torch."""

import hashlib
from pathlib import Path

from tqdm import tqdm

from mmlm.errors import InputError
from mmlm.jsonfile import read_json

FORMAT = 1
MANIFEST = "manifest.json"


def damage(path: Path) -> str | None:
    """What is wrong with a checkpoint folder, or None: every file is there, with the manifest's size and hash."""
    if not (path / MANIFEST).is_file():
        return f"{MANIFEST} is missing (it is written last)"
    try:
        manifest = read_json(path / MANIFEST)
    except InputError as e:
        return str(e)
    files = manifest.get("files")
    if manifest.get("format") != FORMAT or not isinstance(files, dict):
        return f"{MANIFEST} has format {manifest.get('format')!r}; this version reads {FORMAT}"
    for name, about in files.items():
        if Path(name).name != name or not isinstance(about, dict) or not (path / name).is_file():
            return f"{name} is missing"
        if (size := (path / name).stat().st_size) != about.get("bytes"):
            return f"{name} has {size} bytes, the manifest says {about.get('bytes')}"
        if digest(path / name) != about.get("sha256"):
            return f"{name} is not what was written (its hash differs)"
    return None


def digest(path: Path) -> str:
    """SHA-256 of a file, with a bar where it takes long and somebody looks."""
    found = hashlib.sha256()
    size = path.stat().st_size
    with path.open("rb") as f, tqdm(total=size, unit="B", unit_scale=True, delay=2, disable=None, leave=False) as bar:
        while block := f.read(1 << 22):
            found.update(block)
            bar.update(len(block))
    return found.hexdigest()
