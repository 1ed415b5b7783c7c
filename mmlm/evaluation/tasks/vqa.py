"""Evaluation room: open questions about pictures, scored by VQA soft accuracy."""

from pathlib import Path

from mmlm.evaluation.metrics import vqa
from mmlm.evaluation.statistics import mean
from mmlm.evaluation.tasks.records import Records, read
from mmlm.evaluation.tasks.task import SHORT, Prediction, Question, Scored, Task
from mmlm.training.readers.qa import Qa
from mmlm.training.readers.vqa import Vqa


class VqaTask(Task):
    """VQAv2, OK-VQA, TextVQA, VizWiz: with `annotations` the two official files, otherwise rows of JSON Lines
    `{"id", "image", "question", "answers": [...] or "answer", "category"}`.

    `normaliser` is one of mmlm, evalai, official, older, vlmevalkit. With fewer than four annotators soft accuracy
    cannot reach 1, so there it is an exact match with any of them.
    """

    name = "vqa"
    measures = (mean("accuracy"),)

    def __init__(
        self,
        path: Path,
        *,
        images: str | None = None,
        annotations: str | None = None,
        normaliser: vqa.Normaliser = "mmlm",
        prompt: str = SHORT,
        file_name: str = "COCO_{subtype}_{image_id}.jpg",
        tokens: int = 16,
    ) -> None:
        files = [path] if annotations is None else [path, path.parent / Path(annotations).expanduser()]
        super().__init__(files, normaliser=normaliser, prompt=prompt, tokens=tokens)
        self.reader: Records = (
            Qa(path, images=images, prompt=prompt)
            if annotations is None
            else Vqa(path, annotations=annotations, images=images, prompt=prompt, file_name=file_name)
        )
        self.normaliser, self.tokens, self.version = normaliser, tokens, vqa.version(normaliser)

    def questions(self) -> list[Question]:
        found = [read(self.reader, i, "answer_type", "category") for i in range(len(self.reader))]
        if few := sum(len(q.references) < 4 for q in found):
            self.notes = [f"{few} questions have fewer than four annotators: an exact match with any of them counts 1"]
        return found

    def score(self, question: Question, prediction: Prediction) -> Scored:
        accuracy, answer = vqa.score(prediction.text, question.references, self.normaliser)
        return Scored({"accuracy": accuracy if answer else 0.0}, bool(answer), answer)
