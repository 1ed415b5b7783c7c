"""Integrations room: a run as a model of VLMEvalKit."""

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import Any

from vlmeval.vlm.base import BaseModel

from mmlm.integrations.asking import Asked
from mmlm.integrations.messages import part_of, sample_of
from mmlm.reply import Decoding
from mmlm.sample import ITEMS, Part, Sample

Message = list[dict[str, str]]


class Model(BaseModel):
    """Asked one question at a time, by pieces in reading order. Clips come as clips where the run takes clips, and as
    pictures where it does not."""

    INTERLEAVE = True
    allowed_types = ("text", *ITEMS)

    def __init__(self, asked: Asked, decoding: Decoding) -> None:
        super().__init__()
        self.asked, self.decoding, self.questions = asked, decoding, 0
        self.VIDEO_LLM = "video" in {s.modality for s in asked.assembly.processor.streams.values()}

    def generate_inner(self, message: Message, dataset: str | None = None) -> str:
        """The reply to a question; empty where it cannot be put, with the reason in the log."""
        turns = [(role, list(pieces)) for role, pieces in groupby(message, key=lambda m: m.get("role", "user"))]
        if len(turns) > 1 and turns[-1][0] == "assistant":
            # The words that a reply is to begin with. A template has no place for them, so that they end the question.
            turns[-2:] = [(turns[-2][0], turns[-2][1] + turns[-1][1])]
        return self._reply(turns, dataset)

    def chat_inner(self, message: list[dict[str, Any]], dataset: str | None = None) -> str:
        """The reply to a conversation that ends with a user turn."""
        return self._reply([(m["role"], m["content"]) for m in message], dataset)

    def _reply(self, turns: Iterable[tuple[str, Message]], dataset: str | None) -> str:
        self.questions += 1
        where = f"{dataset}: question {self.questions}"

        def make() -> Sample:
            return sample_of([(role, _parts(pieces)) for role, pieces in turns], where)

        (said,) = self.asked.replies([make], self.decoding)
        return said.text if said else ""


def _parts(pieces: Iterable[Mapping[str, str]]) -> list[Part]:
    """Pieces as parts; between two texts comes a line break."""
    laid: list[Part] = []
    for piece in pieces:
        part = part_of(piece, "value")
        if laid and isinstance(part, str) and isinstance(laid[-1], str):
            part = "\n" + part
        laid.append(part)
    return laid
