"""Evaluation room: POPE - is there such an object in the picture?"""

from collections.abc import Iterator
from pathlib import Path

from mmlm.errors import InputError
from mmlm.evaluation.metrics import pope
from mmlm.evaluation.tasks.records import meta, picture
from mmlm.evaluation.tasks.task import SHORT, Prediction, Question, Scored, Task, asked
from mmlm.training.readers.prompt import Prompt
from mmlm.training.readers.source import Folders
from mmlm.training.readers.table import open_records

_LABELS = {"yes": "yes", "no": "no", "Yes": "yes", "No": "no"}


class PopeTask(Task):
    """A file of rows `{"question_id" or "id", "image", "text" or "question", "label" or "answer"}`, or a folder with
    the splits `*_random.json`, `*_popular.json`, `*_adversarial.json`, which are then reported apart.

    `rule: llava` reads answers as the published numbers do: whatever does not say no is yes.
    """

    name = "pope"
    judged = "correct"
    measures = pope.MEASURES

    def __init__(
        self, path: Path, *, images: str | None = None, rule: pope.Rule = "mmlm", prompt: str = SHORT, tokens: int = 16
    ) -> None:
        files = sorted(f for f in path.iterdir() if f.suffix in {".json", ".jsonl"}) if path.is_dir() else [path]
        if not files:
            raise InputError(f"{path}: the folder holds no .json file; expected POPE's splits")
        super().__init__(files, rule=rule, prompt=prompt, tokens=tokens)
        self.folders = Folders.beside(files[0], images, None, None)
        self.rule, self.prompt, self.tokens, self.version = rule, Prompt(prompt, "question"), tokens, pope.version(rule)

    def questions(self) -> list[Question]:
        return [q for path in self.files for q in self._split(path)]

    def _split(self, path: Path) -> Iterator[Question]:
        split = path.stem.rpartition("_")[2]
        table = open_records(path)
        for record in (table[i] for i in range(len(table))):
            own = record["question_id"] if record["question_id"].present else record["id"]
            text = (record["text"] if record["text"].present else record["question"]).text()
            label = (record["label"] if record["label"].present else record["answer"]).one_of(_LABELS)
            items, fault = picture(self.folders, record["image"])
            id = f"{split}/{own.identity()}" if len(self.files) > 1 else own.identity()
            yield Question(
                id=id,
                sample=asked(self.prompt(items, question=text), id, record.where),
                references=(label,),
                picture=str(record["image"].value),
                meta=({"split": split} if len(self.files) > 1 else {}) | meta(record, "category"),
                fault=fault,
            )

    def score(self, question: Question, prediction: Prediction) -> Scored:
        said = prediction.text.strip()
        answer = pope.parse(said, self.rule) if said else ""
        return Scored(pope.counts(answer, question.references[0]), bool(answer), answer)
