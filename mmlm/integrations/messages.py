"""Integrations room: the suites' pictures, clips, sounds and messages as items, turns and samples."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import numpy as np
import PIL.Image

from mmlm.errors import InputError
from mmlm.media import rgb
from mmlm.sample import ITEMS, Audio, Image, Item, Modality, Part, Role, Sample, Turn, Video
from mmlm.talk import gap

_SUFFIXES: dict[Modality, tuple[str, ...]] = {
    "image": (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".tif", ".tiff", ".webp"),
    "audio": (".wav", ".mp3", ".m4a", ".aac", ".flac", ".ogg", ".opus"),
}


def item_of(value: Any, modality: Modality | None = None) -> Item:
    """An item from what a suite hands over: a PIL picture, `UInt8 [H, W, 3]` or frames `[F, H, W, 3]`, encoded bytes with
    their modality, a path (whose suffix says what it is where `modality` does not; a clip where it is unknown), or a
    decoded sound `{"array", "sampling_rate"}`. Raises InputError for anything else."""
    match value:
        case PIL.Image.Image() if modality in (None, "image"):
            return Image(np.asarray(rgb(value)))
        case np.ndarray(ndim=3) if modality in (None, "image"):
            return Image(value)
        case np.ndarray(ndim=4) if modality in (None, "video"):
            return Video(value)
        case str() | Path():
            return ITEMS[modality or _modality(Path(value))](Path(value))
        case bytes() if modality:
            return ITEMS[modality](value)
        case {"array": sound, "sampling_rate": int(rate)} if modality in (None, "audio"):
            return Audio(_one_channel(np.asarray(sound)), rate)
        case _:
            kind = f"a mapping of {', '.join(map(str, value))}" if isinstance(value, Mapping) else type(value).__name__
            raise InputError(f"expected {modality or 'an item'} as a picture, array or path, came {kind}")


def _modality(path: Path) -> Modality:
    return next((m for m, suffixes in _SUFFIXES.items() if path.suffix.lower() in suffixes), "video")


def _one_channel(sound: np.ndarray) -> np.ndarray:
    """`Float32 [S]` of a sound of one channel, or of the mean of `[channels, S]`."""
    if sound.ndim not in (1, 2) or sound.dtype.kind != "f":
        raise InputError(f"expected a sound of floats [S] or [channels, S], came {sound.dtype} {list(sound.shape)}")
    return (sound if sound.ndim == 1 else sound.mean(0)).astype(np.float32)


def part_of(content: Mapping[str, Any], key: str) -> Part:
    """A part from `{"type": "text", ...}` or `{"type": "image" | "video" | "audio", key: value}`."""
    kind = content.get("type")
    if kind == "text":
        return str(content["text" if "text" in content else key])
    if kind not in ITEMS:
        raise InputError(f"a message's type: expected text, {', '.join(ITEMS)}, came {kind!r}")
    return item_of(content.get(key), cast(Modality, kind))


def turn_of(role: str, parts: Iterable[Part]) -> Turn:
    """A turn. Behind items that open it comes a line break, as in the data that runs are trained on; further items stand as
    they came."""
    laid = list(parts)
    if role not in get_args(Role):
        raise InputError(f"a message's role: expected {', '.join(get_args(Role))}, came {role!r}")
    first = next((i for i, p in enumerate(laid) if isinstance(p, str)), 0)
    if first and not (text := str(laid[first])).startswith("\n"):
        laid[first] = gap(laid[:first]) + text
    return Turn(cast(Role, role), tuple(laid))


def sample_of(turns: Sequence[tuple[str, Sequence[Part]]], where: str) -> Sample:
    """A conversation of (role, parts); `where` is its origin."""
    return Sample(tuple(turn_of(role, parts) for role, parts in turns), where, where)
