"""Evaluation room: TextVQA, questions whose answer is written in the picture."""

from pathlib import Path

from mmlm.evaluation.metrics import vqa
from mmlm.evaluation.statistics import mean
from mmlm.evaluation.tasks.records import listed, picture
from mmlm.evaluation.tasks.task import SHORT, Prediction, Question, Scored, Task, asked
from mmlm.training.readers.field import Field
from mmlm.training.readers.prompt import Prompt, references
from mmlm.training.readers.source import Folders

_ANNOTATORS = 10


class TextVqaTask(Task):
    """TextVQA_0.5.1_val.json: `{"data": [{"question_id", "question", "image_id", "answers": [ten texts]}]}`; the picture
    is `<image_id>.jpg` below `images`. The words that an OCR system found are no part of the prompt.

    `normaliser` is EvalAI's unless another of `vqa.NORMALISERS` is named.
    """

    name = "textvqa"
    measures = (mean("accuracy"),)

    def __init__(
        self,
        path: Path,
        *,
        images: str | None = None,
        normaliser: vqa.Normaliser = "evalai",
        prompt: str = SHORT,
        tokens: int = 16,
    ) -> None:
        super().__init__([path], normaliser=normaliser, prompt=prompt, tokens=tokens)
        self.normaliser, self.tokens, self.version = normaliser, tokens, vqa.version(normaliser)
        self.prompt, self.folders = Prompt(prompt, "question"), Folders.beside(path, images, None, None)

    def questions(self) -> list[Question]:
        return [self._question(r) for r in listed(self.files[0], "TextVQA")]

    def _question(self, record: Field) -> Question:
        id, image = record["question_id"].identity(), record["image_id"].identity()
        answers = tuple(references(record))
        if len(answers) != _ANNOTATORS:
            raise record["answers"].refuse(f"the answers of {_ANNOTATORS} people")
        items, fault = picture(self.folders, Field(record.where, "image_id", image + ".jpg"))
        return Question(
            id=id,
            sample=asked(self.prompt(items, question=record["question"].text()), id, record.where),
            references=answers,
            picture=image,
            fault=fault,
        )

    def score(self, question: Question, prediction: Prediction) -> Scored:
        accuracy, answer = vqa.score(prediction.text, question.references, self.normaliser)
        return Scored({"accuracy": accuracy if answer else 0.0}, bool(answer), answer)
