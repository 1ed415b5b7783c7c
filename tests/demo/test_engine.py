"""The line in front of a system: whose turn it is, who is turned away, and how soon the model is free."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path
from queue import Queue

import numpy as np
import pytest
from systems import tiny

from mmlm import reply as replies
from mmlm.assemble import Assembly, assemble
from mmlm.caches import FeatureCache
from mmlm.demo.engine import Busy, Engine
from mmlm.errors import InputError
from mmlm.reply import Decoding, Reply, reply
from mmlm.sample import Image, Sample, Turn

HELLO = Sample((Turn("user", ("Hello?",)),))
OTHER = Sample((Turn("user", ("What else is there?",)),))


class Scripted:
    """In place of the model: says who began and who ended, and makes a token when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.tokens: Queue[str] = Queue()
        self.made = threading.Semaphore(0)
        monkeypatch.setattr(replies, "stream", self._stream)

    def _stream(self, _: object, sample: Sample, decoding: Decoding) -> Iterator[Reply]:
        self.events.append(f"{sample.id} began")
        try:
            for n in range(1, decoding.limit + 1):
                self.tokens.get(timeout=10)
                self.made.release()
                yield Reply("x" * n, (7,) * n, (0.0,) * n, "limit", 1)
        finally:
            self.events.append(f"{sample.id} ended")


def named(name: str) -> Sample:
    return Sample(HELLO.turns, name)


def until(true: object, seconds: float = 10.0) -> None:
    assert callable(true)
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not come to this"
        time.sleep(0.005)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Scripted:
    return Scripted(monkeypatch)


def test_it_says_what_reply_says(assembly: Assembly) -> None:
    engine, decoding = Engine(assembly), Decoding(limit=6, temperature=0.7, seed=3)
    assert engine.name == "senses" and engine.assembly is assembly
    (expected,) = reply(assembly, [HELLO], decoding)
    told = list(engine.stream(HELLO, decoding))
    assert told[-1] == expected and [len(t.ids) for t in told[:6]] == [1, 2, 3, 4, 5, 6]

    async def last() -> Reply:
        return [said async for said in engine.astream(HELLO, decoding)][-1]

    assert asyncio.run(last()) == expected


def test_features_are_kept_up_to_a_bound(tmp_path: Path) -> None:
    assembly = assemble(tiny("mlp", tmp_path))
    cache = assembly.model.cache = FeatureCache(alone=True)
    engine = Engine(assembly, features=1 << 12)
    for seed in range(40):
        pixels = np.random.default_rng(seed).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        list(engine.stream(Sample((Turn("user", (Image(pixels), "What?")),)), Decoding(limit=1)))
    assert cache.encoded == 40 and 0 < cache.kept.held <= 1 << 12


def test_a_sample_that_cannot_be_answered_leaves_the_model_free(assembly: Assembly) -> None:
    engine = Engine(assembly, waiting=0)
    broken = Sample((Turn("user", (Image(b"no picture"), "What?")),))

    async def told() -> None:
        async for _ in engine.astream(broken, Decoding(limit=2)):
            raise AssertionError

    for _ in range(3):
        with pytest.raises(InputError, match="image of 10 bytes"):
            list(engine.stream(broken, Decoding(limit=2)))
        with pytest.raises(InputError, match="image of 10 bytes"):
            asyncio.run(told())
    assert list(engine.stream(HELLO, Decoding(limit=2)))


def test_first_come_first_served_one_at_a_time(assembly: Assembly, scripted: Scripted) -> None:
    engine = Engine(assembly, waiting=3)
    threads = []
    for i in range(4):
        work = threading.Thread(target=lambda i=i: list(engine.stream(named(str(i)), Decoding(limit=2))))
        work.start()
        threads.append(work)
        until(lambda i=i: len(engine._line) == i + 1)
    with pytest.raises(Busy, match=r"busy and 3 more requests wait"):
        next(engine.stream(HELLO, Decoding()))
    assert issubclass(Busy, InputError)
    for _ in range(8):
        scripted.tokens.put("go")
    for work in threads:
        work.join(10)
    assert scripted.events == [f"{i} {what}" for i in range(4) for what in ("began", "ended")]
    assert not engine._line


def test_closing_or_leaving_frees_the_model(assembly: Assembly, scripted: Scripted) -> None:
    engine = Engine(assembly, waiting=0)
    for _ in range(5):
        scripted.tokens.put("go")
    first = engine.stream(named("a"), Decoding())
    next(first)
    first.close()
    with pytest.raises(ZeroDivisionError):
        for _ in engine.stream(named("b"), Decoding()):
            raise ZeroDivisionError
    dropped = engine.stream(named("c"), Decoding())
    next(dropped)
    del dropped
    never = engine.stream(named("d"), Decoding())  # has no place in the line before it is asked for a token
    assert next(engine.stream(named("e"), Decoding())).ids == (7,)
    assert scripted.events == [f"{x} {what}" for x in "abce" for what in ("began", "ended")]
    never.close()


def test_a_cancelled_task_leaves_the_line_or_stops_after_the_token(assembly: Assembly, scripted: Scripted) -> None:
    engine = Engine(assembly, waiting=2)

    async def read(name: str) -> list[Reply]:
        async with aclosing(engine.astream(named(name), Decoding(limit=2))) as said:
            return [s async for s in said]

    async def main() -> None:
        first, second, third = (asyncio.create_task(read(n)) for n in "abc")
        await asyncio.sleep(0.05)
        assert len(engine._line) == 3
        with pytest.raises(Busy):
            await read("d")
        second.cancel()  # it waits: its place is free at once
        await asyncio.sleep(0.05)
        assert len(engine._line) == 2
        first.cancel()  # it has the model, which is making a token
        await asyncio.sleep(0.05)
        assert scripted.events == ["a began"]
        scripted.tokens.put("go")
        for _ in range(2):
            scripted.tokens.put("go")
        assert [len(s.ids) for s in await third][-1] == 2
        for task in (first, second):
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    until(lambda: not engine._line)
    assert scripted.events == ["a began", "a ended", "c began", "c ended"]


def test_a_slow_reader_gets_the_newest_reply_and_holds_nobody_up(assembly: Assembly, scripted: Scripted) -> None:
    engine = Engine(assembly)
    for _ in range(50):
        scripted.tokens.put("go")

    async def main() -> list[int]:
        seen = []
        async for said in engine.astream(named("a"), Decoding(limit=50)):
            seen.append(len(said.ids))
            while engine._line:
                await asyncio.sleep(0.01)
        return seen

    seen = asyncio.run(main())
    assert seen[-1] == 50 and len(seen) <= 3


def test_the_event_loop_goes_on_while_the_model_works(assembly: Assembly, scripted: Scripted) -> None:
    engine = Engine(assembly)

    async def main() -> int:
        turns = 0
        task = asyncio.create_task(anext(engine.astream(HELLO, Decoding())))
        for _ in range(20):
            await asyncio.sleep(0.005)
            turns += 1
        scripted.tokens.put("go")
        await task
        return turns

    assert asyncio.run(main()) == 20
    for _ in range(Decoding().limit):
        scripted.tokens.put("go")
    until(lambda: not engine._line)
