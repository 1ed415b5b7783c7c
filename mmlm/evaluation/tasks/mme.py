"""Evaluation room: MME, yes-or-no questions in pairs over fourteen subtasks."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from mmlm.errors import InputError
from mmlm.evaluation.metrics import mme
from mmlm.evaluation.statistics import Measure
from mmlm.evaluation.tasks.records import picture
from mmlm.evaluation.tasks.task import Prediction, Question, Scored, Task, asked
from mmlm.training.readers.field import Field
from mmlm.training.readers.prompt import Prompt
from mmlm.training.readers.source import SUFFIXES, Folders

_ANSWERS = {"Yes": "yes", "No": "no", "yes": "yes", "no": "no"}
_INNER = "MME_Benchmark"  # later releases have the subtasks in this folder of theirs
_TEXTS, _PICTURES = "questions_answers_YN", "images"


class MmeTask(Task):
    """The folder of the release with a folder for each subtask: `existence/000000006040.txt` beside the picture of that
    name, or `posters/questions_answers_YN/tt0048028.txt` and `posters/images/tt0048028.jpg`. A line of the text is a
    question, a tab and Yes or No.

    `rule: published` reads yes or no among the first four characters; `rule: mmlm` reads the first sentence. The score
    of all is the sum over subtasks, as for perception and cognition; the published total is theirs together.
    """

    name = "mme"

    def __init__(
        self,
        path: Path,
        *,
        images: str | None = None,
        rule: mme.Rule = "published",
        prompt: str = "{items}\n{question}",
        tokens: int = 16,
    ) -> None:
        if not path.is_dir():
            state = "is a file" if path.exists() else "does not exist"
            raise InputError(f"{path} {state}; expected the folder of MME, with a folder for each subtask")
        path = inner if (inner := path / _INNER).is_dir() else path
        self.texts = {f.name: found for f in sorted(path.iterdir()) if f.is_dir() and (found := _texts(f))}
        if not self.texts:
            raise InputError(f"{path}: holds no folder with questions in .txt files; expected the subtasks of MME")
        super().__init__([t for found in self.texts.values() for t in found], rule=rule, prompt=prompt, tokens=tokens)
        self.folders = Folders.beside(path / "any", images, None, None)
        self.rule, self.prompt, self.tokens, self.version = rule, Prompt(prompt, "question"), tokens, mme.version(rule)
        self.measures = mme.measures(list(self.texts))

    @classmethod
    def recorded(cls, keys: Collection[str]) -> Sequence[Measure]:
        return mme.measures([k.removeprefix("n ") for k in keys if k.startswith("n ")])

    @classmethod
    def right(cls, values: Mapping[str, float]) -> float:
        return sum(v for k, v in values.items() if k.startswith("correct "))  # 0 but for the question's own subtask

    def questions(self) -> list[Question]:
        return [q for subtask, texts in self.texts.items() for text in texts for q in self._of(subtask, text)]

    def _of(self, subtask: str, path: Path) -> Iterator[Question]:
        """The questions to one picture."""
        try:
            lines = path.read_text(encoding="utf-8-sig").split("\n")
        except UnicodeDecodeError as e:
            raise InputError(f"{path}: expected UTF-8, got the byte {e.object[e.start]:#04x} at {e.start}") from e
        items, fault = picture(self.folders, Field(str(path), "picture", self._picture(subtask, path)))
        part = "perception" if subtask in mme.PERCEPTION else "cognition" if subtask in mme.COGNITION else ""
        pairs = [(i, line) for i, line in enumerate(lines, start=1) if line.strip()]
        if len(pairs) != mme.QUESTIONS:
            raise InputError(f"{path}: expected {mme.QUESTIONS} questions, a line each, got {len(pairs)}")
        for i, line in pairs:
            question, tab, answer = line.rpartition("\t")
            where = f"{path}:{i}"
            if not tab:
                raise Field(where, "", line).refuse("a question, a tab and Yes or No")
            id = f"{subtask}/{path.stem}/{i}"
            yield Question(
                id=id,
                sample=asked(self.prompt(items, question=Field(where, "question", question).text()), id, where),
                references=(Field(where, "answer", answer.strip()).one_of(_ANSWERS),),
                picture=f"{subtask}/{path.stem}",
                meta=({"part": part} if part else {}) | {"subtask": subtask},
                fault=fault,
            )

    def _picture(self, subtask: str, text: Path) -> str:
        """The path of the picture that a text belongs to, below the folder of pictures."""
        folder = f"{subtask}/{_PICTURES}" if text.parent.name == _TEXTS else subtask
        names = [f"{folder}/{text.stem}.{s}" for s, m in SUFFIXES.items() if m == "image"]
        return next((n for n in names if (self.folders.roots["image"] / n).is_file()), names[0])

    def score(self, question: Question, prediction: Prediction) -> Scored:
        return self.score_all([question], [prediction])[0]

    def score_all(self, questions: Sequence[Question], predictions: Sequence[Prediction]) -> list[Scored]:
        said = [mme.parse(p.text, self.rule) for p in predictions]
        correct = [bool(s) and s == q.references[0] for s, q in zip(said, questions, strict=True)]
        rows = mme.values(
            correct, [q.picture for q in questions], [q.meta["subtask"] for q in questions], list(self.texts)
        )
        return [Scored(row, bool(s), s) for row, s in zip(rows, said, strict=True)]


def _texts(folder: Path) -> list[Path]:
    """The texts with questions of one subtask."""
    inner = folder / _TEXTS
    return sorted((inner if inner.is_dir() else folder).glob("*.txt"))
