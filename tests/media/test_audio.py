"""Sound against the numbers it was written from, and against damage."""

import io
import random
import wave
from pathlib import Path

import av
import numpy as np
import pytest

from mmlm.errors import InputError
from mmlm.media import audio, load_audio
from mmlm.sample import Audio


def wav(values: np.ndarray, rate: int) -> bytes:
    """16-bit WAV of float samples [S] or [S, channels]."""
    stream = io.BytesIO()
    with wave.open(stream, "wb") as out:
        out.setnchannels(1 if values.ndim == 1 else values.shape[1])
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes(np.rint(values * 32767).astype("<i2").tobytes())
    return stream.getvalue()


def encoded(values: np.ndarray, rate: int, codec: str, kind: str) -> bytes:
    stream = io.BytesIO()
    with av.open(stream, "w", format=kind) as box:
        track = box.add_stream(codec, rate=rate, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.rint(values * 32767).astype(np.int16)[None], format="s16", layout="mono")
        frame.sample_rate = rate
        for piece in av.AudioResampler(
            format=track.format, layout="mono", rate=rate, frame_size=track.frame_size or None
        ).resample(frame):
            box.mux(track.encode(piece))
        box.mux(track.encode(None))
    return stream.getvalue()


def tone(seconds: float, rate: int, hertz: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def test_wav_at_its_own_rate_is_exact() -> None:
    a = tone(0.31, 16_000)
    found = load_audio(Audio(wav(a, 16_000)), 16_000)
    assert found.dtype == np.float32
    assert np.abs(found - np.rint(a * 32767) / 32768).max() < 1e-7


def test_channels_are_averaged() -> None:
    left, right = tone(0.2, 8_000), 0.5 * tone(0.2, 8_000, 1_000)
    found = load_audio(Audio(wav(np.stack([left, right], 1), 8_000)), 8_000)
    assert np.abs(found - (left + right) / 2).max() < 1e-4


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100, 48_000])
def test_resampling_keeps_the_tone(rate: int) -> None:
    found = load_audio(Audio(wav(tone(1.0, rate), rate)), 16_000)
    assert abs(len(found) - 16_000) <= 1
    inner = slice(200, 15_800)
    assert np.abs(found[inner] - tone(1.01, 16_000)[: len(found)][inner]).max() < 2e-3


@pytest.mark.parametrize(
    ("codec", "kind"), [("flac", "flac"), ("libmp3lame", "mp3"), ("libopus", "ogg"), ("pcm_s16le", "wav")]
)
def test_formats(codec: str, kind: str) -> None:
    found = load_audio(Audio(encoded(tone(1.0, 48_000), 48_000, codec, kind)), 16_000)
    assert abs(len(found) - 16_000) < 1_600
    spectrum = np.abs(np.fft.rfft(found[2_000:10_000]))
    assert abs(int(spectrum.argmax()) * 16_000 / 8_000 - 440) <= 2


def test_arrays_pass_through_or_are_resampled() -> None:
    a = tone(0.5, 24_000)
    assert (load_audio(Audio(a, rate=24_000), 24_000) == a).all()
    same = load_audio(Audio(a, rate=24_000), 16_000)
    assert np.abs(same[200:-200] - tone(0.5, 16_000)[: len(same)][200:-200]).max() < 2e-3


def test_bad_arrays_are_refused() -> None:
    for item, reason in (
        (Audio(np.zeros(5, np.float32)), "rate"),
        (Audio(np.zeros(5, np.float64), rate=8), "float32"),
        (Audio(np.zeros((2, 5), np.float32), rate=8), "one channel"),
        (Audio(np.zeros(0, np.float32), rate=8), "no sound"),
        (Audio(np.full(5, np.nan, np.float32), rate=8), "not finite"),
    ):
        with pytest.raises(InputError, match=reason):
            load_audio(item, 8)


def test_long_sound_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "MAX_SECONDS", 1.0)
    for item in (Audio(wav(tone(1.2, 8_000), 8_000)), Audio(tone(1.2, 8_000), rate=8_000)):
        with pytest.raises(InputError, match="more than 1 s"):
            load_audio(item, 16_000)
    assert len(load_audio(Audio(wav(tone(0.9, 8_000), 8_000)), 16_000)) == 14_400


def test_other_files_are_refused_by_name(tmp_path: Path) -> None:
    text = tmp_path / "a.wav"
    text.write_text("no sound at all")
    for path in (text, tmp_path / "absent.wav", tmp_path):
        with pytest.raises(InputError) as caught:
            load_audio(Audio(path), 16_000)
        assert str(path) in str(caught.value) and "0x" not in str(caught.value)


def test_mutants_are_decoded_or_refused() -> None:
    dice = random.Random(0)
    a = tone(0.2, 16_000)
    parents = [
        encoded(a, 48_000, c, k)
        for c, k in (("flac", "flac"), ("libmp3lame", "mp3"), ("libopus", "ogg"), ("pcm_s16le", "wav"))
    ]
    for _ in range(200):
        data = bytearray(dice.choice(parents))
        for _ in range(dice.randint(1, 6)):
            data[dice.randrange(min(len(data), 300) if dice.random() < 0.5 else len(data))] = dice.randrange(256)
        if dice.random() < 0.2:
            del data[dice.randrange(1, len(data)) :]
        try:
            assert np.isfinite(load_audio(Audio(bytes(data)), 16_000)).all()
        except InputError as e:
            assert "0x" not in str(e)


def test_stamps_sound(stamps: Path) -> None:
    for path in sorted((stamps / "audio").glob("*.ogg"))[:8]:
        found = load_audio(Audio(path), 16_000)
        assert len(found) > 1_000 and 0.001 < np.abs(found).max() < 2
