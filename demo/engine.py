"""Part of the demo: one loaded system behind a line of people. One reply is made at a time, first come, first served."""

import asyncio
import ctypes
import sys
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from mmlm import reply
from mmlm.assemble import Assembly
from mmlm.errors import InputError
from mmlm.reply import Decoding, Reply
from mmlm.sample import Sample

T = TypeVar("T")
# What one reply has freed, glibc keeps in pieces that the next one does not fit into; by this the system gets it back.
_trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None


class Busy(InputError):
    """The line is full; ask again later."""


class Engine:
    """A system that several people share. `waiting` is how many may stand in line behind the one who is served, `features` how
    many bytes of what the encoders said are kept, so that a picture is not encoded anew at every turn about it."""

    def __init__(self, assembly: Assembly, *, waiting: int = 8, features: int = 256 << 20) -> None:
        self.assembly, self.waiting = assembly, waiting
        if assembly.model.cache is not None:
            assembly.model.cache.kept.limit = features
        self._lock = threading.Lock()
        self._line: deque[Future[None]] = deque()  # the first one has the model
        self._thread = ThreadPoolExecutor(1, "engine")

    @property
    def name(self) -> str:
        """The config's name."""
        return self.assembly.config.name

    def stream(self, sample: Sample, decoding: Decoding) -> Generator[Reply, None, None]:
        """The reply so far, after each token, for use in a thread: it blocks until it is this caller's turn.

        The model is free for the next one when the iterator ends, is closed, or is dropped. Raises Busy where the line
        is full, and InputError for a sample that cannot be answered.
        """
        turn = self._enter()
        try:
            turn.result()
            yield from reply.stream(self.assembly, sample, decoding)
        finally:
            self._leave(turn)

    async def astream(self, sample: Sample, decoding: Decoding) -> AsyncGenerator[Reply, None]:
        """`stream` for an event loop, which it never blocks: the model works in a thread.

        A reader that is slower than the model is given the newest reply and misses those before it, so that it neither
        holds up the model nor piles up replies. One that leaves, by a cancelled task too, frees its place in the line at
        once, or the model after the token that is being made.
        """
        turn = self._enter()
        try:
            await asyncio.wrap_future(turn)
        except asyncio.CancelledError:
            self._leave(turn)
            raise
        loop, news = asyncio.get_running_loop(), asyncio.Event()
        newest: deque[Reply] = deque(maxlen=1)
        gone = threading.Event()

        def work() -> None:
            try:
                for said in reply.stream(self.assembly, sample, decoding):
                    newest.append(said)
                    if gone.is_set():
                        return
                    loop.call_soon_threadsafe(news.set)
            finally:
                self._leave(turn)

        done = loop.run_in_executor(self._thread, work)
        done.add_done_callback(lambda _: news.set())
        try:
            while not done.done() or newest:
                await news.wait()
                news.clear()
                while newest:
                    yield newest.popleft()
            await done
        finally:
            gone.set()

    def alone(self, work: Callable[[Assembly], T]) -> T:
        """What `work` makes of the system while nobody else has it; for use in a thread. Raises Busy where the line is
        full."""
        turn = self._enter()
        try:
            turn.result()
            return work(self.assembly)
        finally:
            self._leave(turn)

    def _enter(self) -> Future[None]:
        """A place at the end of the line. It comes true when everyone before has left."""
        turn: Future[None] = Future()
        turn.set_running_or_notify_cancel()  # from here on nobody but the line can end it
        with self._lock:
            if len(self._line) > self.waiting:
                raise Busy(
                    f"the model is busy and {self.waiting} more requests wait for it already; try again in a few seconds"
                )
            self._line.append(turn)
            if self._line[0] is turn:
                turn.set_result(None)
        return turn

    def _leave(self, turn: Future[None]) -> None:
        """Give the place up; the model goes to the next in line where this one had it."""
        with self._lock:
            served = self._line[0] is turn
            self._line.remove(turn)
            if served and self._line:
                self._line[0].set_result(None)
        if _trim is not None:
            _trim(0)
