"""What goes wrong is told on the page as a sentence: markup is text, and no file of this machine is named."""

import errno

import gradio as gr
import pytest

from mmlm.demo.notes import readable
from mmlm.errors import InputError


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (InputError("<b>a.png</b>: expected a JPEG"), "&lt;b&gt;a.png&lt;/b&gt;: expected a JPEG"),
        (OSError(errno.ENOSPC, "No space left on device", "/home/me/x"), "could not do it: No space left on device"),
        (PermissionError(), "could not do it: PermissionError"),
    ],
)
def test_what_goes_wrong_is_a_sentence(error: Exception, told: str) -> None:
    with pytest.raises(gr.Error) as raised, readable():
        raise error
    assert told in raised.value.message and "/home" not in raised.value.message


def test_a_fault_of_ours_is_no_sentence() -> None:
    with pytest.raises(KeyError), readable():
        raise KeyError("x")
