"""Part of the media room: items that a reply made, as files that any viewer opens."""

import wave
from fractions import Fraction
from pathlib import Path

import numpy as np
import PIL.Image

from mmlm.errors import InputError
from mmlm.media.audio import load_audio
from mmlm.media.image import load_image
from mmlm.sample import Audio, Image, Item


def save_item(item: Item, stem: Path) -> Path:
    """Write an item beside `stem` with the suffix of its kind: a picture as PNG, a sound as WAV (16 bits), a clip as MP4.
    Gives the file. Raises InputError where it cannot be written."""
    try:
        if isinstance(item, Image):
            file = stem.with_suffix(".png")
            load_image(item).save(file, "PNG")
        elif isinstance(item, Audio):
            file = stem.with_suffix(".wav")
            rate = item.rate or 16_000
            _wave(load_audio(item, rate), rate, file)
        else:
            file = stem.with_suffix(".mp4")
            _clip(np.asarray(item.source), item.rate or 8.0, file)
    except OSError as e:
        raise InputError(f"{stem} cannot be written: {e.strerror or e}") from e
    return file


def _wave(sound: np.ndarray, rate: int, file: Path) -> None:
    with wave.open(str(file), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes((np.clip(sound, -1, 1) * 32767).astype("<i2").tobytes())


def _clip(frames: np.ndarray, rate: float, file: Path) -> None:
    import av

    if frames.ndim != 4:
        raise InputError(f"a clip of {frames.dtype} {list(frames.shape)}: expected UInt8 [F, H, W, 3]")
    height, width = (side // 2 * 2 for side in frames.shape[1:3])  # the codec wants even sides
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(rate).limit_denominator(1000))
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for values in frames[:, :height, :width]:
            picture = PIL.Image.fromarray(np.ascontiguousarray(values))
            container.mux(stream.encode(av.VideoFrame.from_image(picture)))
        container.mux(stream.encode())
