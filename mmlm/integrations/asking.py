"""Integrations room: a run that is asked by a suite, and what it could not be asked."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from mmlm.errors import InputError
from mmlm.reply import Decoding, Reply, reply
from mmlm.sample import Sample
from mmlm.training.run import load_run

_log = logging.getLogger(__name__)


class Asked:
    """The system of a RUN folder. `refused` holds the reasons why some questions could not be put."""

    def __init__(self, run: str | Path, device: str | None = None) -> None:
        """Raises InputError where `run` is no run, or the device is not there."""
        if device is not None:
            _check(device)
        self.assembly = load_run(Path(run).expanduser(), device)
        self.refused: list[str] = []

    @property
    def room(self) -> int:
        """The tokens of the longest reply: half of the context, so that the other half is left to the question."""
        return self.assembly.processor.length // 2

    def replies(self, questions: Sequence[Callable[[], Sample]], decoding: Decoding) -> list[Reply | None]:
        """Replies in the order of `questions`, each of which makes its sample, all in one call of the model. Where that is
        refused they are asked one by one; None where one is refused again."""
        try:
            return list(reply(self.assembly, [make() for make in questions], decoding))
        except InputError as e:
            if len(questions) > 1:
                return [found for make in questions for found in self.replies([make], decoding)]
            self.refused.append(str(e))
            _log.warning("a question is not asked and has an empty reply: %s", e)
            return [None]


def _check(device: str) -> None:
    try:
        place = torch.device(device)
    except RuntimeError as e:
        raise InputError(f"device: expected cpu, cuda or cuda:0, came {device!r}") from e
    if place.type == "cuda" and (place.index or 0) >= torch.cuda.device_count():
        raise InputError(f"device: {device} was asked for, but there are {torch.cuda.device_count()} CUDA devices")
