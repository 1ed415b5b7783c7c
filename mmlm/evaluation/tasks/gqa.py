"""Evaluation room: GQA, compositional questions over scenes."""

from pathlib import Path

from mmlm.evaluation.metrics import gqa
from mmlm.evaluation.statistics import mean
from mmlm.evaluation.tasks.records import entries, picture
from mmlm.evaluation.tasks.task import SHORT, Prediction, Question, Scored, Task, asked
from mmlm.training.readers.field import Field
from mmlm.training.readers.prompt import Prompt
from mmlm.training.readers.source import Folders


class GqaTask(Task):
    """`{"<id>": {"question", "imageId", "answer", "types": {"structural"}}}`, as testdev_balanced_questions.json is.

    Accuracy over all, over binary and open questions (open are those whose structure is "query"), and by structure. Of
    the official script's other scores (consistency, validity ...) none is given: they need the scene graphs.
    """

    name = "gqa"
    version = gqa.VERSION
    measures = (mean("accuracy"),)

    def __init__(self, path: Path, *, images: str | None = None, prompt: str = SHORT, tokens: int = 16) -> None:
        super().__init__([path], prompt=prompt, tokens=tokens)
        self.prompt, self.tokens = Prompt(prompt, "question"), tokens
        self.folders = Folders.beside(path, images, None, None)

    def questions(self) -> list[Question]:
        return [self._question(id, record) for id, record in entries(self.files[0], "GQA's object of questions by id")]

    def _question(self, id: str, record: Field) -> Question:
        image = Field(record.where, "imageId", record["imageId"].identity() + ".jpg")
        items, fault = picture(self.folders, image)
        structure = record["types"]["structural"] if record["types"].present else record["types"]
        kind = {"structure": structure.text()} if structure.present else {}
        return Question(
            id=id,
            sample=asked(self.prompt(items, question=record["question"].text()), id, record.where),
            references=(record["answer"].text(),),
            picture=str(image.value),
            meta=kind and {"answer": "open" if kind["structure"] == "query" else "binary", **kind},
            fault=fault,
        )

    def score(self, question: Question, prediction: Prediction) -> Scored:
        answer = gqa.parse(prediction.text)
        right = bool(answer) and gqa.exact(prediction.text, question.references[0])
        return Scored({"accuracy": float(right)}, bool(answer), answer)
