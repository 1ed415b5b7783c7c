"""What the evaluation's tests share: golden numbers, pictures, and a model that answers by arithmetic."""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pictures

from mmlm.errors import InputError
from mmlm.media import digest, load_audio, load_image
from mmlm.sample import Image, Sample

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def goldens() -> dict[str, Any]:
    return json.loads((HERE / "goldens.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="session")
def generated() -> dict[str, Any]:
    return json.loads((HERE / "goldens_generated.json").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Decoding:
    limit: int = 16
    temperature: float = 0.0


@dataclass(frozen=True)
class Reply:
    text: str
    ids: tuple[int, ...]
    finish: str
    prompt_tokens: int
    logprobs: tuple[float, ...] = ()


class Stopped(Exception):
    """A kill, as far as a test can see."""


@dataclass
class Oracle:
    """Answers from the pictures it can decode and from the question; counts what it was asked. Where `sure` gives the
    probability of an answer, its tokens share that alike."""

    say: Callable[[Sample, str], str]
    fingerprint: str = "oracle"
    settings: Mapping[str, str] = field(default_factory=lambda: {"template": "none", "dtype": "float32"})
    calls: int = 0
    asked: list[str] = field(default_factory=list)
    stop_after: int | None = None
    largest: int = 0
    sure: Callable[[Sample, str], float] | None = None

    def _see(self, samples: Sequence[Sample]) -> list[str]:
        for sample in samples:
            for item in sample.items:
                load_image(item) if isinstance(item, Image) else load_audio(item, 8000)
        if self.stop_after is not None and self.calls >= self.stop_after:
            raise Stopped
        self.calls += 1
        self.largest = max(self.largest, len(samples))
        self.asked += [s.id for s in samples]
        return ["".join(digest(i) for i in s.items) for s in samples]

    def reply(self, samples: Sequence[Sample], decoding: Decoding) -> list[Reply]:
        seen = self._see(samples)
        return [self._reply(s, d) for s, d in zip(samples, seen, strict=True)]

    def _reply(self, sample: Sample, seen: str) -> Reply:
        text = self.say(sample, seen)
        n = len(text.split()) + 1  # its end is a token too
        told = () if self.sure is None else (math.log(self.sure(sample, seen)) / n,) * n
        return Reply(text, tuple(range(n)), "end", 7, told)

    def likelihood(self, samples: Sequence[Sample], replies: Sequence[Sequence[str]]) -> list[list[tuple[float, int]]]:
        seen = self._see(samples)
        best = [self.say(s, d) for s, d in zip(samples, seen, strict=True)]
        return [
            [(-0.5 if o == b else -2.0 - len(o), len(o.split()) or 1) for o in options]
            for options, b in zip(replies, best, strict=True)
        ]


@pytest.fixture
def oracle() -> type[Oracle]:
    return Oracle


@pytest.fixture
def decoding() -> Decoding:
    return Decoding()


@pytest.fixture
def paint() -> Callable[[Path, int], Path]:
    """Writes a small picture that differs from every other number's."""

    def write(path: Path, number: int) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (5, 7, 3), dtype=np.uint8)
        Pictures.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def rows() -> Callable[[Path, Sequence[Mapping[str, Any]]], Path]:
    """Writes JSON Lines."""

    def write(path: Path, records: Sequence[Mapping[str, Any]]) -> Path:
        path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
        return path

    return write


@pytest.fixture
def refuse() -> Callable[[str], Callable[[Sample, str], str]]:
    """An answer for a model that refuses samples whose id holds a text."""

    def build(text: str) -> Callable[[Sample, str], str]:
        def say(sample: Sample, seen: str) -> str:
            if text in sample.id:
                raise InputError(f"{sample.origin}: refused")
            return hashlib.sha256((seen + sample.turns[-1].text).encode()).hexdigest()[:1]

        return say

    return build


@pytest.fixture
def stopped() -> type[Exception]:
    return Stopped
