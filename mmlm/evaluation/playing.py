"""Evaluation room: the page beside a contact sheet, on which its sounds are played and its clips are seen to move."""

import html
import os
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import quote

from mmlm.errors import InputError
from mmlm.evaluation.sheet import Strip
from mmlm.sample import Image, Item, Modality

PAGE = "sheet.html"
_PLAYERS: dict[Modality, str] = {
    "image": "<img alt='' src='{}'>",
    "audio": "<audio controls preload=metadata src='{}'></audio>",
    "video": "<video controls loop muted preload=metadata src='{}'></video>",
}
_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 1080px; margin: 0 auto; padding: 24px 16px 64px; }
h2 { font-size: 1rem; margin: 32px 0 8px; overflow-wrap: anywhere; }
div { display: grid; grid-template-columns: repeat(auto-fill, minmax(220px, 1fr)); gap: 16px; }
figure { margin: 0; overflow-wrap: anywhere; font-size: 14px; }
img, video, audio { width: 100%; }
"""


def plays(strips: Sequence[Strip]) -> bool:
    """Whether a sheet holds anything that a picture alone does not show."""
    return any(item is not None and not isinstance(item, Image) for s in strips for item in s.items)


def page(strips: Sequence[Strip], columns: Sequence[str], file: Path) -> Path:
    """Write the page. It names the items where they lie, relative to itself, and holds none of them; what people and models
    said is text in it, never markup. Raises InputError where it cannot be written."""
    blocks = []
    for strip in strips:
        cells = [_cell(name, item, file.parent) for name, item in zip(columns, strip.items, strict=True)]
        blocks.append(f"<h2>{html.escape(strip.words)}</h2><div>{''.join(cells)}</div>")
    head = "<meta charset=utf-8><meta name=viewport content='width=device-width,initial-scale=1'>"
    whole = f"<!doctype html><html lang=en>{head}<title>Made on request</title><style>{_STYLE}</style>{''.join(blocks)}"
    try:
        file.write_text(f"{whole}</html>\n", encoding="utf-8")
    except OSError as e:
        raise InputError(f"{file} cannot be written: {e.strerror or e}") from e
    return file


def _cell(name: str, item: Item | None, home: Path) -> str:
    """One item with what it is called, and the way to its file, for coders that a browser does not know."""
    if item is None:
        told = "none"
    elif isinstance(item.source, Path):
        way = quote(Path(os.path.relpath(item.source, home)).as_posix())
        told = f"{_PLAYERS[item.modality].format(way)}<br><a href='{way}'>{html.escape(item.source.name)}</a>"
    else:
        told = "stands within the data, not in a file of its own"
    return f"<figure><figcaption>{html.escape(name)}</figcaption>{told}</figure>"
