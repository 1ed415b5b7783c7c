"""Part of the demo: what the buttons of the chat do. A session comes in, and goes out with what is to be shown of it."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from mmlm.errors import InputError
from mmlm.looking import Way, look
from mmlm.reply import Decoding
from mmlm.sample import Item, Modality

from .engine import Engine
from .gallery import Example
from .history import ask, exchange_at, messages, typed
from .notes import readable
from .panel import looked, panel, waiting
from .saved import load, save
from .seen import Answered, seen
from .session import Session, answers
from .uploads import Limits, items

Shown = list[Any]  # values for components, in their order
EMPTY = "Ask something: this shows what the model was given, and how sure it was of each word."


class Chat:
    """The handlers of one page. They keep nothing: everything of a person is in the session that Gradio keeps for them."""

    def __init__(
        self,
        engines: Sequence[Engine],
        names: Sequence[str],
        folder: Path,
        takes: set[Modality],
        limits: Limits,
        examples: Sequence[Example],
    ) -> None:
        self.engines, self.folder, self.takes, self.limits = tuple(engines), folder, takes, limits
        self.names, self.examples = tuple(names), tuple(examples)

    def ask(self, message: dict[str, Any], session: Session) -> Shown:
        """A new question, its files decoded once. Where one is refused, the box keeps what was typed."""
        with readable():
            found = items([Path(f) for f in message["files"]], self.folder, self.takes, self.limits)
            session = session.below(self.folder).ask(ask(found, message["text"] or ""))
        return [gr.update(value=None), *self.shown(session)]

    async def answer(
        self, session: Session, system: str | None, temperature: float, top_p: float, limit: float, seed: float | None
    ) -> AsyncGenerator[Shown]:
        """Answer the open questions, shown as they grow. Leaving the generator stops the models."""
        with readable():
            decoding = Decoding(int(limit), float(temperature), float(top_p), seed=int(seed or 0))
        session = session.below(self.folder)
        async with aclosing(answers(self.engines, session, system or "", decoding)) as growing:
            async for now in growing:
                yield self.shown(now)

    def retry(self, side: int) -> Callable[[Session], Shown]:
        """Ask one model the last question again."""

        def retry(session: Session) -> Shown:
            with readable():
                if not session.sides[side].talk:
                    raise InputError("there is no question to ask again")
                return self.shown(session.again(side))

        return retry

    def edit(self, side: int) -> Callable[..., Shown]:
        """Ask a question in other words; what came behind it is gone."""

        def edit(session: Session, data: gr.EditData) -> Shown:
            with readable():
                at = exchange_at(session.sides[side].talk, _number(data.index))
                return self.shown(session.edit(at, _text(data.value)))

        return edit

    def undo(self, session: Session) -> Shown:
        """Without the last exchange, whose words go back into the box."""
        talk = session.sides[0].talk
        if not talk:
            return [gr.skip(), *self.shown(session)]
        return [{"text": talk[-1].asked.text.strip("\n"), "files": []}, *self.shown(session.undo())]

    def clear(self, session: Session) -> Shown:
        """A new conversation, and nothing left of the old one."""
        session.end()
        return [*self.shown(Session.of(len(self.engines))), *self._blank(), ready()]

    def last(self, session: Session) -> Shown:
        """What each model's last answer was made of, and their numbers."""
        numbers = [len(s.talk) - 1 for s in session.sides]
        return [*(self._panel(i, session, n) for i, n in enumerate(numbers)), *("" for _ in numbers), *numbers]

    def select(self, side: int) -> Callable[..., Shown]:
        """What the answer that was clicked on was made of."""

        def select(session: Session, data: gr.SelectData) -> Shown:
            with readable():
                at = exchange_at(session.sides[side].talk, _number(data.index))
            return [self._panel(side, session, at), "", at]

        return select

    def look(self, side: int) -> Callable[[Session, int, Way], str]:
        """Where the answer that is shown looked, once the model is free."""

        def where(session: Session, at: int, way: Way) -> str:
            record = self._record(side, session, at)
            with readable():
                if record is None:
                    raise InputError("ask something first; then this shows where the answer looked")
                reply = record.reply.text
                maps = self.engines[side].alone(lambda a: look(a, record.sample, reply, way))
                return looked(seen(self.engines[side].assembly, record), maps, way)

        return where

    def save(self, side: int) -> Callable[[Session, str | None], Shown]:
        """One model's conversation as a file to download."""

        def keep(session: Session, system: str | None) -> Shown:
            with readable():
                session = session.below(self.folder)
                return [str(save(session.sides[side].talk, system or "", session.folder or self.folder)), session]

        return keep

    def load(self, file: str | None, session: Session) -> Shown:
        """A saved conversation in place of the one that is there; its system text goes into the settings."""
        with readable():
            if not file:
                raise InputError("choose a file that was saved here")
            session = session.below(self.folder)
            system, talk = load(Path(file), session.folder or self.folder, self.takes, self.limits)
        return [
            *self.shown(replace(Session.of(len(self.engines), talk), kept=session.kept)),
            *self._blank(),
            system,
        ]

    def example(self, data: gr.SelectData) -> dict[str, Any]:
        """An example in the box, ready to be sent."""
        chosen = self.examples[_number(data.index)]
        return {"text": chosen.question, "files": [str(chosen.picture)]}

    def photograph(self, picture: str | None, message: dict[str, Any] | None) -> Shown:
        """A picture of the camera beside what the box holds already."""
        if picture is None:
            return [gr.skip(), None]
        message = message or {"text": "", "files": []}
        return [{"text": message["text"] or "", "files": [*message["files"], picture]}, None]

    def shown(self, session: Session) -> Shown:
        """The session, and each model's conversation as Gradio shows it."""
        return [session, *(messages(s.talk, _file) for s in session.sides)]

    def _blank(self) -> Shown:
        sides = self.engines
        return [*(waiting(EMPTY) for _ in sides), *("" for _ in sides), *(-1 for _ in sides)]

    def _record(self, side: int, session: Session, at: int) -> Answered | None:
        records = session.sides[side].records
        return records[at] if 0 <= at < len(records) else None

    def _panel(self, side: int, session: Session, at: int) -> str:
        record = self._record(side, session, at)
        if record is None:
            return waiting(EMPTY)
        with readable():
            return panel(seen(self.engines[side].assembly, record), record)


def busy() -> Any:
    """The box while answers come: a stop button in place of the other."""
    return gr.update(submit_btn=False, stop_btn=True, interactive=False)


def ready() -> Any:
    """The box when a question may be asked."""
    return gr.update(submit_btn=True, stop_btn=False, interactive=True)


def _file(item: Item) -> dict[str, Any]:
    return {"path": str(item.source)}


def _number(index: Any) -> int:
    """The number of a message, which Gradio gives alone or with the part of the message."""
    first = index[0] if isinstance(index, list | tuple) and index else index
    return first if isinstance(first, int) and first >= 0 else -1


def _text(value: Any) -> str:
    """The words of an edited message, which Gradio gives as text or as a part of a message."""
    return typed(str(value.get("text", "")) if isinstance(value, dict) else str(value))
