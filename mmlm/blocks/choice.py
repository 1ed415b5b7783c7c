"""Who computes attention: torch's fused kernel for packed sequences, torch's sdpa, or plain arithmetic; and why."""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from inspect import signature
from typing import Literal, get_args

import torch
from torch import Tensor

from mmlm.errors import InputError

Implementation = Literal["reference", "sdpa", "flash"]

_log = logging.getLogger(__name__)
_VARIABLE = "MMLM_ATTENTION"
# A stack and not a context variable: gradient checkpointing computes attention again in the threads of the backward pass.
_forced: list[Implementation] = []


@contextmanager
def forced(implementation: Implementation) -> Iterator[None]:
    """Use `implementation` inside the block, or fail: for tests and measurements. MMLM_ATTENTION does it for a process."""
    _forced.append(implementation)
    try:
        yield
    finally:
        _forced.pop()


def chosen(device: torch.device | str, dtype: torch.dtype = torch.float32) -> tuple[Implementation, str]:
    """Which implementation rows of segments get on `device`, and why. Raises InputError where a forced one cannot run."""
    return choose(torch.device(device).type, dtype, (64, 64), None, None)


def choose(
    device: str, dtype: torch.dtype, widths: tuple[int, int], obstacle: str | None, softcap: float | None
) -> tuple[Implementation, str]:
    """The implementation and the reason for it. `obstacle` is what in the call keeps flash from computing it; `widths`
    are those of the heads of queries and values. Raises InputError where the one asked for cannot compute this."""
    asked = wish()
    if softcap:
        if asked not in (None, "reference"):
            raise InputError(
                f"attention: {asked} was asked for, but only the reference implementation knows softcap={softcap}"
            )
        return "reference", "no fused kernel of torch knows softcap"
    obstacle = obstacle or _no_flash(device, dtype, widths)
    if asked == "flash" and obstacle:
        raise InputError(f"attention: flash was asked for ({_VARIABLE} or forced), but {obstacle}")
    if asked:
        return asked, "asked for"
    return ("sdpa", obstacle) if obstacle else ("flash", "CUDA, half precision, masked by segments")


def wish() -> Implementation | None:
    """What `forced` or the environment asks for."""
    found = _forced[-1] if _forced else os.environ.get(_VARIABLE, "auto")
    if found != "auto" and found not in get_args(Implementation):
        raise InputError(f"{_VARIABLE}={found!r}; expected auto, {', '.join(get_args(Implementation))}")
    return None if found == "auto" else found  # type: ignore[return-value]


@cache
def _no_flash(device: str, dtype: torch.dtype, widths: tuple[int, int]) -> str | None:
    """What keeps flash from this device, dtype and head width; None where it runs."""
    if device != "cuda":
        return f"flash needs CUDA, not {device}"
    if dtype not in (torch.float16, torch.bfloat16):
        return f"flash needs half precision, not {dtype}"
    if widths[0] != widths[1] or widths[0] > 256 or widths[0] % 8:
        return f"flash has no kernel for heads of width {widths[0]} and {widths[1]}"
    if torch.cuda.get_device_capability()[0] < 8:
        return "flash needs a GPU of compute capability 8 or later"
    try:
        known = signature(varlen()).parameters
    except ImportError:
        return "this torch has no torch.nn.attention.varlen"
    return None if {"scale", "window_size"} <= set(known) else "this torch's varlen_attn takes no scale or window"


def varlen() -> Callable[..., Tensor]:
    """torch's FlashAttention over packed sequences; ImportError where this torch has none."""
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn  # type: ignore[return-value]  # a tuple only where more is asked for


@cache
def say(name: str, reason: str, device: str) -> None:
    """Say once per process who computes attention, and why."""
    _log.info("attention on %s: %s (%s)", device, name, reason)
