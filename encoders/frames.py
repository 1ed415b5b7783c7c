"""The room of the video encoder that is an image encoder, frame by frame (Video-ChatGPT, Video-LLaMA, InstructBLIP)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mmlm.errors import InputError
from mmlm.interfaces import Cut, Encoder, Transform
from mmlm.media import load_video
from mmlm.sample import Image, Item, Modality, Video


@dataclass(frozen=True, slots=True)
class Frames:
    """A clip to the units of its frames, `Float [frames, *P]`: so many frames at the centres of equal parts of the clip,
    each made a picture's units by `inner`."""

    inner: Transform
    frames: int

    def __call__(self, item: Item) -> Float[Tensor, "n ..."]:
        """The units of all frames, in order. Raises InputError where `item` is not a clip, or cannot be read."""
        if not isinstance(item, Video):
            raise InputError(f"this encoder reads video; came {item.modality}")
        return torch.cat([Cut.of(self.inner(Image(frame))).units for frame in load_video(item, self.frames)])


class FramesEncoder(Encoder):
    """Features of the frames of a clip, each by the same image encoder: a clip gives `frames` units (times the tiles of a
    picture, where the image encoder cuts tiles). Their shape is that of the image encoder. A clip of fewer frames than
    asked repeats the nearest."""

    modality: Modality = "video"
    tiny: ClassVar[Mapping[str, object]] = {"frames": 2}

    def __init__(self, encoder: Encoder, *, frames: int = 8) -> None:
        super().__init__()
        if encoder.modality != "image":
            raise InputError(f"frames needs an image encoder; came one that reads {encoder.modality}")
        if frames < 1:
            raise InputError(f"frames: expected at least 1, came {frames}")
        self.encoder, self.frames = encoder, frames
        self.shape = encoder.shape
        self.transform = Frames(encoder.transform, frames)

    def units(self, duration: float | None = None) -> int:
        """Units of a clip, however long."""
        return self.frames * self.encoder.units()

    def forward(self, units: Float[Tensor, "U ..."]) -> Float[Tensor, "U L C"]:
        """Features of each frame."""
        features: Tensor = self.encoder(units)
        return features
