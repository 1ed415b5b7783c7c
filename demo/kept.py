"""Part of the demo: files that are kept for one person, for as long as anything of theirs points at them."""

import shutil
import tempfile
import weakref
from pathlib import Path

STAY = 24 * 3600  # seconds for which what a page keeps of a person stays


class Kept:
    """A new folder below `home`. It is removed, with all in it, by `remove`, or as soon as nobody holds this any more: Gradio
    drops what it keeps of a person without a word where there are too many of them."""

    def __init__(self, home: Path, prefix: str) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=prefix, dir=home))
        self.remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
