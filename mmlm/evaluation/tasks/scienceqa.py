"""Evaluation room: ScienceQA, lettered questions of which about half have a picture."""

from pathlib import Path

from mmlm.errors import InputError
from mmlm.evaluation.metrics import letters
from mmlm.evaluation.statistics import mean
from mmlm.evaluation.tasks.records import entries, meta, picture
from mmlm.evaluation.tasks.task import HINTED, Prediction, Question, Scored, Task, asked
from mmlm.sample import Item
from mmlm.training.readers.field import Field
from mmlm.training.readers.prompt import Prompt, lettered
from mmlm.training.readers.qa import choices_of
from mmlm.training.readers.source import Folders


class ScienceQaTask(Task):
    """problems.json `{"<id>": {"question", "choices", "answer": 1, "hint", "image", "split", "subject"}}`; the picture
    of problem 17 of the split test is `test/17/image.png` below `images`.

    `rule: llava` is the published parse (the letter alone, "B. ...", "The answer is B."); `rule: mmlm` reads more
    forms. `context: false` leaves the hint out of the prompt.
    """

    name = "scienceqa"
    measures = (mean("accuracy"),)

    def __init__(
        self,
        path: Path,
        *,
        images: str | None = None,
        split: str = "test",
        rule: letters.Rule = "llava",
        context: bool = True,
        prompt: str = HINTED,
        tokens: int = 16,
    ) -> None:
        super().__init__([path], split=split, rule=rule, context=context, prompt=prompt, tokens=tokens)
        self.split, self.rule, self.context, self.tokens = split, rule, context, tokens
        self.version = letters.version(rule)
        self.prompt = Prompt(prompt, "context", "question", "choices")
        self.folders = Folders.beside(path, images, None, None)

    def questions(self) -> list[Question]:
        rows = entries(self.files[0], "ScienceQA's object of problems by id")
        found = [self._question(id, r) for id, r in rows if r["split"].value == self.split]
        if not found:
            raise InputError(f"{self.files[0]}: no problem is of the split {self.split!r}; expected train, val or test")
        return found

    def _question(self, id: str, record: Field) -> Question:
        choices, answer, hint = choices_of(record), record["answer"].value, record["hint"].value
        if not isinstance(answer, int) or isinstance(answer, bool) or not 0 <= answer < len(choices):
            raise record["answer"].refuse(f"the number of one of the {len(choices)} choices, from 0")
        items: list[Item] = []
        fault, image = "", record["image"]
        if image.present:
            items, fault = picture(self.folders, Field(record.where, "image", f"{self.split}/{id}/{image.text()}"))
        parts = self.prompt(
            items,
            context=f"Context: {hint.strip()}\n" if self.context and isinstance(hint, str) and hint.strip() else "",
            question=record["question"].text(),
            choices=lettered(choices),
        )
        return Question(
            id=id,
            sample=asked(parts, id, record.where),
            references=(choices[answer],),
            picture=id,
            choices=tuple(choices),
            meta={"picture": "yes" if image.present else "no"} | meta(record, "subject"),
            fault=fault,
        )

    def score(self, question: Question, prediction: Prediction) -> Scored:
        choices = question.choices or ()
        index = letters.parse(prediction.text, choices, self.rule)
        answer = "" if index is None else choices[index]
        return Scored({"accuracy": float(answer == question.references[0])}, index is not None, answer)
