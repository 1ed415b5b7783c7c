"""Reader of VQAv2: a file of questions and, where there is one, a file of annotations with ten answers each."""

from pathlib import Path
from typing import Any

from mmlm.errors import InputError
from mmlm.sample import Sample, Turn
from mmlm.training.readers.captions import key
from mmlm.training.readers.field import Field
from mmlm.training.readers.prompt import Prompt, most_common, references
from mmlm.training.readers.source import Folders
from mmlm.training.readers.table import open_tables


class Vqa:
    """`{"questions": [{"question_id", "image_id", "question"}], "data_subtype"}` and, in the file `annotations`
    (relative to the folder of the questions), `{"annotations": [{"question_id", "answers": [{"answer"}, ...]}]}`.

    The answer to learn is the most common of the ten, the first of those given equally often; the record keeps all.
    Without `annotations` a sample ends with the question. `file_name` says what a picture is called, from {subtype}
    (the question file's `data_subtype`) and {image_id} (twelve digits) or {id} (as it stands); a question's own `image`
    goes before it. `prompt` words the question. Pictures are relative to `images`.
    """

    def __init__(
        self,
        path: Path,
        *,
        annotations: str | None = None,
        images: str | None = None,
        prompt: str = "{items}\n{question}",
        file_name: str = "COCO_{subtype}_{image_id}.jpg",
    ) -> None:
        self.path, self.prompt, self.file_name = path, Prompt(prompt, "question"), file_name
        tables, rest = open_tables(path, {"questions": ()})
        if not len(tables.get("questions", ())):
            raise InputError(f"{path}: expected a list 'questions' with at least one question, got none")
        self.questions = tables["questions"]
        self.subtype = str(rest.get("data_subtype", ""))
        self.folders = Folders.beside(path, images, None, None)
        self.annotations = None
        if annotations is not None:
            file = path.parent / Path(annotations).expanduser()
            found, _ = open_tables(file, {"annotations": ("question_id",)})
            if "annotations" not in found:
                raise InputError(f"{file}: expected a list 'annotations', got none")
            self.annotations = found["annotations"]
            self.answer_at = {key(v): i for i, v in enumerate(self.annotations.columns["question_id"])}

    def __len__(self) -> int:
        return len(self.questions)

    def where(self, i: int) -> str:
        """The place of record i for messages."""
        return self.questions.where(i)

    def __getitem__(self, i: int) -> Sample:
        question = self.questions[i]
        id = question["question_id"].identity()
        item = self.folders.item(self._picture(question), "image")
        turns = [Turn("user", self.prompt([item], question=question["question"].text()))]
        if (annotation := self._annotation(question)) is not None:
            turns.append(Turn("assistant", (most_common(_answers(annotation)),)))
        return Sample(tuple(turns), f"{self.path.stem}#{i}/{id}", self.where(i))

    def record(self, i: int) -> dict[str, Any]:
        """The question and its annotation, with every answer as text in `answers`."""
        question = self.questions[i]
        annotation = self._annotation(question)
        found = {**question.object(), "id": question["question_id"].identity(), "answers": []}
        if annotation is not None:
            found = {**annotation.object(), **found, "answers": _answers(annotation)}
        return found

    def _annotation(self, question: Field) -> Field | None:
        """What the annotators say to a question; None without a file of annotations."""
        if self.annotations is None:
            return None
        if (at := self.answer_at.get(question["question_id"].identity())) is None:
            raise question["question_id"].refuse(f"the id of an annotation in {self.annotations.path}")
        return self.annotations[at]

    def _picture(self, question: Field) -> Field:
        """The name of the picture of a question, as a field for messages."""
        if question["image"].present:
            return question["image"]
        number = question["image_id"].identity()
        file = (
            self.file_name.replace("{subtype}", self.subtype)
            .replace("{image_id}", number.zfill(12))
            .replace("{id}", number)
        )
        return Field(question.where, "image_id", file)


def _answers(annotation: Field) -> list[str]:
    """Every answer, at least one."""
    found = references(annotation)
    if not found:
        raise annotation["answers"].refuse("at least one answer")
    return found
