"""Evaluation room: questions of any kind whose whole answer must be one of the references."""

from pathlib import Path

from mmlm.evaluation.metrics import exact
from mmlm.evaluation.statistics import mean
from mmlm.evaluation.tasks.records import read
from mmlm.evaluation.tasks.task import SHORT, Prediction, Question, Scored, Task
from mmlm.training.readers.qa import Qa


class ExactTask(Task):
    """Rows of JSON Lines `{"id", "question", "answer" or "answers": [...], "category"}` with `image`, `audio` or `video`,
    several of them (`images`), or none.

    `rule` says what is compared: `words` (VQA's normaliser), `case-punctuation`, `case`, or `verbatim`, the text as it
    stands but for space at its ends. An empty answer is wrong.
    """

    name = "exact"
    judged = "exact match"
    measures = (mean("exact match"),)

    def __init__(
        self,
        path: Path,
        *,
        images: str | None = None,
        rule: exact.Rule = "words",
        prompt: str = SHORT,
        tokens: int = 32,
    ) -> None:
        super().__init__([path], rule=rule, prompt=prompt, tokens=tokens)
        self.reader = Qa(path, images=images, prompt=prompt)
        self.rule, self.tokens, self.version = rule, tokens, exact.version(rule)

    def questions(self) -> list[Question]:
        return [read(self.reader, i, "category") for i in range(len(self.reader))]

    def score(self, question: Question, prediction: Prediction) -> Scored:
        said = prediction.text.strip()
        answer = exact.parse(said, self.rule)
        right = bool(answer) and exact.score(said, [r.strip() for r in question.references], self.rule)
        return Scored({"exact match": float(right)}, bool(answer), answer)
