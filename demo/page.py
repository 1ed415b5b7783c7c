"""Part of the demo: the page itself, a chat and a tab for many questions at once."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from mmlm.sample import Modality

from .batch_tab import BatchTab
from .chat import Chat
from .chat_tab import ChatTab
from .engine import Engine
from .gallery import Example
from .kept import STAY
from .notes import readable
from .panel import safe
from .uploads import Limits, checked, only_ours

_LONGEST = 1024  # tokens of an answer
_KEPT = (3600, STAY)  # seconds between two looks at the uploads, and after which they are removed


class _Page(gr.Blocks):
    """A page that takes no file from a browser but those below `home`, where uploads lie. What Gradio would open as a picture
    is decoded by `trial` before: it would take every format that Pillow knows."""

    home: Path
    limits: Limits

    async def preprocess_data(self, block_fn: Any, inputs: list[Any], *others: Any, **named: Any) -> list[Any]:
        with readable():
            only_ours(inputs, self.home)
            for block, value in zip(block_fn.inputs, inputs, strict=False):
                if isinstance(block, gr.Image) and isinstance(value, dict) and value.get("path"):
                    await asyncio.to_thread(checked, Path(value["path"]), self.home, {"image"}, self.limits)
        return await super().preprocess_data(block_fn, inputs, *others, **named)  # type: ignore[no-any-return]


def page(
    engines: Sequence[Engine], folder: Path, limits: Limits, examples: Sequence[Example], names: Sequence[str]
) -> gr.Blocks:
    """The page of one model, or of two side by side, to be mounted. It takes what every one of them takes.

    names: what the models are called on the page.
    folder: where everything of this server lies: uploads, examples, downloads.
    """
    takes = set.intersection(*(_takes(e) for e in engines))
    length = max(1, min(_LONGEST, *(e.assembly.processor.length // 2 for e in engines)))
    chat = ChatTab(Chat(engines, names, folder, takes, limits, examples), length, all(map(_has_system, engines)))
    with _Page(title=" and ".join(names), analytics_enabled=False, fill_width=True, delete_cache=_KEPT) as blocks:
        blocks.home, blocks.limits = folder, limits
        gr.HTML(_head(engines, names))
        with gr.Tabs():
            with gr.Tab("Chat", id="chat"):
                chat.draw()
            with gr.Tab("Many at once", id="batch"):
                BatchTab(engines, names, folder, takes, limits).draw()
    return blocks


def _head(engines: Sequence[Engine], names: Sequence[str]) -> str:
    if len(engines) > 1:
        title, about = "Side by side", "Both models are asked the same questions."
    else:
        title, about = names[0], engines[0].assembly.config.about
    return f'<header class="mm-head"><h1>{safe(title)}</h1><p>{safe(about)}</p></header>'


def _takes(engine: Engine) -> set[Modality]:
    return {s.modality for s in engine.assembly.processor.streams.values()}


def _has_system(engine: Engine) -> bool:
    """Whether the model's template has a place for a system text."""
    template = engine.assembly.vocabulary.template
    return template.user_text and bool(template.head or template.jinja is not None)
