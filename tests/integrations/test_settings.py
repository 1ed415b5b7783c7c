"""The generation keywords of the suites as a decoding."""

import logging
from typing import Any

import pytest

from mmlm.errors import InputError
from mmlm.integrations.settings import LIMIT, decoding_of
from mmlm.reply import Decoding


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, Decoding(LIMIT)),
        ({"max_new_tokens": 16, "temperature": 0, "do_sample": False, "num_beams": 1, "top_p": 1.0}, Decoding(16)),
        ({"max_new_tokens": 5, "do_sample": False, "temperature": 0.7, "top_p": 0, "top_k": 3}, Decoding(5)),
        ({"max_new_tokens": 5, "do_sample": True, "temperature": 0}, Decoding(5)),
        ({"max_new_tokens": None, "temperature": None, "top_p": None, "repetition_penalty": None}, Decoding(LIMIT)),
        ({"temperature": 0.5, "top_p": 0.9, "seed": 3}, Decoding(LIMIT, 0.5, 0.9, seed=3)),
        ({"do_sample": True}, Decoding(LIMIT, 1.0)),
        ({"until": ["\n\n", "", "###"], "image_aspect_ratio": "pad"}, Decoding(LIMIT, stop=("\n\n", "###"))),
        ({"until": "\n", "temperature": 1}, Decoding(LIMIT, 1, stop=("\n",))),
    ],
)
def test_keywords_become_a_decoding(given: dict[str, Any], expected: Decoding) -> None:
    assert decoding_of(given, 2 * LIMIT, "task:0") == expected


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"max_tokens": 4}, "task:0: there is no generation keyword 'max_tokens'"),
        ({"stop_sequences": ["a"]}, "there is no generation keyword 'stop_sequences'"),
        ({"num_beams": 5}, "num_beams: expected 1, came 5"),
        ({"repetition_penalty": 1.2}, "repetition_penalty: expected 1, came 1.2"),
        ({"max_new_tokens": "many"}, "max_new_tokens: expected a number, came 'many'"),
        ({"max_new_tokens": True}, "max_new_tokens: expected a number, came True"),
        ({"max_new_tokens": 0}, "task:0: decoding: expected limit >= 1"),
        ({"temperature": -1.0, "do_sample": True}, "task:0: decoding: expected limit >= 1, temperature >= 0"),
        ({"temperature": 1.0, "top_p": 0}, "0 < top_p <= 1"),
        ({"temperature": 1.0, "top_k": 4}, "task:0: top_k: expected 0, came 4"),
        ({"until": [3]}, "until: expected a text or a list of texts, came [3]"),
    ],
)
def test_what_there_is_not_is_one_clear_error(given: dict[str, Any], told: str) -> None:
    with pytest.raises(InputError) as caught:
        decoding_of(given, LIMIT, "task:0")
    assert told in str(caught.value) and "\n" not in str(caught.value)


def test_a_slip_of_the_pen_is_seen() -> None:
    with pytest.raises(InputError, match="max_new_tokens"):
        decoding_of({"max_new_token": 4}, LIMIT, "task:0")


def test_a_long_reply_is_cut_to_its_room_and_that_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        made = [decoding_of({"max_new_tokens": 4096}, 77, "task:0") for _ in range(3)]
    assert made == [Decoding(77)] * 3
    assert [r.getMessage() for r in caplog.records] == [
        "max_new_tokens is 4096; replies are cut to 77 tokens, half of the run's context"
    ]


def test_each_repeat_is_drawn_anew() -> None:
    sampled = [decoding_of({"temperature": 1.0, "seed": 5}, LIMIT, "task:0", repeat=r).seed for r in range(3)]
    assert sampled == [5, 6, 7]
    assert decoding_of({}, LIMIT, "task:0", repeat=2) == decoding_of({}, LIMIT, "task:0")
