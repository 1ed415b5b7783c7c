"""Speech written down: the rates of a set, the two forms of rows, and the control over exchanged sounds."""

import wave
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmlm.errors import InputError
from mmlm.evaluation import compare, evaluate, rescore
from mmlm.evaluation.metrics import asr
from mmlm.evaluation.predictions import prompt_of
from mmlm.evaluation.statistics import point
from mmlm.evaluation.tasks.asr import AsrTask
from mmlm.evaluation.tasks.task import Prediction
from mmlm.sample import Audio

TEXTS = ["The big dog.", "A cat [noise] sat", "one two three", "one"]


@pytest.fixture
def data(tmp_path: Path, rows: Callable[..., Path]) -> Path:
    (tmp_path / "audio").mkdir()
    for n in range(len(TEXTS)):
        with wave.open(str(tmp_path / f"audio/{n}.wav"), "wb") as f:
            f.setnchannels(1)
            f.setsampwidth(2)
            f.setframerate(8000)
            f.writeframes(np.random.default_rng(n).integers(-999, 999, 801, dtype=np.int16).tobytes())
    records: list[dict[str, Any]] = [{"id": str(n), "audio": f"audio/{n}.wav", "text": t} for n, t in enumerate(TEXTS)]
    records[3] = {"audio": "audio/3.wav", "question": "Which number?", "answer": "one"}
    return rows(tmp_path / "speech.jsonl", records)


def test_rows_and_rates(data: Path, tmp_path: Path, oracle: Any, decoding: Any) -> None:
    task = AsrTask(data)
    first, *_, last = task.questions()
    assert isinstance(first.sample.items[0], Audio) and first.references == (TEXTS[0],)
    assert [prompt_of(q.sample) for q in (first, last)] == [
        "user: <audio>\nWhat is said?",
        "user: <audio>\nWhich number?",
    ]
    assert (first.id, last.id) == ("0", "speech#3")
    said = ["the dog", "a cat sat", "", "two"]
    spoken = dict(zip([q.id for q in task.questions()], said, strict=True))
    result = evaluate(
        oracle(lambda s, seen: spoken[s.id], sure=lambda s, x: 0.5), task, out=tmp_path / "out", decoding=decoding
    )
    found = {r.metric: r.score.value for r in result.rows}
    assert found == point([asr.counts(h, r) for h, r in zip(said, TEXTS, strict=True)], asr.MEASURES)
    assert found["WER"] == pytest.approx((1 + 0 + 3 + 1) / 10), "of all words, not the mean of utterances"
    assert result.rows[0].unparsed == 0.25 and result.rows[0].controlled == 4
    assert result.calibration == {} and "calibration" not in result.table()
    assert rescore(AsrTask(data), tmp_path / "out").as_json() == result.as_json()
    assert [r.metric for r in compare(tmp_path / "out", tmp_path / "out").rows] == ["WER", "CER", "MER", "WIL"]


def test_the_normaliser_is_an_option(data: Path) -> None:
    task = AsrTask(data, normaliser="none", question="Write it down.")
    question = task.questions()[0]
    assert question.sample.turns[0].text.endswith("Write it down.")
    assert task.score(question, Prediction("the big dog")).values["edits"] == 2.0
    assert AsrTask(data).score(question, Prediction("the big dog")).values["edits"] == 0.0


@pytest.mark.parametrize(
    ("row", "wanted"),
    [
        ({"id": 1, "audio": "audio/0.wav"}, "answer: expected text, got nothing"),
        ({"id": 1, "text": "x"}, None),
        ({"id": 1, "audio": "../0.wav", "text": "x"}, None),
    ],
)
def test_a_row_without_text_is_refused_and_one_without_sound_at_fault(
    data: Path, rows: Any, row: dict[str, Any], wanted: str | None
) -> None:
    task = AsrTask(rows(data, [row]))
    if wanted is None:
        assert "speech.jsonl:1: audio: expected" in task.questions()[0].fault
        return
    with pytest.raises(InputError, match=wanted):
        task.questions()
