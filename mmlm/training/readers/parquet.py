"""Reader of Parquet files: one row is one sample, with pictures and sounds as bytes inside the row."""

import threading
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mmlm.errors import InputError
from mmlm.sample import ITEMS, Item, Modality, Sample, Turn
from mmlm.training.readers.conversation import Supply, read_turns
from mmlm.training.readers.field import Field
from mmlm.training.readers.llava import conversation_record, name, own_id
from mmlm.training.readers.prompt import Prompt, lettered, most_common, references
from mmlm.training.readers.qa import choices_of
from mmlm.training.readers.shards import expand
from mmlm.training.readers.source import LIMIT, MODALITIES, Folders

_TEXTS = ("conversations", "messages", "texts", "question", "caption", "text")
_MEDIA = tuple(n for m in MODALITIES for n in (m, f"{m}s"))
_CACHED = 2


class Parquet:
    """A file, a folder of files or a pattern `part-{000..011}.parquet`.

    `image` (`video`, `audio`) is bytes, a path, or a struct of `bytes` and `path`; `images` a list of those. The rest
    of a row is the first that is not null of `conversations` (as in `llava`), `messages` (as in `messages`), `texts`
    (a list of `user` and `assistant`, with every item before the first), `question` with `answer` or `answers` (and
    `choices`), `caption`, `text`. `prompt` words questions and requests for captions, with {items}, {question} and
    {choices} as far as there are such columns. Paths are relative to `images`, `videos`, `audios`.

    A row group is the smallest piece that can be read, and the last two are kept: files that are drawn from in random
    order should be written with small ones (about 100 rows).
    """

    def __init__(
        self,
        path: Path,
        *,
        images: str | None = None,
        videos: str | None = None,
        audios: str | None = None,
        prompt: str | None = None,
        loose_marks: bool = False,
        unanswered: bool = False,
    ) -> None:
        self.path, self.loose, self.unanswered = path, loose_marks, unanswered
        self.files = expand(path, (".parquet",))
        self.folders = Folders.beside(self.files[0], images, videos, audios)
        self.columns, rows = _schemas(self.files)
        asks = bool(self.columns & {"question", "texts"})
        if prompt is None:
            prompt = "{items}\n{question}" if asks else "{items}"
        self.prompt = Prompt(prompt, *(["question"] if asks else []), *(self.columns & {"choices"}))
        self.groups = [(f, g) for f, counts in enumerate(rows) for g in range(len(counts))]
        self.group_start = _starts([n for counts in rows for n in counts])
        self.file_start = _starts([sum(counts) for counts in rows])
        if not len(self):
            raise InputError(f"{path}: holds no row")
        self._empty_cache()

    def _empty_cache(self) -> None:
        """Row groups that were read, in this process alone."""
        self.cache: OrderedDict[int, Any] = OrderedDict()
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {k: v for k, v in self.__dict__.items() if k not in {"cache", "lock"}}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update(state)
        self._empty_cache()

    def __len__(self) -> int:
        return int(self.group_start[-1])

    def where(self, i: int) -> str:
        """The place of row i for messages: the file, and the row's number in it."""
        file = int(np.searchsorted(self.file_start, i, side="right")) - 1
        return f"{self.files[file]}#{i - int(self.file_start[file])}"

    def __getitem__(self, i: int) -> Sample:
        i = range(len(self))[i]
        row = self._row(i)
        items = {m: [self._item(f, m) for f in _cells(row, m)] for m in MODALITIES}
        return Sample(self._turns(row, items), name(self.path, i, row), self.where(i))

    def record(self, i: int) -> dict[str, Any]:
        """The row without its media, with every reference as `answers`."""
        i = range(len(self))[i]
        row = self._row(i)
        plain = Field(row.where, "", {k: v for k, v in row.object().items() if k not in _MEDIA})
        otherwise = name(self.path, i, row)
        for turns, role, content in (("conversations", "from", "value"), ("messages", "role", "content")):
            if row[turns].present:
                return conversation_record(plain, otherwise, turns, role, content)
        return {**plain.object(), "id": own_id(row, otherwise), "answers": self._answers(row)}

    def _turns(self, row: Field, items: Mapping[Modality, list[Item]]) -> tuple[Turn, ...]:
        """The turns of a row, of whichever form it has."""
        supply = Supply(items, self.folders, self.loose)
        if row["conversations"].present:
            return read_turns(row["conversations"], "from", "value", supply, unanswered=self.unanswered)
        if row["messages"].present:
            return read_turns(row["messages"], "role", "content", supply, unanswered=self.unanswered)
        every = [item for m in MODALITIES for item in items[m]]
        if row["texts"].present:
            return self._exchanges(row["texts"], every)
        words = {"choices": lettered(choices_of(row))} if "choices" in self.columns else {}
        if "question" in self.columns:
            words["question"] = row["question"].text()
        elif not every:
            raise row.refuse("an item beside the caption")
        asked = Turn("user", self.prompt(every, **words))
        answers = self._answers(row)
        return (asked, Turn("assistant", (most_common(answers),))) if answers else (asked,)

    def _exchanges(self, texts: Field, items: list[Item]) -> tuple[Turn, ...]:
        """The turns of a list of exchanges; the items belong to the first."""
        turns: list[Turn] = []
        for exchange in texts.elements():
            words = {"question": exchange["user"].text()} | ({"choices": ""} if "choices" in self.columns else {})
            turns.append(Turn("user", self.prompt(items if not turns else [], **words)))
            turns.append(Turn("assistant", (exchange["assistant"].text(),)))
        if not turns:
            raise texts.refuse("at least one exchange")
        return tuple(turns)

    def _answers(self, row: Field) -> list[str]:
        """The reference answers of a question, the last answer of exchanges, or the caption."""
        if row["texts"].present:
            found = [e["assistant"].text() for e in row["texts"].elements()[-1:]]
        elif row["question"].present:
            found = references(row)
        else:
            found = [row[k].text() for k in ("caption", "text") if row[k].present][:1]
        if not found and not self.unanswered:
            raise row.refuse("an answer, a caption or a text (`unanswered: true` does without)")
        return found

    def _item(self, field: Field, modality: Modality) -> Item:
        """An item from bytes, from a path, or from a struct of both, of which the bytes go first."""
        if isinstance(field.value, dict):
            field = field["bytes"] if field["bytes"].present else field["path"]
        if not isinstance(field.value, bytes):
            return self.folders.item(field, modality)
        if not 0 < len(field.value) <= LIMIT:
            raise field.refuse(f"1 to {LIMIT} bytes")
        return ITEMS[modality](field.value)

    def _row(self, i: int) -> Field:
        """Row i; its group is read where it is not among the last ones."""
        group = int(np.searchsorted(self.group_start, i, side="right")) - 1
        with self.lock:
            if group not in self.cache:
                self.cache[group] = _read_group(self.files[self.groups[group][0]], self.groups[group][1])
                if len(self.cache) > _CACHED:
                    self.cache.popitem(last=False)
            self.cache.move_to_end(group)
            table = self.cache[group]
        return Field(self.where(i), "", table.slice(i - int(self.group_start[group]), 1).to_pylist()[0])


def _read_group(file: Path, number: int) -> Any:
    """One row group as a table."""
    try:
        with pq.ParquetFile(file) as opened:
            return opened.read_row_group(number)
    except (pa.ArrowException, OSError) as e:
        raise InputError(f"{file}: row group {number} cannot be read: {e}") from e


def _schemas(files: list[Path]) -> tuple[set[str], list[list[int]]]:
    """The columns, the same in all files, and the rows of every row group of every file."""
    columns: set[str] = set()
    rows = []
    for file in files:
        try:
            with pq.ParquetFile(file) as opened:
                names = set(opened.schema_arrow.names)
                rows.append([opened.metadata.row_group(g).num_rows for g in range(opened.num_row_groups)])
        except (pa.ArrowException, OSError) as e:
            raise InputError(f"{file}: cannot be read as Parquet: {e}") from e
        if columns and names != columns:
            other = ", ".join(sorted(names ^ columns))
            raise InputError(f"{file}: expected the columns of {files[0]}, got a difference in {other}")
        columns = names
    if not columns & set(_TEXTS):
        raise InputError(f"{files[0]}: expected a column {' or '.join(_TEXTS)}, got {', '.join(sorted(columns))}")
    return columns, rows


def _cells(row: Field, modality: Modality) -> list[Field]:
    """The media cells of a row: one of `image`, several of `images`."""
    one, many = row[modality], row[f"{modality}s"]
    return [*([one] if one.present else []), *(many.elements() if many.present else [])]


def _starts(sizes: list[int]) -> Any:
    """Where each of some pieces starts, and after the last one the whole."""
    return np.concatenate([[0], np.cumsum(np.array(sizes, dtype=np.int64))])
