"""A stand-in for a model that talks, for tests of what stands around it."""

import time
from collections.abc import Iterator

import pytest

from mmlm.assemble import Assembly
from mmlm.reply import Decoding, Reply
from mmlm.sample import Sample


def stubbed(monkeypatch: pytest.MonkeyPatch, text: str, tokens: int, pause: float) -> list[int]:
    """A model that says `text` again and again; gives the tokens it has made."""
    made: list[int] = []

    def stream(assembly: Assembly, sample: Sample, decoding: Decoding) -> Iterator[Reply]:
        for i in range(1, tokens + 1):
            time.sleep(pause)
            made.append(i)
            yield Reply(text * i, (65,) * i, (-0.5,) * i, "limit", 3)

    monkeypatch.setattr("mmlm.reply.stream", stream)
    return made
