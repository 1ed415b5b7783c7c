"""A whole evaluation: the same bytes twice, after every kill and at every batch size; what is broken is counted."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmlm.errors import InputError
from mmlm.evaluation import Result, command, evaluate, rescore
from mmlm.evaluation.tasks.choice import ChoiceTask
from mmlm.evaluation.tasks.vqa import VqaTask
from mmlm.media import digest
from mmlm.sample import Image, Sample

N, PICTURES = 60, 15
COLOURS = ["red", "green", "blue", "grey"]


@pytest.fixture
def data(tmp_path: Path, paint: Callable[[Path, int], Path], rows: Callable[..., Path]) -> Path:
    """60 questions about 15 pictures whose colour a model can know from the picture alone."""
    for n in range(PICTURES):
        paint(tmp_path / f"data/{n}.png", n)
    return rows(
        tmp_path / "data/rows.jsonl",
        [
            {
                "id": str(i),
                "image": f"{i % PICTURES}.png",
                "question": f"What colour{'?' * (i % 4 + 1)}",
                "answer": COLOURS[i % PICTURES % 4],
                "choices": COLOURS,
                "category": "even" if i % 2 == 0 else "odd",
            }
            for i in range(N)
        ],
    )


@pytest.fixture
def sees(data: Path) -> Callable[[Sample, str], str]:
    """Answers right whatever picture is shown."""
    known = {digest(Image(data.parent / f"{n}.png")): COLOURS[n % 4] for n in range(PICTURES)}
    return lambda sample, seen: known[seen]


def run(oracle: Any, data: Path, out: Path, decoding: Any, **more: Any) -> Result:
    return evaluate(oracle, VqaTask(data), out=out, decoding=decoding, **more)


def files(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in sorted(out.iterdir()) if p.name != "timings.jsonl"}


def test_a_model_that_sees_beats_its_control(oracle: Any, sees: Any, data: Path, tmp_path: Path, decoding: Any) -> None:
    result = run(oracle(sees), data, tmp_path / "out", decoding)
    rows = {r.group: r for r in result.rows}
    assert set(rows) == {"all", "category: even", "category: odd"}
    row = rows["all"]
    assert (row.n, row.controlled, row.score.value, row.unparsed) == (N, N, 1.0, 0.0)
    assert row.control is not None and row.difference is not None
    assert row.control.value < 0.6
    assert row.difference.value == pytest.approx(1 - row.control.value)
    assert row.difference.low is not None and row.difference.low > 0
    assert "exchanged" in result.notes[-1]


def test_a_model_that_does_not_look_is_unmasked(oracle: Any, data: Path, tmp_path: Path, decoding: Any) -> None:
    result = run(oracle(lambda sample, seen: "red"), data, tmp_path / "out", decoding)
    row = result.rows[0]
    assert row.control == row.score
    assert row.difference is not None and (row.difference.low, row.difference.high) == (0.0, 0.0)


def test_two_runs_write_the_same_bytes(oracle: Any, sees: Any, data: Path, tmp_path: Path, decoding: Any) -> None:
    for name in "ab":
        run(oracle(sees), data, tmp_path / name, decoding)
    assert files(tmp_path / "a") == files(tmp_path / "b")
    assert set(files(tmp_path / "a")) == {"predictions.jsonl", "control.jsonl", "scores.jsonl", "results.json"}
    assert (tmp_path / "a/timings.jsonl").read_text().count("\n") == 2 * N


@pytest.mark.parametrize("batch", [1, 3, 64])
def test_the_batch_decides_nothing(
    oracle: Any, sees: Any, data: Path, tmp_path: Path, decoding: Any, batch: int
) -> None:
    run(oracle(sees), data, tmp_path / "eight", decoding)
    model = oracle(sees)
    run(model, data, tmp_path / "other", decoding, batch=batch)
    one, other = files(tmp_path / "eight"), files(tmp_path / "other")
    assert json.loads(other.pop("results.json"))["rows"] == json.loads(one.pop("results.json"))["rows"]
    assert one == other
    assert model.largest == min(batch, N)


def test_twenty_kills_leave_no_trace(
    oracle: Any, sees: Any, data: Path, tmp_path: Path, decoding: Any, stopped: type[Exception]
) -> None:
    whole = oracle(sees)
    run(whole, data, tmp_path / "whole", decoding, batch=4)
    rng = random.Random(0)
    for kill in range(20):
        out, model = tmp_path / f"kill{kill}", oracle(sees, stop_after=rng.randrange(1, whole.calls))
        with pytest.raises(stopped):
            run(model, data, out, decoding, batch=4)
        last = out / ("control.jsonl" if (out / "control.jsonl").exists() else "predictions.jsonl")
        torn = rng.randrange(0, 90)
        last.write_bytes(last.read_bytes()[: -torn or None])  # the disk lost the end of the last line
        again = oracle(sees)
        run(again, data, out, decoding, batch=4)
        assert files(out) == files(tmp_path / "whole"), kill
        assert len(model.asked) + len(again.asked) <= 2 * N + 1, "an answer was computed twice"


def test_what_is_answered_is_not_asked_again(oracle: Any, sees: Any, data: Path, tmp_path: Path, decoding: Any) -> None:
    run(oracle(sees), data, tmp_path / "out", decoding, limit=10)
    model = oracle(sees)
    run(model, data, tmp_path / "out", decoding, limit=25, control=False)
    assert len(model.asked) == 15
    other = oracle(sees, fingerprint="another run")
    run(other, data, tmp_path / "out", decoding, limit=25, control=False)
    assert len(other.asked) == 25


def test_limit_draws_over_the_whole_file(oracle: Any, sees: Any, data: Path, tmp_path: Path, decoding: Any) -> None:
    result = run(oracle(sees), data, tmp_path / "out", decoding, limit=12)
    ids = [int(q.id) for q in result.questions]
    assert ids == sorted(ids)
    assert max(ids) > 30
    assert result.about["data"]["limit"] == 12
    assert result.about["data"]["questions"] == N


def test_broken_and_missing_pictures_are_wrong_and_listed(
    oracle: Any, sees: Any, data: Path, tmp_path: Path, decoding: Any
) -> None:
    whole = (data.parent / "3.png").read_bytes()
    (data.parent / "3.png").write_bytes(whole[: len(whole) // 2])
    (data.parent / "4.png").unlink()
    result = run(oracle(sees), data, tmp_path / "out", decoding)
    lost = {str(i) for i in range(N) if i % PICTURES in (3, 4)}
    assert {f["id"] for f in result.failures} == lost
    row = result.rows[0]
    assert (row.n, row.controlled) == (N, N)
    assert row.score.value == pytest.approx(1 - len(lost) / N)
    assert row.unparsed == pytest.approx(len(lost) / N)
    table = result.table()
    assert f"{len(lost)} of {N} questions could not be asked and count as wrong" in table
    assert "3.png" in table
    before = files(tmp_path / "out")
    again = oracle(sees)
    run(again, data, tmp_path / "out", decoding)
    assert files(tmp_path / "out") == before
    assert again.asked == []
    (data.parent / "3.png").write_bytes(whole)
    assert run(oracle(sees), data, tmp_path / "out", decoding).score == pytest.approx(1 - len(lost) / 2 / N)


def test_a_refused_question_does_not_take_its_batch_along(
    oracle: Any, refuse: Any, data: Path, tmp_path: Path, decoding: Any
) -> None:
    result = run(oracle(refuse("#7/")), data, tmp_path / "out", decoding, batch=64)
    assert [f["id"] for f in result.failures] == ["7"]
    assert "refused" in result.failures[0]["reason"]


def test_nothing_can_be_asked(oracle: Any, refuse: Any, data: Path, tmp_path: Path, decoding: Any) -> None:
    with pytest.raises(InputError, match=r"none of 60 questions could be asked.*refused"):
        run(oracle(refuse("")), data, tmp_path / "out", decoding)


def test_scored_again_without_the_model(oracle: Any, data: Path, tmp_path: Path, decoding: Any) -> None:
    out = tmp_path / "out"
    run(oracle(lambda s, seen: "The Red!"), data, out, decoding, limit=40)
    before = files(out)
    rescore(VqaTask(data), out)
    assert files(out) == before
    strict = rescore(VqaTask(data, normaliser="evalai"), out)
    assert strict.metric == "vqa-soft-accuracy/evalai-1"
    assert files(out)["predictions.jsonl"] == before["predictions.jsonl"]
    for n in range(PICTURES):  # the pictures need not be there
        (data.parent / f"{n}.png").unlink()
    assert rescore(VqaTask(data), out).rows == json_rows(before["results.json"], strict)


def json_rows(raw: bytes, shape: Result) -> list[Any]:
    """The rows of a results.json as rows again."""
    row, estimate = type(shape.rows[0]), type(shape.rows[0].score)
    found = []
    for r in json.loads(raw)["rows"]:
        for k in ("score", "control", "difference"):
            r[k] = estimate(**r[k])
        found.append(row(**r))
    return found


def test_scoring_again_needs_answers_to_these_prompts(
    oracle: Any, sees: Any, data: Path, tmp_path: Path, decoding: Any
) -> None:
    with pytest.raises(InputError, match="does not say how the answers were made"):
        rescore(VqaTask(data), tmp_path)
    run(oracle(sees), data, tmp_path / "out", decoding)
    with pytest.raises(InputError, match="holds no answer to 60 of 60 questions"):
        rescore(VqaTask(data, prompt="{items}{question} Be brief."), tmp_path / "out")
    with pytest.raises(InputError, match="of the task 'vqa', not 'choice'"):
        rescore(ChoiceTask(data), tmp_path / "out")


def test_likelihood_of_choices(oracle: Any, sees: Any, data: Path, tmp_path: Path, decoding: Any) -> None:
    model = oracle(sees)
    result = evaluate(model, ChoiceTask(data), out=tmp_path / "out", decoding=decoding, batch=16)
    assert result.score == 1.0
    assert model.largest == 4  # four questions of four replies each
    line = json.loads((tmp_path / "out/predictions.jsonl").read_text().splitlines()[0])
    assert len(line["ranks"]) == 4
    assert line["reply"] == ""
    assert line["prompt"].endswith("\nassistant: red | green | blue | grey")
    before = files(tmp_path / "out")
    rescore(ChoiceTask(data), tmp_path / "out")
    assert files(tmp_path / "out") == before


def test_the_result_says_how_it_was_made(oracle: Any, sees: Any, data: Path, tmp_path: Path, decoding: Any) -> None:
    result = run(oracle(sees), data, tmp_path / "out", decoding, batch=5, seed=3)
    found = json.loads((tmp_path / "out/results.json").read_text())
    assert found == json.loads(json.dumps(result.as_json()))
    assert found["metric"] == "vqa-soft-accuracy/mmlm-1"
    assert found["options"]["normaliser"] == "mmlm"
    assert len(found["data"]["sha256"]) == len(found["prompts"]["sha256"]) == 64
    assert found["prompts"]["first"].startswith("user: <image>\nWhat colour?\nAnswer the question")
    made = found["answers"]
    assert made["decoding"] == {"limit": 16, "temperature": 0.0}
    assert (made["batch"], made["seed"], made["dtype"], made["fingerprint"]) == (5, 3, "float32", "oracle")
    assert {"mmlm", "python", "torch", "transformers", "numpy"} <= set(made["versions"])
    assert "commit" in made


def test_the_table_shows_every_number(oracle: Any, sees: Any, data: Path, tmp_path: Path, decoding: Any) -> None:
    lines = run(oracle(sees), data, tmp_path / "out", decoding).table().splitlines()
    assert lines[0] == "vqa, vqa-soft-accuracy/mmlm-1"
    assert lines[1].split() == (
        ["metric", "group", "n", "score", "95", "%", "unparsed", "control", "95", "%", "difference", "95", "%"]
    )
    assert lines[2].startswith("accuracy  all")
    assert lines[2].count("..") == 3
    assert "60" in lines[2].split()


def test_the_control_leaves_out_what_has_no_picture(
    oracle: Any, data: Path, tmp_path: Path, decoding: Any, rows: Callable[..., Path]
) -> None:
    records = [{"id": str(i), "question": f"{i}?", "answer": "red"} for i in range(6)]
    for i, record in enumerate(records[:4]):
        record["image"] = f"{i}.png"
    result = run(oracle(lambda s, seen: "red"), rows(data.parent / "m.jsonl", records), tmp_path / "out", decoding)
    assert (result.rows[0].n, result.rows[0].controlled) == (6, 4)
    assert result.notes[-1].endswith("it covers 4 of 6 questions")


def test_without_control(oracle: Any, sees: Any, data: Path, tmp_path: Path, decoding: Any) -> None:
    result = run(oracle(sees), data, tmp_path / "out", decoding, control=False)
    assert result.rows[0].control is None
    assert result.notes[-1].startswith("control: none")
    assert not (tmp_path / "out/control.jsonl").exists()


def test_one_picture_has_no_control_and_no_interval(
    oracle: Any, data: Path, tmp_path: Path, decoding: Any, rows: Callable[..., Path]
) -> None:
    one = rows(data.parent / "one.jsonl", [{"id": "1", "image": "0.png", "question": "What?", "answer": "red"}])
    result = run(oracle(lambda s, seen: "red"), one, tmp_path / "out", decoding)
    assert (result.rows[0].score.low, result.rows[0].control) == (None, None)
    assert " - " in result.table()


def test_progress_is_told(oracle: Any, sees: Any, data: Path, tmp_path: Path, decoding: Any) -> None:
    told: list[tuple[int, int, str]] = []
    run(oracle(sees), data, tmp_path / "out", decoding, progress=lambda *x: told.append(x))
    assert told[0] == (0, N, "predictions")
    assert told[-1] == (N, N, "control")


@pytest.mark.parametrize(("more", "wanted"), [({"batch": 0}, "batch: expected"), ({"limit": 0}, "limit: expected")])
def test_numbers_that_make_no_sense(
    oracle: Any, sees: Any, data: Path, tmp_path: Path, decoding: Any, more: dict[str, int], wanted: str
) -> None:
    with pytest.raises(InputError, match=wanted):
        run(oracle(sees), data, tmp_path / "out", decoding, **more)


def test_ids_must_differ(oracle: Any, sees: Any, data: Path, tmp_path: Path, decoding: Any) -> None:
    data.write_text(data.read_text() + data.read_text().splitlines()[0] + "\n")
    with pytest.raises(InputError, match=r"rows\.jsonl:61: id: '0' came before"):
        run(oracle(sees), data, tmp_path / "out", decoding)


def test_the_command_scores_again_without_loading_a_run(
    oracle: Any, sees: Any, data: Path, tmp_path: Path, decoding: Any
) -> None:
    folder = tmp_path / "run/evaluations/vqa-rows"
    run(oracle(sees), data, folder, decoding)
    found = command(tmp_path / "run", "vqa", data, rescore=True, options={"normaliser": "official"})
    assert found.metric == "vqa-soft-accuracy/official-1"
    shutil.copytree(folder, tmp_path / "copy")
    assert command(tmp_path / "run", "vqa", data, tmp_path / "copy", rescore=True).score == found.score
    with pytest.raises(InputError, match="no task named 'vqas'"):
        command(tmp_path / "run", "vqas", data, rescore=True)
