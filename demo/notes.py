"""Part of the demo: what is wrong with an input, told on the page."""

from collections.abc import Iterator
from contextlib import contextmanager

import gradio as gr

from mmlm.errors import InputError

from .panel import safe

_SECONDS = 12.0
_TITLE = "That did not work"


@contextmanager
def readable() -> Iterator[None]:
    """An InputError becomes a note on the page: its sentence as text, never as markup. What fails on this machine (a full disk)
    becomes one too, without the names of its files."""
    try:
        yield
    except InputError as e:
        raise gr.Error(safe(str(e)), duration=_SECONDS, title=_TITLE, print_exception=False) from e
    except OSError as e:
        told = f"the machine that this page runs on could not do it: {e.strerror or type(e).__name__}"
        raise gr.Error(safe(told), duration=_SECONDS, title=_TITLE) from e
