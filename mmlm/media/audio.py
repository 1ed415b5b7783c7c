"""The room where a sound becomes one channel of samples; the policy stands in `mmlm.media`."""

from collections.abc import Iterable
from itertools import chain
from typing import Any

import numpy as np
from jaxtyping import Float32

from mmlm.errors import InputError
from mmlm.media.container import container
from mmlm.media.source import called
from mmlm.sample import Audio

MAX_SECONDS = 1800.0


def load_audio(item: Audio, rate: int) -> Float32[np.ndarray, " S"]:
    """The sound of `item` at `rate` Hz, about -1..1, its channels mixed into one.

    Raises InputError where it cannot be decoded, is empty, lasts longer than MAX_SECONDS or holds values that are not
    finite, and where an array comes without its rate.
    """
    if isinstance(item.source, np.ndarray):
        sound = _of_array(item, item.source, rate)
    else:
        with container(item, "audio") as (box, track):
            sound = _resampled(item, box.decode(track), rate)
    if not sound.size:
        raise InputError(f"{called(item)}: there is no sound in it")
    if not np.isfinite(sound).all():
        raise InputError(f"{called(item)}: some samples are not finite numbers")
    return sound


def _resampled(item: Audio, frames: Iterable[Any], rate: int) -> Float32[np.ndarray, " S"]:
    """Decoded frames as one run of samples. The channels are averaged here: FFmpeg would add them at 0.71 each."""
    from av import AudioResampler

    resampler = AudioResampler(format="fltp", rate=rate)
    pieces = [np.zeros(0, np.float32)]
    length = 0
    for frame in chain(frames, [None]):  # None makes the resampler give what it holds back
        for piece in resampler.resample(frame):
            pieces.append(piece.to_ndarray().mean(axis=0, dtype=np.float32))
            length += len(pieces[-1])
        if length > MAX_SECONDS * rate:
            raise InputError(f"{called(item)}: the sound lasts more than {MAX_SECONDS:.0f} s; cut it into pieces")
    return np.concatenate(pieces)


def _of_array(item: Audio, values: np.ndarray, rate: int) -> Float32[np.ndarray, " S"]:
    """Samples that a program made, at `rate`."""
    from av import AudioFrame

    if values.dtype != np.float32 or values.ndim != 1:
        raise InputError(f"{called(item)} of {values.dtype}: expected one channel, float32 [S]")
    if item.rate <= 0:
        raise InputError(f"{called(item)}: expected the rate of the samples in Hz, came {item.rate}")
    if len(values) > MAX_SECONDS * item.rate:
        raise InputError(f"{called(item)}: the sound lasts more than {MAX_SECONDS:.0f} s; cut it into pieces")
    if item.rate == rate or not values.size:
        return values
    frame = AudioFrame.from_ndarray(np.ascontiguousarray(values)[None], format="flt", layout="mono")
    frame.sample_rate = item.rate
    return _resampled(item, [frame], rate)
