"""Evaluation room: SEED-Bench, questions with four choices along the dimensions of understanding."""

from pathlib import Path
from typing import Literal

from mmlm.errors import InputError
from mmlm.evaluation.metrics import choice, letters
from mmlm.evaluation.statistics import mean
from mmlm.evaluation.tasks.records import entries, picture
from mmlm.evaluation.tasks.task import LETTER, SHORT, Prediction, Question, Scored, Task, asked
from mmlm.training.readers.field import Field
from mmlm.training.readers.prompt import Prompt, lettered
from mmlm.training.readers.source import Folders

_PICTURED = ("image", "single image")
_CHOICES = ("choice_a", "choice_b", "choice_c", "choice_d")


class SeedTask(Task):
    """SEED-Bench.json: `{"questions": [{"question_id", "question", "choice_a" ... "choice_d", "answer": "B", "data_id",
    "data_type": "image", "question_type_id"}], "question_type": {"Scene Understanding": 1, ...}}`. `data_id` is the name
    of the picture below `images`, which may lack its suffix there (`suffix` adds one).

    `by: likelihood`, as published, ranks the four choices per token; `by: text` reads a letter by `rule` (`first` is the
    first character, as harnesses have it). Questions about clips are left out: most are about a part of a long one.
    """

    name = "seed"
    measures = (mean("accuracy"),)

    def __init__(
        self,
        path: Path,
        *,
        images: str | None = None,
        by: Literal["likelihood", "text"] = "likelihood",
        per_token: bool = True,
        rule: letters.Rule = "mmlm",
        suffix: str = "",
        prompt: str | None = None,
        tokens: int = 16,
    ) -> None:
        prompt = prompt or (SHORT if by == "likelihood" else LETTER)
        super().__init__([path], by=by, per_token=per_token, rule=rule, suffix=suffix, prompt=prompt, tokens=tokens)
        self.ranks, self.per_token, self.rule, self.suffix, self.tokens = (
            by == "likelihood",
            per_token,
            rule,
            suffix,
            tokens,
        )
        self.version = choice.VERSION if self.ranks else letters.version(rule)
        self.prompt = Prompt(prompt, "question", "choices")
        self.folders = Folders.beside(path, images, None, None)

    def questions(self) -> list[Question]:
        path = self.files[0]
        whole = dict(entries(path, "SEED-Bench's object of questions"))
        records = whole["questions"].elements() if "questions" in whole else []
        pictured = [r for r in records if r["data_type"].text().lower() in _PICTURED]
        if not pictured:
            raise InputError(f"{path}: expected questions of the data_type 'image', got none among {len(records)}")
        if other := len(records) - len(pictured):
            self.notes = [f"{other} questions of {len(records)} are not about one picture and are left out"]
        types = whole["question_type"].object() if "question_type" in whole else {}
        names = {str(number): name for name, number in types.items()}
        return [self._question(r, names) for r in pictured]

    def _question(self, record: Field, names: dict[str, str]) -> Question:
        id, data = record["question_id"].identity(), record["data_id"]
        choices = tuple(record[c].identity() for c in _CHOICES)
        answer = record["answer"].one_of(dict(zip("ABCD", "ABCD", strict=True)))
        items, fault = picture(self.folders, Field(record.where, "data_id", data.identity() + self.suffix))
        number = record["question_type_id"].identity()
        if names and number not in names:
            raise record["question_type_id"].refuse(f"one of the question types {', '.join(names)}")
        parts = self.prompt(items, question=record["question"].text(), choices=lettered(choices))
        return Question(
            id=id,
            sample=asked(parts, id, record.where),
            references=(answer,),
            picture=data.identity(),
            choices=choices,
            meta={"dimension": names.get(number, number)},
            fault=fault,
        )

    def score(self, question: Question, prediction: Prediction) -> Scored:
        index = (
            choice.likeliest(prediction.ranks, self.per_token)
            if self.ranks
            else letters.parse(prediction.text, question.choices or (), self.rule)
        )
        answer = "" if index is None else letters.LETTERS[index]
        return Scored({"accuracy": float(answer == question.references[0])}, index is not None, answer)
