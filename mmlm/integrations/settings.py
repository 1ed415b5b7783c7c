"""Integrations room: the generation keywords of the suites as a decoding."""

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

from mmlm.config.problems import hint
from mmlm.errors import InputError
from mmlm.reply import Decoding

LIMIT = 1024  # new tokens where a task does not say how many
_IDLE = ("image_aspect_ratio",)  # a wish to LLaVA's own picture processor: how a run sees is said by its encoder
_NEUTRAL = {"num_beams": 1, "repetition_penalty": 1}  # what is not offered may be asked for by its neutral value
_KNOWN = ("max_new_tokens", "do_sample", "temperature", "top_p", "top_k", "until", "seed", *_NEUTRAL, *_IDLE)
_log = logging.getLogger(__name__)


def decoding_of(given: Mapping[str, Any], room: int, where: str, repeat: int = 0) -> Decoding:
    """How `given` says that tokens are chosen; of sampling only where it asks for sampling, and None is not said.

    A reply is cut to `room` tokens, since the context holds the question too. `repeat` counts how often the same question
    came before: each has a seed of its own. Raises InputError, with `where`, for a keyword or value that there is not.
    """
    said = {k: v for k, v in given.items() if v is not None}
    for key in said:
        if key not in _KNOWN:
            raise InputError(
                f"{where}: there is no generation keyword {key!r}{hint(key, _KNOWN)}; known: {', '.join(_KNOWN)}"
            )
        if key in _NEUTRAL and said[key] != _NEUTRAL[key]:
            raise InputError(f"{where}: {key}: expected {_NEUTRAL[key]}, came {said[key]!r}: it is not offered")
    limit = int(_number(said, "max_new_tokens", LIMIT, where))
    if limit > room:
        _cut(limit, room)
    temperature = _number(said, "temperature", 1.0 if said.get("do_sample") else 0.0, where)
    try:
        if not said.get("do_sample", temperature > 0) or temperature == 0:
            return Decoding(min(limit, room), stop=_stops(said.get("until", []), where))
        if said.get("top_k", 0) != 0:
            raise InputError(f"top_k: expected 0, came {said['top_k']!r}: it is not offered; use top_p")
        return Decoding(
            min(limit, room),
            temperature,
            _number(said, "top_p", 1.0, where),
            _stops(said.get("until", []), where),
            int(_number(said, "seed", 0, where)) + repeat,
        )
    except InputError as e:
        raise InputError(f"{where}: {e}") from e


def _number(said: Mapping[str, Any], key: str, default: float, where: str) -> float:
    value = said.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{where}: {key}: expected a number, came {value!r}")
    return value


def _stops(until: Any, where: str) -> tuple[str, ...]:
    """The texts that end a reply; an empty one would end each before it begins."""
    stops = [until] if isinstance(until, str) else until
    if not isinstance(stops, list | tuple) or not all(isinstance(s, str) for s in stops):
        raise InputError(f"{where}: until: expected a text or a list of texts, came {until!r}")
    return tuple(s for s in stops if s)


@cache
def _cut(limit: int, room: int) -> None:
    """Said once for each pair of numbers."""
    _log.warning("max_new_tokens is %d; replies are cut to %d tokens, half of the run's context", limit, room)
