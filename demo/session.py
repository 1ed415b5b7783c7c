"""Part of the demo: what one person has going: a conversation with each model, and how their answers come in together."""

import asyncio
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from time import perf_counter

from mmlm.errors import InputError
from mmlm.media.saving import save_item
from mmlm.reply import Decoding, Reply
from mmlm.sample import Item, Part

from .engine import Engine
from .history import Exchange, Talk, answered, ask_again, failed, prompt
from .kept import Kept
from .seen import Answered, Timing

_PAUSE = 0.05  # seconds between two looks at a growing answer; a page cannot draw more


@dataclass(frozen=True, slots=True)
class Side:
    """A conversation with one model, and how each of its answers came about."""

    talk: Talk = ()
    records: tuple[Answered | None, ...] = ()

    @property
    def open(self) -> bool:
        """Whether the last question waits for an answer."""
        return bool(self.talk) and self.talk[-1].said is None and not self.talk[-1].note

    def then(self, at: int, *exchanges: Exchange) -> "Side":
        """The conversation up to exchange `at`, and `exchanges` behind it."""
        return Side((*self.talk[:at], *exchanges), (*self.records[:at], *(None for _ in exchanges)))

    def last(self, exchange: Exchange, record: Answered | None = None) -> "Side":
        """The conversation with another last exchange."""
        return Side((*self.talk[:-1], exchange), (*self.records[:-1], record))


@dataclass(frozen=True, slots=True)
class Session:
    """The sides of one person's page; each was asked the same questions. `tries` counts how often the last one was tried again.
    `kept` is where its files lie but for uploads: what was said that is no text, and what was saved or loaded."""

    sides: tuple[Side, ...]
    tries: int = 0
    kept: Kept | None = None

    @classmethod
    def of(cls, sides: int, talk: Talk = ()) -> "Session":
        """A conversation that every side has had."""
        return cls(tuple(Side(talk, (None,) * len(talk)) for _ in range(sides)))

    def below(self, home: Path) -> "Session":
        """The session with a folder of its own, which is made below `home` where there is none yet."""
        return self if self.folder is not None and self.folder.is_dir() else replace(self, kept=Kept(home, "session-"))

    @property
    def folder(self) -> Path | None:
        """Where the session's files lie; None where it has none yet."""
        return None if self.kept is None else self.kept.path

    def end(self) -> None:
        """Remove the session's files, which else are gone when the last session that holds them is."""
        if self.kept is not None:
            self.kept.remove()

    def ask(self, exchange: Exchange) -> "Session":
        """One more question, to every side."""
        return self._with(tuple(s.then(len(s.talk), exchange) for s in self.sides))

    def again(self, side: int) -> "Session":
        """The last question to one side once more."""
        sides = list(self.sides)
        sides[side] = sides[side].last(ask_again(sides[side].talk[-1]))
        return replace(self, sides=tuple(sides), tries=self.tries + 1)

    def edit(self, at: int, text: str) -> "Session":
        """Question `at` in other words, to every side; what came behind it is gone."""
        return self._with(tuple(s.then(at, ask_again(s.talk[at], text)) for s in self.sides))

    def undo(self) -> "Session":
        """Without the last exchange."""
        return self._with(tuple(s.then(len(s.talk) - 1) for s in self.sides))

    def _with(self, sides: tuple[Side, ...]) -> "Session":
        return replace(self, sides=sides, tries=0)


async def answers(
    engines: Sequence[Engine], session: Session, system: str, decoding: Decoding
) -> AsyncGenerator[Session]:
    """The session as the open questions are answered, each side at its own pace. Closing it stops every model."""
    decoding = replace(decoding, seed=decoding.seed + session.tries)
    coming = {
        i: _answer(e, s, system, decoding, session.folder)
        for i, (e, s) in enumerate(zip(engines, session.sides, strict=True))
        if s.open
    }
    waits: dict[asyncio.Task[Side | None], int] = {_next(each): i for i, each in coming.items()}
    try:
        while waits:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                i, side = waits.pop(task), task.result()
                if side is not None:
                    sides = (*session.sides[:i], side, *session.sides[i + 1 :])
                    session = replace(session, sides=sides)
                    waits[_next(coming[i])] = i
            yield session
    finally:
        for task in waits:
            task.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
        for each in coming.values():
            await each.aclose()


def _next(sides: AsyncIterator[Side]) -> "asyncio.Task[Side | None]":
    async def step() -> Side | None:
        return await anext(sides, None)

    return asyncio.create_task(step())


async def _answer(
    engine: Engine, side: Side, system: str, decoding: Decoding, folder: Path | None
) -> AsyncGenerator[Side]:
    """One side while its last question is answered. What cannot be asked is told in the chat."""
    exchange = side.talk[-1]
    begun, first, shown = perf_counter(), 0.0, 0.0
    said: Reply | None = None

    def now(reply: Reply) -> Side:
        timing = Timing(first - begun, perf_counter() - first)
        return side.last(answered(exchange, (reply.text,)), Answered(sample, decoding, reply, timing))

    try:
        sample = prompt(side.talk, system)
        async with aclosing(engine.astream(sample, decoding)) as replies:
            async for said in replies:
                first = first or perf_counter()
                # Without a word it is still awaited: an item may be on its way.
                if said.text and perf_counter() - shown > _PAUSE:
                    shown = perf_counter()
                    yield now(said)
        if said is not None and (said.items or said.notes):
            parts, notes = await asyncio.to_thread(_kept, said, folder)
            yield side.last(answered(exchange, parts, "\n".join(notes)), now(said).records[-1])
        elif said is not None:
            yield now(said)
    except InputError as e:
        yield side.last(failed(exchange, f"No answer: {e}"))


def _kept(said: Reply, folder: Path | None) -> tuple[list[Part], list[str]]:
    """What was said, its items as files in `folder`; and what there is to say of items that there are none of."""
    parts: list[Part] = []
    notes = list(said.notes)
    for part in said.parts or (said.text,):
        try:
            parts.append(part if isinstance(part, str) else _file(part, folder))
        except InputError as e:
            notes.append(str(e))
    return [p for p in parts if p != ""], notes


def _file(item: Item, folder: Path | None) -> Item:
    """The item as a file with a name of its own."""
    try:
        home = Path(tempfile.mkdtemp(dir=folder))
    except OSError as e:
        raise InputError(f"the {item.modality} cannot be kept: {e.strerror or e}") from e
    return replace(item, source=save_item(item, home / item.modality))
