"""How sure a model was: recorded with each answer, held against what is right, the same however it is come by."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmlm.errors import InputError
from mmlm.evaluation import compare, evaluate, rescore
from mmlm.evaluation.metrics import calibration
from mmlm.evaluation.statistics import bootstrap, point
from mmlm.evaluation.tasks.caption import CaptionTask
from mmlm.evaluation.tasks.choice import ChoiceTask
from mmlm.evaluation.tasks.mmbench import MmBenchTask
from mmlm.evaluation.tasks.mme import MmeTask
from mmlm.evaluation.tasks.pope import PopeTask
from mmlm.evaluation.tasks.task import Prediction, Task
from mmlm.evaluation.tasks.vqa import VqaTask
from mmlm.media import digest
from mmlm.sample import Image, Sample

N, PICTURES = 60, 15
Say = Callable[[Sample, str], str]
Sure = Callable[[Sample, str], float]


@pytest.fixture
def data(tmp_path: Path, paint: Callable[[Path, int], Path], rows: Callable[..., Path]) -> Path:
    """60 questions about 15 pictures, all to be answered with yes."""
    for n in range(PICTURES):
        paint(tmp_path / f"data/{n}.png", n)
    records = [
        {"id": str(i), "image": f"{i % PICTURES}.png", "question": f"Is it {i}?", "answer": "yes"}
        | {"choices": ["yes", "no it is not"]}
        for i in range(N)
    ]
    return rows(tmp_path / "data/rows.jsonl", records)


def number(sample: Sample) -> int:
    return int(sample.id.rpartition("/")[2])


def by_sevenths(sample: Sample, seen: str) -> float:
    return (1 + number(sample) % 7) / 9


def right_every(k: int) -> Say:
    return lambda sample, seen: "no it is not" if number(sample) % k else "yes"


@pytest.fixture
def run(tmp_path: Path, oracle: Any, decoding: Any) -> Callable[..., Any]:
    def made(name: str, task: Task, say: Say, sure: Sure | None, **more: Any) -> Any:
        out = tmp_path / name / "evaluations" / f"{task.name}-rows"
        model = oracle(say, fingerprint=name, sure=sure)
        return evaluate(model, task, out=out, decoding=decoding, **more), out, model

    return made


def numbers(result: Any, kind: str = "reply") -> dict[str, float]:
    return {name: e.value for name, e in result.calibration[kind].measures.items()}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def files(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(out.iterdir()) if p.name != "timings.jsonl"}


def test_the_numbers_are_those_of_the_metric_applied_by_hand(run: Any, data: Path) -> None:
    result, out, _ = run("a", VqaTask(data), right_every(3), by_sevenths)
    pairs = [((1 + i % 7) / 9, float(i % 3 == 0)) for i in range(N)]
    by_hand = point([calibration.values(*p) for p in pairs], calibration.measures())
    order = [(a > b) + (a == b) / 2 for a, r in pairs for b, w in pairs if r and not w]
    assert numbers(result) == pytest.approx(by_hand | {"AUROC": sum(order) / len(order)})
    found = json.loads((out / "results.json").read_text())["calibration"]
    assert found["metric"] == "calibration/10-bins-upper-edge-1" and found["reply"]["n"] == N
    assert found["reply"]["measures"]["ECE"]["value"] == result.calibration["reply"].measures["ECE"].value
    curve = calibration.curve(*map(list, zip(*pairs, strict=True)))  # type: ignore[arg-type]
    assert [(b["n"], b["accuracy"]) for b in found["reply"]["curve"]] == [(b.n, b.accuracy) for b in curve]
    for line, said in zip(lines(out / "scores.jsonl"), lines(out / "predictions.jsonl"), strict=True):
        own = next(s for s in lines(out / "predictions.jsonl") if s["id"] == line["id"])
        assert line["confidence"]["reply"] == math.exp(own["logprob"]) == pytest.approx(pairs[int(line["id"])][0])
        assert line["confidence"]["per token"] == pytest.approx(math.exp(own["logprob"] / own["tokens"]))
        assert said["tokens"] == len(said["reply"].split()) + 1


def test_an_answerer_that_is_right_as_often_as_it_is_sure(run: Any, data: Path) -> None:
    """Sure by a quarter where one of four is right, by three quarters where three are: no error, and Brier p (1 - p)."""
    result, _, _ = run(
        "a",
        VqaTask(data),
        lambda s, seen: "yes" if (number(s) % 4 == 0) != (number(s) < 28) else "no it is not",
        lambda s, seen: 0.75 if number(s) < 28 else 0.25,
    )
    found = numbers(result)
    assert found["ECE"] == pytest.approx(0, abs=1e-12) and found["Brier"] == pytest.approx(0.1875)
    assert found["confidence"] == pytest.approx(found["accuracy"])
    assert found["AUROC"] > 0.7


def test_an_answerer_that_is_always_sure_and_half_the_time_right(run: Any, data: Path) -> None:
    result, _, _ = run("a", VqaTask(data), right_every(2), lambda s, seen: 1.0)
    expected = {"ECE": 0.5, "MCE": 0.5, "Brier": 0.5, "AUROC": 0.5, "confidence": 1.0, "accuracy": 0.5}
    assert numbers(result) == numbers(result, "per token") == expected
    (line,) = [x for x in result.table().splitlines() if x.startswith("calibration")]
    assert line.startswith("calibration of the probability of the reply: ECE 0.5000 (")
    assert ", Brier 0.5000 (" in line and "confidence 1.0000 where 0.5000 are right; control: confidence 1.0" in line


def test_the_control_has_a_confidence_of_its_own(run: Any, data: Path, paint: Any) -> None:
    own = {i: digest(Image(data.parent / f"{i}.png")) for i in range(PICTURES)}

    def sees(sample: Sample, seen: str) -> bool:
        return own[number(sample) % PICTURES] == seen

    result, _, _ = run(
        "a",
        VqaTask(data),
        lambda s, seen: "yes" if sees(s, seen) else "no it is not",
        lambda s, seen: 0.9 if sees(s, seen) else 0.2,
    )
    found = result.calibration["reply"]
    assert found.controlled == N
    assert found.measures["confidence"].value == pytest.approx(0.9)
    assert found.control["confidence"].value == pytest.approx(0.2) and found.control["accuracy"].value == 0
    assert (
        run("b", VqaTask(data), right_every(2), lambda s, x: 0.5, control=False)[0].calibration["reply"].control == {}
    )


def test_intervals_are_of_pictures(run: Any, data: Path) -> None:
    result, _, _ = run("a", VqaTask(data), right_every(2), lambda s, seen: (1 + number(s) % PICTURES) / 17)
    values = [calibration.values((1 + i % PICTURES) / 17, float(i % 2 == 0)) for i in range(N)]
    clusters = [str(i % PICTURES) for i in range(N)]
    found, wrong = (bootstrap(values, c, calibration.measures()) for c in (clusters, list(map(str, range(N)))))
    own = result.calibration["reply"].measures
    assert own["Brier"].low == pytest.approx(found["Brier"].low) and own["ECE"].high == pytest.approx(found["ECE"].high)
    assert own["Brier"].low != pytest.approx(wrong["Brier"].low)
    assert own["AUROC"].low < own["AUROC"].value < own["AUROC"].high


def test_choices_that_are_ranked_share_their_likelihood(run: Any, data: Path) -> None:
    """The oracle gives -0.5 for its answer, "yes", and -14 over four tokens for the other one."""
    for per_token, other in ((True, -14 / 4), (False, -14.0)):
        result, out, _ = run(f"t{per_token}", ChoiceTask(data, per_token=per_token), lambda s, x: "yes", None)
        assert list(result.calibration) == ["choices"]
        assert numbers(result, "choices")["confidence"] == pytest.approx(1 / (1 + math.exp(other + 0.5)))
        before = files(out)
        rescore(ChoiceTask(data, per_token=per_token), out)
        assert files(out) == before
    answers = (out / "predictions.jsonl").read_text()
    assert '"logprob":null' in answers
    task = ChoiceTask(data)
    assert task.confidence(Prediction(ranks=((-1.0, 1), (math.nan, 1)))) == task.confidence(Prediction()) == {}
    assert task.confidence(Prediction(ranks=((-1e5, 1), (-2e5, 1)))) == {"choices": 1.0}


def test_scored_again_and_gone_on_with_it_is_the_same(
    run: Any, data: Path, tmp_path: Path, oracle: Any, decoding: Any, stopped: type[Exception]
) -> None:
    _, out, _ = run("a", VqaTask(data), right_every(3), by_sevenths)
    before = files(out)
    assert rescore(VqaTask(data), out).calibration
    assert files(out) == before
    for kill in (1, 5, 12):
        half = tmp_path / f"half{kill}"
        with pytest.raises(stopped):
            model = oracle(right_every(3), fingerprint="a", sure=by_sevenths, stop_after=kill)
            evaluate(model, VqaTask(data), out=half, decoding=decoding)
        evaluate(oracle(right_every(3), fingerprint="a", sure=by_sevenths), VqaTask(data), out=half, decoding=decoding)
        assert files(half) == before


def test_answers_of_before_are_read_and_have_no_calibration(run: Any, data: Path, oracle: Any, decoding: Any) -> None:
    now, out, _ = run("a", VqaTask(data), right_every(3), by_sevenths)
    old = [{k: v for k, v in line.items() if k != "logprob"} for line in lines(out / "predictions.jsonl")]
    path = out / "predictions.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in old))
    found = rescore(VqaTask(data), out)
    assert found.rows == now.rows and found.calibration == {}
    assert found.notes[-2].startswith("calibration: none (how likely the model held its answers was not recorded")
    assert json.loads((out / "results.json").read_text())["calibration"] is None
    model = oracle(right_every(3), fingerprint="a", sure=by_sevenths)
    assert evaluate(model, VqaTask(data), out=out, decoding=decoding).rows == now.rows and model.asked == []
    path.write_text("".join(json.dumps(line) + "\n" for line in old[:45]))
    part = evaluate(model, VqaTask(data), out=out, decoding=decoding)
    assert part.rows == now.rows and part.calibration["reply"].n == 15
    assert "over 15 of 60 questions" in part.table()


@pytest.mark.parametrize("told", ["NaN", "0.5", "-Infinity", "true", '"-1"', "[]", "-1" + 400 * "0"])
def test_a_sum_that_no_probability_gives_is_refused(run: Any, data: Path, told: str) -> None:
    _, out, _ = run("a", VqaTask(data), right_every(3), lambda s, seen: 0.8, limit=1)
    path = out / "predictions.jsonl"
    line = lines(path)[0]
    path.write_text(json.dumps({**line, "logprob": "HERE"}).replace('"HERE"', told) + "\n")
    with pytest.raises(
        InputError, match=r"predictions.jsonl:1 is not a recorded answer .*(logprob: expected a number|too large)"
    ):
        rescore(VqaTask(data), out)


def test_a_model_that_tells_nothing_or_no_number(run: Any, data: Path) -> None:
    assert run("a", VqaTask(data), right_every(3), None)[0].calibration == {}
    result, out, _ = run("b", VqaTask(data), right_every(3), lambda s, seen: math.nan)
    assert result.calibration == {} and lines(out / "predictions.jsonl")[0]["logprob"] is None


def test_captions_are_not_right_or_wrong(run: Any, data: Path, rows: Any) -> None:
    path = rows(data.with_name("c.jsonl"), [{"id": i, "image": f"{i}.png", "caption": f"A cat {i}."} for i in range(9)])
    result, out, _ = run("a", CaptionTask(path, meteor=False), lambda s, seen: "a cat", lambda s, seen: 0.5)
    assert result.calibration == {} and not any("calibration" in n for n in result.notes)
    assert "calibration" not in result.table()
    assert lines(out / "scores.jsonl")[0]["confidence"]["reply"] == pytest.approx(0.5), "it is recorded all the same"


def test_a_question_that_could_not_be_asked_has_no_confidence(run: Any, data: Path) -> None:
    (data.parent / "3.png").unlink()
    result, _, _ = run("a", VqaTask(data), right_every(1), lambda s, seen: 0.5)
    assert result.rows[0].n == N and result.calibration["reply"].n == N - 4
    assert numbers(result)["accuracy"] == 1.0, "what was not asked says nothing of a model's honesty"


def test_how_right_an_answer_is_stands_in_its_values(data: Path, tmp_path: Path, paint: Any) -> None:
    task = PopeTask(data)
    scores = [task.right(task.score(task.questions()[0], Prediction(t)).values) for t in ("yes", "no", "")]
    assert scores == [1.0, 0.0, 0.0]
    for i in range(2):
        paint(tmp_path / f"mme/existence/{i}.png", i)
        (tmp_path / f"mme/existence/{i}.txt").write_text(f"Is it {i}?\tYes\nIs it not {i}?\tNo\n")
    mme = MmeTask(tmp_path / "mme")
    scored = mme.score_all(mme.questions(), [Prediction("Yes")] * 4)
    assert [mme.right(s.values) for s in scored] == [1.0, 0.0, 1.0, 0.0]
    assert MmBenchTask.right({"correct": 1.0, "whole": 0.25}) == 1.0
    assert CaptionTask.right({"ROUGE-L": 1.0}) is None


def test_two_runs_are_compared_by_it(run: Any, data: Path, tmp_path: Path) -> None:
    one, at, _ = run("a", VqaTask(data), right_every(3), by_sevenths)
    two, _, _ = run("b", VqaTask(data), right_every(2), lambda s, seen: 0.9)
    found = compare(tmp_path / "a", tmp_path / "b", "vqa")
    rows = {r.metric: r for r in found.rows}
    assert list(rows) == ["accuracy", "ECE", "Brier", "AUROC"]
    for name in ("ECE", "Brier", "AUROC"):
        row = rows[name]
        assert (row.first, row.second) == (
            one.calibration["reply"].measures[name],
            two.calibration["reply"].measures[name],
        )
        assert row.difference.value == pytest.approx(row.first.value - row.second.value)
        assert row.difference.low < row.difference.value < row.difference.high
        assert (row.n, row.first_alone, row.p) == (N, None, None)
    assert "of the probability of the reply; of ECE and Brier less is better" in found.notes[-1]
    same = compare(tmp_path / "a", tmp_path / "a")
    assert [(r.difference.low, r.difference.high) for r in same.rows] == [(0.0, 0.0)] * 4
    run("none", VqaTask(data), right_every(2), None)
    bare = compare(tmp_path / "a", tmp_path / "none")
    assert [r.metric for r in bare.rows] == ["accuracy"] and bare.notes[-1].startswith("calibration: not compared")
    scores = at / "scores.jsonl"
    first, *rest = lines(scores)
    for broken in (1.5, -0.1, math.nan, True, "x"):
        changed = {**first, "confidence": {"reply": broken}}
        scores.write_text("".join(json.dumps(line) + "\n" for line in [changed, *rest]))
        with pytest.raises(InputError, match=r"does not hold a whole evaluation.*0\.\.1"):
            compare(tmp_path / "a", tmp_path / "b")
