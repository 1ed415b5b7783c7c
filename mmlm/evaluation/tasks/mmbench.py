"""Evaluation room: MMBench, lettered questions that are asked once for every rotation of their options."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmlm.errors import InputError
from mmlm.evaluation.metrics import letters, mmbench
from mmlm.evaluation.tasks.records import meta
from mmlm.evaluation.tasks.tables import tsv_rows
from mmlm.evaluation.tasks.task import HINTED, Prediction, Question, Scored, Task, asked
from mmlm.sample import Item
from mmlm.training.readers.field import Field
from mmlm.training.readers.prompt import Prompt, lettered
from mmlm.training.readers.source import encoded

_OPTIONS = "ABCDEFGH"


@dataclass(frozen=True, slots=True)
class _Row:
    """One row: its index, the index whose picture it shows, and its options."""

    index: int
    shows: int
    choices: tuple[str, ...]
    answer: int
    record: Field

    @property
    def question(self) -> int:
        return self.index % mmbench.ROTATION


class MmBenchTask(Task):
    """The TSV of the release: `index`, `question`, `hint`, `A` to `D`, `answer`, `category`, `l2-category`, `image` (in
    base64, or the index of the row that has it). Row i + k * 1,000,000 is rotation k of the options of row i; where the
    file holds no such row they are made. `circular: false` asks each question once. Circular
    accuracy is over the questions of which every rotation was asked, whatever `limit` drew.

    Without a judge model an answer is read by `rule`: `vlmevalkit` (its exact matching), or one of mmlm, llava, mmmu,
    first. The pictures of the file are kept in memory, encoded.
    """

    name = "mmbench"
    judged = "correct"
    measures = mmbench.MEASURES

    def __init__(
        self,
        path: Path,
        *,
        images: str | None = None,
        circular: bool = True,
        rule: letters.Rule = "vlmevalkit",
        prompt: str = HINTED,
        tokens: int = 16,
    ) -> None:
        if images is not None:
            raise InputError(f"{path}: MMBench's pictures stand inside its file; leave `images` out")
        super().__init__([path], circular=circular, rule=rule, prompt=prompt, tokens=tokens)
        self.circular, self.rule, self.tokens = circular, rule, tokens
        self.prompt = Prompt(prompt, "context", "question", "choices")
        self.version = f"{mmbench.VERSION}+{letters.version(rule)}"
        self.rotations: Counter[int] = Counter()

    def questions(self) -> list[Question]:
        path = self.files[0]
        pictures: dict[int, tuple[list[Item], str]] = {}
        rows = [self._row(r, pictures) for r in tsv_rows(path, ["index", "question", "A", "B", "answer", "image"])]
        if not any(r.index < mmbench.ROTATION for r in rows):
            raise InputError(f"{path}: holds no question; expected rows with an index below {mmbench.ROTATION}")
        for index, n in Counter(r.index for r in rows).items():
            if n > 1:
                raise InputError(f"{path}: expected each index once, got {index} {n} times")
        if not self.circular:
            rows = [r for r in rows if r.index < mmbench.ROTATION]
        elif all(r.index < mmbench.ROTATION for r in rows):
            rows = [rotated for r in rows for rotated in _rotations(r)]
            self.notes = ["the file holds each question once; the rotations of the options were made here"]
        self.rotations = Counter(r.question for r in rows)
        return [self._question(r, pictures) for r in rows]

    def _row(self, record: Field, pictures: dict[int, tuple[list[Item], str]]) -> _Row:
        """One row; its picture, where it brings one, is put into `pictures`."""
        index = _number(record["index"])
        choices = []
        for letter in _OPTIONS:
            if not record[letter].present:
                break
            choices.append(record[letter].text())
        if len(choices) < 2:
            raise record.refuse("at least the two options A and B")
        answer = record["answer"].one_of({c: i for i, c in enumerate(_OPTIONS[: len(choices)])})
        image = record["image"]
        if len(image.text()) <= 12 and image.text().isdecimal():
            return _Row(index, int(image.text()), tuple(choices), answer, record)
        try:
            pictures[index] = [encoded(image, "image")], ""
        except InputError as e:
            pictures[index] = [], str(e)
        # The text of a picture is not kept beside its bytes.
        kept = Field(record.where, "", {k: v for k, v in record.object().items() if k != "image"})
        return _Row(index, index, tuple(choices), answer, kept)

    def _question(self, row: _Row, pictures: dict[int, tuple[list[Item], str]]) -> Question:
        record = row.record
        lost: tuple[list[Item], str] = (
            [],
            f"{record.where}: image: there is no row with the index {row.shows} and a picture",
        )
        items, fault = pictures.get(row.shows, lost)
        hint = record["hint"]
        parts = self.prompt(
            items,
            context=hint.text() + "\n" if hint.present else "",
            question=record["question"].text(),
            choices=lettered(row.choices),
        )
        return Question(
            id=str(row.index),
            sample=asked(parts, str(row.index), record.where),
            references=(_OPTIONS[row.answer],),
            picture=str(row.shows % mmbench.ROTATION),
            choices=row.choices,
            meta=meta(record, "l2-category", "category"),
            fault=fault,
        )

    def score(self, question: Question, prediction: Prediction) -> Scored:
        return self.score_all([question], [prediction])[0]

    def score_all(self, questions: Sequence[Question], predictions: Sequence[Prediction]) -> list[Scored]:
        found = [letters.parse(p.text, q.choices or (), self.rule) for q, p in zip(questions, predictions, strict=True)]
        said = ["" if i is None else _OPTIONS[i] for i in found]
        indices = [int(q.id) for q in questions]
        rows = mmbench.values(
            [s == q.references[0] for s, q in zip(said, questions, strict=True)],
            [i % mmbench.ROTATION for i in indices],
            [i // mmbench.ROTATION for i in indices],
            self.rotations or None,
        )
        return [Scored(row, bool(s), s) for row, s in zip(rows, said, strict=True)]


def _rotations(row: _Row) -> list[_Row]:
    """A question as often as it has options, each time with the first option moved to the end."""
    size = len(row.choices)
    return [
        _Row(
            row.index + k * mmbench.ROTATION,
            row.shows,
            row.choices[k:] + row.choices[:k],
            (row.answer - k) % size,
            row.record,
        )
        for k in range(size)
    ]


def _number(field: Field) -> int:
    text = field.text()
    if not text.isdecimal() or len(text) > 12:
        raise field.refuse("a whole number from 0")
    return int(text)
