"""Evaluation room: DocVQA, questions whose answer stands on a scanned page."""

from pathlib import Path

from mmlm.evaluation.metrics import anls, exact
from mmlm.evaluation.statistics import mean
from mmlm.evaluation.tasks.records import listed, picture
from mmlm.evaluation.tasks.task import SHORT, Prediction, Question, Scored, Task, asked
from mmlm.training.readers.field import Field
from mmlm.training.readers.prompt import Prompt
from mmlm.training.readers.source import Folders


class DocVqaTask(Task):
    """val_v1.0.json: `{"data": [{"questionId", "question", "image": "documents/x_1.png", "answers": [...],
    "question_types": [...]}]}`; InfographicVQA's `image_local_name` is read too. Pictures are relative to `images`.

    `rule: paper` is ANLS as it was defined; `stvqa` and `raw` are the variants of evaluators in use
    (`mmlm.evaluation.metrics.anls`). Beside it stands the share of answers that are exact but for case.
    """

    name = "docvqa"
    judged = "ANLS"
    measures = (mean("ANLS"), mean("exact match"))

    def __init__(
        self, path: Path, *, images: str | None = None, rule: anls.Rule = "paper", prompt: str = SHORT, tokens: int = 32
    ) -> None:
        super().__init__([path], rule=rule, prompt=prompt, tokens=tokens)
        self.rule, self.prompt, self.tokens, self.version = rule, Prompt(prompt, "question"), tokens, anls.version(rule)
        self.folders = Folders.beside(path, images, None, None)

    def questions(self) -> list[Question]:
        return [self._question(r) for r in listed(self.files[0], "DocVQA")]

    def _question(self, record: Field) -> Question:
        id = record["questionId"].identity()
        image = record["image"] if record["image"].present else record["image_local_name"]
        if not record["answers"].present:
            raise record["answers"].refuse("the answers of people (the test split is published without them)")
        references = tuple(f.text() for f in record["answers"].elements())
        if not references:
            raise record["answers"].refuse("at least one answer")
        items, fault = picture(self.folders, image)
        kinds = [k.text() for k in record["question_types"].elements()] if record["question_types"].present else []
        return Question(
            id=id,
            sample=asked(self.prompt(items, question=record["question"].text()), id, record.where),
            references=references,
            picture=image.text(),
            meta={"type": kinds[0] if len(kinds) == 1 else "several"} if kinds else {},
            fault=fault,
        )

    def score(self, question: Question, prediction: Prediction) -> Scored:
        answer = anls.parse(prediction.text, self.rule)
        if not answer:
            return Scored({"ANLS": 0.0, "exact match": 0.0}, False)
        values = {
            "ANLS": anls.score(prediction.text, question.references, self.rule),
            "exact match": float(exact.score(prediction.text.strip(), question.references, "case")),
        }
        return Scored(values, True, answer)
