"""Evaluation room: questions with choices, answered by likelihood or by text."""

from pathlib import Path
from typing import Literal

from mmlm.errors import InputError
from mmlm.evaluation.metrics import choice
from mmlm.evaluation.metrics import letters as lettered
from mmlm.evaluation.statistics import mean
from mmlm.evaluation.tasks.records import read
from mmlm.evaluation.tasks.task import LETTER, SHORT, Prediction, Question, Scored, Task
from mmlm.training.readers.qa import Qa


class ChoiceTask(Task):
    """Rows of JSON Lines `{"id", "image", "question", "answer", "choices": [...], "category"}`; SEED-Bench's way.

    `by: likelihood` ranks the choices by their log-probability as the whole reply, per token unless `per_token` is
    false; `by: text` lets the model write and reads which choice it names. With `letters` the prompt lists the choices
    and the reply is a letter.
    """

    name = "choice"
    measures = (mean("accuracy"),)

    def __init__(
        self,
        path: Path,
        *,
        images: str | None = None,
        by: Literal["likelihood", "text"] = "likelihood",
        per_token: bool = True,
        letters: bool = False,
        prompt: str | None = None,
        tokens: int = 16,
    ) -> None:
        prompt = prompt or (LETTER if letters else SHORT)
        super().__init__([path], by=by, per_token=per_token, letters=letters, prompt=prompt, tokens=tokens)
        self.reader = Qa(path, images=images, prompt=prompt)
        self.letters, self.per_token, self.tokens, self.ranks = letters, per_token, tokens, by == "likelihood"
        self.version = choice.VERSION if self.ranks else lettered.version("mmlm") if letters else "choice-by-text-1"

    def questions(self) -> list[Question]:
        found = [read(self.reader, i, "category") for i in range(len(self.reader))]
        for i, question in enumerate(found):
            if not question.choices:
                raise InputError(f"{self.reader.where(i)}: choices: expected the options of the question, got none")
        return found

    def replies(self, question: Question) -> tuple[str, ...]:
        choices = question.choices or ()
        return tuple(lettered.LETTERS[: len(choices)]) if self.letters else choices

    def score(self, question: Question, prediction: Prediction) -> Scored:
        choices = question.choices or ()
        if self.ranks:
            index = choice.likeliest(prediction.ranks, self.per_token)
        elif self.letters:
            index = lettered.parse(prediction.text, choices)
        else:
            index = lettered.named(prediction.text, choices)
        answer = "" if index is None else choices[index]
        return Scored({"accuracy": float(answer == question.references[0])}, index is not None, answer)
