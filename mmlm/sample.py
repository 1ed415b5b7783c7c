"""What goes in and what comes out: conversations whose turns mix text and items.

Items are lazy: a reader hands on a path or the encoded bytes, and `mmlm.media` decodes them in the data workers. Items
made by a program (a reply, a test) hold decoded values instead.

An item that a reply says in the same breath as the one before it, because two output streams answer to the same ids, stands
`beside` it: people see both, and the model reads that it asked once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

Modality = Literal["image", "audio", "video"]
Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """A picture: a path, encoded bytes (JPEG, PNG ...), or RGB pixels in 0..255, `UInt8 [H, W, 3]`."""

    source: Path | bytes | NDArray[np.uint8]
    caption: str = ""
    beside: bool = False
    modality: ClassVar[Modality] = "image"


@dataclass(frozen=True, slots=True, eq=False)
class Audio:
    """A sound: a path, encoded bytes, or one channel of samples in -1..1, `Float32 [S]`, at `rate` Hz."""

    source: Path | bytes | NDArray[np.float32]
    rate: int = 0
    caption: str = ""
    beside: bool = False
    modality: ClassVar[Modality] = "audio"


@dataclass(frozen=True, slots=True, eq=False)
class Video:
    """A clip: a path, encoded bytes, or RGB frames in 0..255, `UInt8 [F, H, W, 3]`, at `rate` frames a second."""

    source: Path | bytes | NDArray[np.uint8]
    rate: float = 0.0
    caption: str = ""
    beside: bool = False
    modality: ClassVar[Modality] = "video"


Item = Image | Audio | Video
Part = str | Item
Extent = tuple[int, ...]  # how far an item fills its units; () where there is nothing to say
ITEMS: dict[Modality, type[Image] | type[Audio] | type[Video]] = {"image": Image, "audio": Audio, "video": Video}


@dataclass(frozen=True, slots=True)
class Turn:
    """What one role says: text and items in reading order."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text parts, joined."""
        return "".join(p for p in self.parts if isinstance(p, str))

    @property
    def items(self) -> tuple[Item, ...]:
        """The items, in reading order."""
        return tuple(p for p in self.parts if not isinstance(p, str))


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation. `origin` says where it was read ("train.json:17"), for every message about it."""

    turns: tuple[Turn, ...]
    id: str = ""
    origin: str = ""

    @property
    def items(self) -> tuple[Item, ...]:
        """All items, in reading order."""
        return tuple(i for t in self.turns for i in t.items)
