"""Two runs compared from what was recorded: against slow counting, and every way in which two cannot be compared."""

import json
import math
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmlm.cli import main
from mmlm.errors import InputError
from mmlm.evaluation import compare, evaluate
from mmlm.evaluation.comparing import mcnemar
from mmlm.evaluation.statistics import bootstrap, mean, paired
from mmlm.evaluation.tasks.caption import CaptionTask
from mmlm.evaluation.tasks.chartqa import ChartQaTask
from mmlm.evaluation.tasks.mme import MmeTask
from mmlm.evaluation.tasks.pope import PopeTask
from mmlm.evaluation.tasks.task import Task
from mmlm.evaluation.tasks.vqa import VqaTask
from mmlm.sample import Sample

N, PICTURES = 60, 15
Say = Callable[[Sample, str], str]


@pytest.fixture
def data(tmp_path: Path, paint: Callable[[Path, int], Path], rows: Callable[..., Path]) -> Path:
    """60 yes-or-no questions about 15 pictures."""
    for n in range(PICTURES):
        paint(tmp_path / f"data/{n}.png", n)
    records = [
        {"id": str(i), "image": f"{i % PICTURES}.png", "question": f"Is it {i}?", "answer": "yes" if i % 3 else "no"}
        for i in range(N)
    ]
    return rows(tmp_path / "data/rows.jsonl", records)


def wrong(*ids: int) -> Say:
    """Answers right but for some questions."""
    return lambda sample, seen: (
        "yes" if (int(sample.id.rpartition("/")[2]) % 3 > 0) != (int(sample.id.rpartition("/")[2]) in ids) else "no"
    )


@pytest.fixture
def run(tmp_path: Path, oracle: Any, decoding: Any) -> Callable[..., Path]:
    """Evaluates a model that answers so, as `mmlm eval` would; gives the run's folder."""

    def made(name: str, task: Task, path: Path, say: Say, **more: Any) -> Path:
        out = tmp_path / name / "evaluations" / f"{task.name}-{path.stem}"
        evaluate(oracle(say, fingerprint=name), task, out=out, decoding=decoding, control=False, **more)
        return tmp_path / name

    return made


def test_the_difference_is_that_of_the_recorded_scores(run: Any, data: Path) -> None:
    a, b = run("a", VqaTask(data), data, wrong(1, 2, 3)), run("b", VqaTask(data), data, wrong(3, 4, 5, 6, 7, 20))
    found = compare(a, b, "vqa")
    (row,) = found.rows
    assert (row.n, found.pictures, row.first_alone, row.second_alone) == (N, PICTURES, 5, 2)
    assert row.first.value == pytest.approx(57 / 60) and row.second.value == pytest.approx(54 / 60)
    one, two = ([{"accuracy": float(i not in w)} for i in range(N)] for w in ((1, 2, 3), (3, 4, 5, 6, 7, 20)))
    pictures = [f'"{i % PICTURES}.png"' for i in range(N)]
    assert row.difference == paired(one, two, pictures, [mean("accuracy")])["accuracy"], "clustered by picture"
    ids = [str(i) for i in range(N)]
    assert row.difference != paired(one, two, ids, [mean("accuracy")])["accuracy"]
    reported = json.loads((found.first / "results.json").read_text())["rows"][0]["score"]
    assert (row.first.low, row.first.high) == (reported["low"], reported["high"]), "so are the intervals of `mmlm eval`"
    assert (
        row.first
        != bootstrap([{"accuracy": float(i not in (1, 2, 3))} for i in range(N)], ids, [mean("accuracy")])["accuracy"]
    )
    assert row.p == pytest.approx(sum(math.comb(7, k) for k in range(3)) * 2 / 2**7)
    back = compare(b, a, "vqa").rows[0]
    assert back.difference.value == -row.difference.value and back.p == row.p
    assert back.first_alone == row.second_alone
    assert any("those of one picture are not" in note for note in found.notes)
    assert json.loads(json.dumps(found.as_json()))["rows"][0]["difference"]["low"] == row.difference.low


def test_order_of_questions_and_runs_on_one_model_do_not_matter(run: Any, data: Path) -> None:
    a = run("a", VqaTask(data), data, wrong(1, 2))
    scores = a / "evaluations/vqa-rows/scores.jsonl"
    b = run("b", VqaTask(data), data, wrong(4))
    before = compare(a, b).rows[0]
    scores.write_text("".join(reversed(scores.read_text().splitlines(keepends=True))))
    after = compare(a, b).rows[0]
    assert after.difference.value == before.difference.value and (after.first_alone, after.second_alone) == (1, 2)
    same = compare(a, a)
    assert (same.rows[0].difference.value, same.rows[0].p) == (
        0.0,
        1.0,
    ) and "both are of the same weights" in same.notes


def test_what_is_no_mean_of_questions_has_a_difference_and_no_counts(run: Any, data: Path) -> None:
    a, b = run("a", PopeTask(data), data, wrong(1, 3)), run("b", PopeTask(data), data, wrong(6, 9, 10))
    rows = {r.metric: r for r in compare(a, b).rows}
    assert list(rows) == ["accuracy", "precision", "recall", "F1", "yes share"]
    assert rows["accuracy"].first_alone == 3 and rows["accuracy"].p == pytest.approx(1.0)
    assert rows["F1"].first_alone is None and rows["F1"].p is None
    assert rows["F1"].difference.value == pytest.approx(rows["F1"].first.value - rows["F1"].second.value)


def test_shares_of_a_question_are_counted_but_not_tested(run: Any, data: Path, rows: Any) -> None:
    people = ["yes"] * 2 + ["no"] * 8
    rows(data, [{**json.loads(line), "answer": None, "answers": people} for line in data.read_text().splitlines()])
    row = compare(*(run(n, VqaTask(data), data, wrong(*w)) for n, w in (("a", ()), ("b", (1, 2))))).rows[0]
    assert (row.first_alone, row.second_alone, row.p) == (0, 2, None)


@pytest.mark.parametrize("kind", ["caption", "chartqa", "mme"])
def test_tasks_whose_measures_depend_on_the_data(
    run: Any, data: Path, rows: Any, paint: Any, tmp_path: Path, kind: str
) -> None:
    path, say = data.with_name("more.jsonl"), lambda text: lambda sample, seen: text
    if kind == "caption":
        rows(path, [{"id": f"{i}", "image": f"{i}.png", "caption": f"a cat number {i} on a mat"} for i in range(5)])
        task: Any = CaptionTask(path, meteor=False)
    elif kind == "chartqa":
        (data.parent / "charts").mkdir()
        for half in ("human", "augmented"):
            charts = [{"imgname": "1.png", "query": f"How many {i}?", "label": str(i)} for i in range(3)]
            (data.parent / f"charts/test_{half}.json").write_text(json.dumps(charts))
        paint(data.parent / "charts/1.png", 1)
        path = data.parent / "charts"
        task = ChartQaTask(path)
    else:
        for i in range(3):
            paint(tmp_path / f"mme/existence/{i}.png", i)
            (tmp_path / f"mme/existence/{i}.txt").write_text(f"Is it {i}?\tYes\nIs it not {i}?\tNo\n")
        path = tmp_path / "mme"
        task = MmeTask(path)
    texts = ("a cat on a mat", "a dog") if kind == "caption" else ("1", "2") if kind == "chartqa" else ("yes", "no")
    a, b = (run(n, task, path, say(t)) for n, t in zip("ab", texts, strict=True))
    found = compare(a, b, kind, path)
    reported = [
        r["metric"] for r in json.loads((found.first / "results.json").read_text())["rows"] if r["group"] == "all"
    ]
    assert [r.metric for r in found.rows] == reported
    for row in found.rows:
        assert row.difference.value == pytest.approx(row.first.value - row.second.value)


def test_failures_prompts_and_decoding_are_told(run: Any, data: Path, decoding: Any, oracle: Any) -> None:
    a = run("a", VqaTask(data), data, wrong())
    (data.parent / "3.png").unlink()
    b = run("b", VqaTask(data, prompt="{items} {question}"), data, wrong())
    notes = "\n".join(compare(a, b).notes)
    assert "count as wrong: 0 of A, 4 of B" in notes and "the prompts differ" in notes and "decoding" not in notes


def test_folders_in_place_of_runs(run: Any, data: Path) -> None:
    a, b = run("a", VqaTask(data), data, wrong(1)), run("b", VqaTask(data), data, wrong(2))
    run("b", PopeTask(data), data, wrong(2))
    whole = compare(a, b / "evaluations/vqa-rows")
    assert (
        whole.rows == compare(a / "evaluations/vqa-rows", b / "evaluations/vqa-rows", "vqa").rows == compare(a, b).rows
    )


def test_what_cannot_be_compared(
    run: Any, data: Path, rows: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    a, b = run("a", VqaTask(data), data, wrong(1)), run("b", VqaTask(data), data, wrong(2))
    fewer = run("fewer", VqaTask(data), data, wrong(2), limit=20)
    official = run("official", VqaTask(data, normaliser="official"), data, wrong(2))
    pope = run("pope", PopeTask(data), data, wrong(2))
    changed = rows(tmp_path / "data/more.jsonl", [json.loads(line) for line in data.read_text().splitlines()[1:]])
    other = run("other", VqaTask(changed), changed, wrong(2))
    (tmp_path / "empty").mkdir()
    cases = [
        ((a, tmp_path / "none"), "none does not exist; expected a run"),
        ((a, data), "rows.jsonl is a file; expected a run"),
        ((a, tmp_path / "empty"), "holds no evaluations.*mmlm eval .*empty --task TASK"),
        (
            (a, b, "pope"),
            r"expected an evaluation of pope, and it holds vqa-rows; make one with `mmlm eval .*--task pope",
        ),
        ((a, b, "vqa", Path("x/test.jsonl")), r"of vqa on x/test.jsonl.*--data x/test.jsonl"),
        ((a, pope), "is of the task 'vqa', .*of 'pope'; expected the same task"),
        ((a / "evaluations/vqa-rows", b, "pope"), "expected an evaluation of pope"),
        ((a, other), r"different data \(rows.jsonl and more.jsonl"),
        ((a, official), r"vqa-soft-accuracy/mmlm-1, .*official.*--rescore"),
        ((a, fewer), r"60 questions \(limit None\), .* 20 \(limit 20\), and 40 stand in one alone.*same --limit"),
    ]
    for given, said in cases:
        with pytest.raises(InputError, match=said):
            compare(*given)
    run("a", PopeTask(data), data, wrong(1))
    run("b", PopeTask(data), data, wrong(1))
    with pytest.raises(InputError, match=r"share 2: pope-rows, vqa-rows\. Name it with --task and --data"):
        compare(a, b)
    assert main(["compare", str(a), str(fewer), "--task", "vqa"]) == 2
    assert "same --limit" in capsys.readouterr().err


def test_files_that_are_not_whole(run: Any, data: Path) -> None:
    a, b = run("a", VqaTask(data), data, wrong(1)), run("b", VqaTask(data), data, wrong(2))
    scores, results = (b / "evaluations/vqa-rows" / n for n in ("scores.jsonl", "results.json"))
    text, told = scores.read_text(), results.read_text()
    for broken in (text[:-20], text + "[]\n", text.replace('"accuracy": 1.0', '"accuracy": "x"', 1)):
        scores.write_text(broken)
        with pytest.raises(InputError, match=r"does not hold a whole evaluation.*--rescore"):
            compare(a, b)
    scores.write_text("".join(text.splitlines(keepends=True)[1:]))
    with pytest.raises(InputError, match=r"results.json speaks of 60 questions, scores.jsonl of 59"):
        compare(a, b)
    scores.unlink()
    with pytest.raises(InputError, match="does not hold a whole evaluation"):
        compare(a, b)
    scores.write_text(text)
    results.write_text(json.dumps({**json.loads(told), "rows": 3}))
    with pytest.raises(InputError, match="does not hold a whole evaluation"):
        compare(a, b)
    results.write_text(told.replace('"metric": "accuracy"', '"metric": "gone"'))
    with pytest.raises(InputError, match="none of accuracy is a measure"):
        compare(a, b)
    scores.write_text(text.replace('"accuracy": 1.0', '"accuracy": 0.0', 1))
    results.write_text(told)
    with pytest.raises(InputError, match=r"says accuracy 0.98\d+, and scores.jsonl makes 0.96"):
        compare(a, b)
    results.write_text("{")
    with pytest.raises(InputError, match="is not JSON"):
        compare(a, b)


def test_mcnemar_is_the_binomial_test() -> None:
    def slow(b: int, c: int) -> float:
        n = b + c
        return min(1.0, float(2 * sum(math.comb(n, k) for k in range(min(b, c) + 1)) / 2**n))

    for b, c in [(0, 0), (1, 0), (0, 6), (5, 5), (3, 11), (40, 71), (300, 420), (0, 1100)]:
        assert mcnemar(b, c) == mcnemar(c, b) == pytest.approx(slow(b, c), rel=1e-12)
    assert mcnemar(3, 19) == pytest.approx(0.0008554, rel=1e-3)
    assert mcnemar(50_000, 51_000) == pytest.approx(0.00166, rel=1e-2)


def test_the_command_prints_and_loads_no_model(run: Any, data: Path) -> None:
    a, b = run("a", VqaTask(data), data, wrong(1)), run("b", VqaTask(data), data, wrong(2, 4))
    code = (
        "import sys\nfrom mmlm.cli import main\n"
        f"assert main(['compare', {str(a)!r}, {str(b)!r}, '--task', 'vqa']) == 0\n"
        f"assert main(['compare', {str(a)!r}, {str(b)!r}, '--json']) == 0\n"
        "assert 'torch' not in sys.modules"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "McNemar p" in done.stdout and '"second_alone": 1' in done.stdout
