"""Exact match on plain questions, with pictures and without."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmlm.errors import InputError
from mmlm.evaluation import evaluate, rescore
from mmlm.evaluation.choosing import build
from mmlm.evaluation.predictions import prompt_of
from mmlm.evaluation.tasks.exact import ExactTask
from mmlm.evaluation.tasks.task import Prediction


@pytest.fixture
def data(tmp_path: Path, paint: Callable[[Path, int], Path], rows: Callable[..., Path]) -> Path:
    for n in range(2):
        paint(tmp_path / f"{n}.png", n)
    return rows(
        tmp_path / "q.jsonl",
        [
            {"id": "a", "images": ["0.png", "1.png"], "question": "Same?", "answers": ["No", "they differ"]},
            {"id": "b", "image": "1.png", "question": "Which?", "answer": "The end.", "category": "text"},
            {"id": "c", "question": "One and one?", "answer": "Two"},
        ],
    )


@pytest.mark.parametrize(
    ("rule", "said", "right"),
    [
        ("words", ["no!", "END", "2"], [1, 1, 1]),
        ("case-punctuation", ["NO.", "the end", "2"], [1, 1, 0]),
        ("case", ["THEY DIFFER", "the end", "two "], [1, 0, 1]),
        ("verbatim", ["No", "the end.", " Two\n"], [1, 0, 1]),
        ("verbatim", ["", " ", "the"], [0, 0, 0]),
        ("words", ["the", "", "."], [0, 0, 0]),
    ],
)
def test_the_rule_says_what_is_compared(data: Path, rule: str, said: list[str], right: list[int]) -> None:
    task = build("exact", data, None, {"rule": rule})
    scored = task.score_all(task.questions(), [Prediction(s) for s in said])
    assert [s.values for s in scored] == [{"exact match": float(r)} for r in right]
    assert task.version == f"exact/{rule}-1"


def test_a_whole_evaluation(data: Path, tmp_path: Path, oracle: Any, decoding: Any) -> None:
    task = ExactTask(data)
    assert prompt_of(task.questions()[0].sample).startswith("user: <image><image>\nSame?\nAnswer the question using")
    assert prompt_of(task.questions()[2].sample).startswith("user: One and one?\n")
    model = oracle(lambda s, seen: "no", sure=lambda s, seen: 0.6)
    result = evaluate(model, task, out=tmp_path / "out", decoding=decoding)
    assert result.score == pytest.approx(1 / 3) and result.metric == "exact/words-1"
    assert result.calibration["reply"].measures["accuracy"].value == pytest.approx(1 / 3)
    assert rescore(ExactTask(data), tmp_path / "out").as_json() == result.as_json()


def test_a_row_that_is_no_question_is_named(tmp_path: Path, rows: Any) -> None:
    with pytest.raises(InputError, match=r"q.jsonl:1: .*an answer"):
        ExactTask(rows(tmp_path / "q.jsonl", [{"id": "a", "question": "What?"}])).questions()


def test_nothing_is_no_answer_to_marks_alone(tmp_path: Path, rows: Any) -> None:
    data = rows(tmp_path / "q.jsonl", [{"id": "a", "question": "Which mark?", "answer": "?"}])
    task = ExactTask(data, rule="case-punctuation")
    assert task.score(task.questions()[0], Prediction("")).values == {"exact match": 0.0}
    assert ExactTask(data, rule="case").score(task.questions()[0], Prediction("?")).values == {"exact match": 1.0}
