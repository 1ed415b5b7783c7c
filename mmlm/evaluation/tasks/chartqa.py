"""Evaluation room: ChartQA, questions about charts - one half asked by people, one half made from summaries."""

from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np

from mmlm.errors import InputError
from mmlm.evaluation.metrics import chartqa
from mmlm.evaluation.statistics import Array, Measure, Sums, mean, ratio
from mmlm.evaluation.tasks.records import picture
from mmlm.evaluation.tasks.task import SHORT, Prediction, Question, Scored, Task, asked
from mmlm.training.readers.prompt import Prompt
from mmlm.training.readers.source import Folders
from mmlm.training.readers.table import open_records

_HALVES = ("human", "augmented")


def _mean_of_halves(sums: Sums) -> Array:
    """The mean of the accuracies of the halves that hold a question."""
    held = np.sum([sums[f"n {h}"] > 0 for h in _HALVES], axis=0)
    whole = np.sum([ratio(sums[f"correct {h}"], sums[f"n {h}"]) for h in _HALVES], axis=0)
    return ratio(np.asarray(whole), np.asarray(held, dtype=np.float64))


class ChartQaTask(Task):
    """A file of rows `{"imgname", "query", "label"}`, or the folder with `test_human.json` and `test_augmented.json`
    (`split` names others), which are then reported apart and, as published, as the mean of both. Pictures are in the
    folder `png` beside them, or in `images`.

    `rule: published` compares texts as they stand ("1,000", "$5" and "Blue." are wrong); `rule: mmlm` reads these.
    """

    name = "chartqa"
    judged = "relaxed accuracy"

    def __init__(
        self,
        path: Path,
        *,
        images: str | None = None,
        split: str = "test",
        rule: chartqa.Rule = "published",
        prompt: str = SHORT,
        tokens: int = 16,
    ) -> None:
        files = [path]
        if path.is_dir():
            files = [f for h in _HALVES if (f := path / f"{split}_{h}.json").is_file()]
            if not files:
                raise InputError(f"{path}: holds neither {split}_human.json nor {split}_augmented.json")
        super().__init__(files, split=split, rule=rule, prompt=prompt, tokens=tokens)
        beside = "png" if images is None and (files[0].parent / "png").is_dir() else images
        self.folders = Folders.beside(files[0], beside, None, None)
        self.rule, self.prompt, self.tokens = rule, Prompt(prompt, "question"), tokens
        self.version = chartqa.version(rule)
        self.measures = self.recorded(()) if len(files) > 1 else self.recorded(())[:1]

    @classmethod
    def recorded(cls, keys: Collection[str]) -> Sequence[Measure]:
        return (mean("relaxed accuracy"), Measure("mean of halves", _mean_of_halves))

    def questions(self) -> list[Question]:
        return [q for path in self.files for q in self._half(path)]

    def _half(self, path: Path) -> Iterator[Question]:
        half = next((h for h in _HALVES if h in path.stem), "")
        table = open_records(path)
        for i, record in enumerate(table[i] for i in range(len(table))):
            id = f"{path.stem}/{i}"
            items, fault = picture(self.folders, record["imgname"])
            yield Question(
                id=id,
                sample=asked(self.prompt(items, question=record["query"].text()), id, record.where),
                references=(record["label"].identity(),),
                picture=record["imgname"].text(),
                meta={"half": half} if half else {},
                fault=fault,
            )

    def score(self, question: Question, prediction: Prediction) -> Scored:
        answer = chartqa.parse(prediction.text, self.rule)
        right = float(bool(answer.strip()) and chartqa.relaxed(prediction.text, question.references[0], self.rule))
        own = question.meta.get("half", "")
        values = {"relaxed accuracy": right}
        for half in _HALVES:
            values |= {f"n {half}": float(half == own), f"correct {half}": right * (half == own)}
        return Scored(values, bool(answer.strip()), answer)
