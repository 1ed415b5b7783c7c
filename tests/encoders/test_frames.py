"""Video through an image encoder."""

import pickle

import numpy as np
import pytest
import torch

from mmlm.encoders.clip import ClipEncoder
from mmlm.encoders.frames import FramesEncoder
from mmlm.encoders.whisper import WhisperEncoder
from mmlm.errors import InputError
from mmlm.interfaces import Encoder
from mmlm.sample import Image, Video
from mmlm.weights import Weights


@pytest.fixture
def inner() -> Encoder:
    torch.manual_seed(0)
    return ClipEncoder(Weights("openai/clip-vit-large-patch14", load=False, tiny=True)).eval()


def clip(frames: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (frames, 19, 33, 3), dtype=np.uint8)


@torch.no_grad()
def test_each_frame_is_a_picture(inner: Encoder) -> None:
    encoder = FramesEncoder(inner, frames=3)
    frames = clip(7)
    units = pickle.loads(pickle.dumps(encoder.transform))(Video(frames))
    want = torch.cat([inner.transform(Image(frames[i])) for i in (1, 3, 5)])
    assert torch.equal(units, want)
    torch.testing.assert_close(encoder(units), inner(want))
    assert encoder.shape == inner.shape and encoder.units(60.0) == 3 and encoder.modality == "video"


def test_short_clips_repeat(inner: Encoder) -> None:
    units = FramesEncoder(inner, frames=5).transform(Video(clip(2)))
    assert units.shape[0] == 5
    assert torch.equal(units[0], units[1]) and torch.equal(units[3], units[4])


def test_what_does_not_fit_is_refused(inner: Encoder) -> None:
    with pytest.raises(InputError, match="reads video; came image"):
        FramesEncoder(inner).transform(Image(clip(1)[0]))
    with pytest.raises(InputError, match="at least 1"):
        FramesEncoder(inner, frames=0)
    with pytest.raises(InputError, match="reads audio"):
        FramesEncoder(WhisperEncoder(Weights("openai/whisper-tiny", load=False, tiny=True)))
