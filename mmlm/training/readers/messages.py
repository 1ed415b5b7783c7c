"""Reader of chat messages: `messages` with text and marks, or with lists of typed parts."""

from pathlib import Path
from typing import Any

from mmlm.sample import Sample
from mmlm.training.readers.conversation import Supply, read_turns
from mmlm.training.readers.llava import conversation_record, name
from mmlm.training.readers.source import MODALITIES, Folders, listed
from mmlm.training.readers.table import Records, open_records


class Messages(Records):
    """`{"messages": [{"role": "user" | "assistant" | "system", "content": text or parts}, ...], "images": [...]}`.

    A part is `{"type": "text", "text"}`, `{"type": "image", "path"}` (`video`, `audio` alike; without a path it is the
    record's next item), or `{"type": "image_url", "image_url": {"url": "data:..."}}`. In plain text the marks <image>,
    <video>, <audio> stand for the record's items. An item of the assistant's may carry a `caption`, and `beside: true` where
    it was said together with the one before it. `loose_marks` takes a mark as text where the record has no item of its
    modality; `unanswered` allows a record to end with the question.
    Media are relative to `images`, `videos`, `audios`.
    """

    def __init__(
        self,
        path: Path,
        *,
        images: str | None = None,
        videos: str | None = None,
        audios: str | None = None,
        loose_marks: bool = False,
        unanswered: bool = False,
    ) -> None:
        self.path, self.loose, self.unanswered = path, loose_marks, unanswered
        self.table = open_records(path)
        self.folders = Folders.beside(path, images, videos, audios)

    def __getitem__(self, i: int) -> Sample:
        record = self.table[i]
        items = {m: [self.folders.item(f, m) for f in listed(record, m)] for m in MODALITIES}
        supply = Supply(items, self.folders, self.loose)
        turns = read_turns(record["messages"], "role", "content", supply, unanswered=self.unanswered)
        return Sample(turns, name(self.path, i, record), self.where(i))

    def record(self, i: int) -> dict[str, Any]:
        """The raw record, with `answers`: what the assistant says last."""
        return conversation_record(self.table[i], name(self.path, i, self.table[i]), "messages", "role", "content")
