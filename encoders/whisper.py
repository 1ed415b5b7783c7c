"""The room of Whisper's audio encoder (Radford et al. 2022, arXiv 2212.04356)."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import ceil
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmlm.errors import InputError
from mmlm.interfaces import Encoder, FeatureShape
from mmlm.media import load_audio
from mmlm.sample import Audio, Item, Modality
from mmlm.weights import Weights

from .towers import normed, run, taps

RATE, HOP, WINDOW = 16_000, 160, 400
_STRIDE = 2 * HOP  # samples per position: the second convolution halves the frames


@dataclass(frozen=True, slots=True)
class LogMel:
    """A sound to windows of log-mel frames, `Float [n, mels, frames]`: the sound at 16 kHz is cut into equal windows, the
    last one filled up with silence, and each is scaled on its own as transformers' WhisperFeatureExtractor does."""

    mels: int
    frames: int

    def __call__(self, item: Item) -> Float[Tensor, "n mels frames"]:
        """The windows of a sound. Raises InputError where `item` is not a sound, or cannot be read."""
        if not isinstance(item, Audio):
            raise InputError(f"this encoder reads sound; came {item.modality}")
        sound = load_audio(item, RATE)
        size = self.frames * HOP
        windows = [sound[i : i + size] for i in range(0, len(sound), size)]
        made = _extractor(self.mels)(windows, sampling_rate=RATE, max_length=size, return_tensors="np").input_features
        return torch.from_numpy(np.ascontiguousarray(made, dtype=np.float32))


@cache
def _extractor(mels: int) -> Any:
    """transformers' own extractor: making its filters takes longer than using them."""
    from transformers import WhisperFeatureExtractor

    return WhisperFeatureExtractor(feature_size=mels, sampling_rate=RATE, hop_length=HOP, n_fft=WINDOW)


class WhisperEncoder(Encoder):
    """Features of 30 s windows of sound: `Float [U, mels, 3000]` -> `Float [U, 1500 / downsample, C]`; 50 features a
    second, without a grid. A sound of s seconds gives ceil(s / 30) units, and silence fills the last.

    layer: the hidden state to take (or several, set one behind the other), counted as transformers counts.
    final_norm: apply the encoder's last norm to what leaves the last block, where it is taken; so Whisper's decoder reads.
    downsample: take the mean of so many neighbouring features; must divide their number.
    trim: build no block or norm that the chosen features do not need. The decoder is never kept.
    """

    modality: Modality = "audio"
    tiny: ClassVar[Mapping[str, object]] = {}

    def __init__(
        self,
        weights: Weights,
        *,
        layer: int | list[int] = -1,
        final_norm: bool = True,
        downsample: int = 1,
        trim: bool = True,
    ) -> None:
        from transformers import WhisperModel
        from transformers.models.whisper.modeling_whisper import WhisperEncoder as Tower

        super().__init__()
        if weights.load and not weights.tiny:
            model: Any = weights.transformers(WhisperModel).encoder
        else:  # one-second windows at tiny scale
            changes: dict[str, Any] = {"max_source_positions": 50} if weights.tiny else {}
            model = weights.transformers(Tower, **changes)
        config = model.config
        length = config.max_source_positions
        if downsample < 1 or length % downsample:
            raise InputError(f"downsample: expected a number that divides {length} features; came {downsample}")
        self.downsample, self.depth = downsample, config.encoder_layers
        self.taps = taps(layer, self.depth, weights.tiny)
        self.final_norm = final_norm and self.depth in self.taps
        if trim:
            config.encoder_layers = max(self.taps)
            model.layers = model.layers[: max(self.taps)]
            model.layer_norm = model.layer_norm if self.final_norm else nn.Identity()
        self.model = model
        self.seconds: float = length * _STRIDE / RATE
        self.transform = LogMel(config.num_mel_bins, 2 * length)
        self.shape = FeatureShape(length // downsample, config.d_model * len(self.taps))

    def units(self, duration: float | None = None) -> int:
        """Windows in a sound of `duration` seconds; one where nothing is said."""
        return max(1, ceil((duration or 0.0) / self.seconds))

    def forward(self, units: Float[Tensor, "U mels frames"]) -> Float[Tensor, "U L C"]:
        """Features of each window."""
        m = self.model
        x = nn.functional.gelu(m.conv2(nn.functional.gelu(m.conv1(units)))).transpose(1, 2)
        x = x + m.embed_positions.weight.to(x.dtype)
        states = normed(run(x, m.layers, self.taps), self.taps, self.depth, m.layer_norm if self.final_norm else None)
        x = torch.cat(states, dim=-1)
        return x.unflatten(1, (-1, self.downsample)).mean(dim=2) if self.downsample > 1 else x
