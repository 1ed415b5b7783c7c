"""Evaluation room: speech that is to be written down."""

from pathlib import Path

from mmlm.evaluation.metrics import asr
from mmlm.evaluation.tasks.records import media
from mmlm.evaluation.tasks.task import Prediction, Question, Scored, Task, asked
from mmlm.training.readers.field import Field
from mmlm.training.readers.llava import name, own_id
from mmlm.training.readers.prompt import Prompt
from mmlm.training.readers.source import Folders
from mmlm.training.readers.table import open_records


class AsrTask(Task):
    """Rows of JSON Lines `{"id", "audio", "text" or "answer"}`; sounds are relative to `images`, as all media are. A row
    is asked its own `question`, where it has one, or else the option.

    WER, CER, MER and WIL are of all utterances together. `normaliser: basic` takes case, punctuation and what stands in
    brackets away from both sides; `none` compares words as they stand.
    """

    name = "asr"
    measures = asr.MEASURES

    def __init__(
        self,
        path: Path,
        *,
        images: str | None = None,
        normaliser: asr.Normaliser = "basic",
        question: str = "What is said?",
        prompt: str = "{items}\n{question}",
        tokens: int = 128,
    ) -> None:
        super().__init__([path], normaliser=normaliser, question=question, prompt=prompt, tokens=tokens)
        self.folders = Folders.beside(path, images, None, None)
        self.prompt, self.question, self.tokens = Prompt(prompt, "question"), question, tokens
        self.normaliser, self.version = normaliser, asr.version(normaliser)

    def questions(self) -> list[Question]:
        table = open_records(self.files[0])
        return [self._question(i, table[i]) for i in range(len(table))]

    def _question(self, i: int, record: Field) -> Question:
        id = own_id(record, name(self.files[0], i, record))
        items, fault = media(self.folders, record["audio"], "audio")
        question = record["question"].text() if record["question"].present else self.question
        return Question(
            id=id,
            sample=asked(self.prompt(items, question=question), id, record.where),
            references=((record["text"] if record["text"].present else record["answer"]).text(),),
            picture=str(record["audio"].value),
            fault=fault,
        )

    def score(self, question: Question, prediction: Prediction) -> Scored:
        said = asr.normalise(prediction.text, self.normaliser)
        return Scored(asr.counts(prediction.text, question.references[0], self.normaliser), bool(said), said)
