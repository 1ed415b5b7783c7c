"""Questions of presence beside those of a task: one command, one model, a table below the other."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmlm.errors import InputError
from mmlm.evaluation import command, evaluate, presence
from mmlm.evaluation.tasks.pope import PopeTask
from mmlm.sample import Sample

PICTURES = 20


@pytest.fixture
def data(tmp_path: Path, paint: Callable[[Path, int], Path], rows: Callable[..., Path]) -> Path:
    """Questions about pictures, whose rows carry captions too."""
    things = ["dog", "cat", "boat", "tree"]
    records = [
        {"id": str(n), "image": f"{n}.png", "question": "What is it?", "answer": things[n % 4]}
        | {"caption": f"A {things[n % 4]} beside a {things[(n + 1) % 4]}."}
        for n in range(PICTURES)
    ]
    for n in range(PICTURES):
        paint(tmp_path / f"data/{n}.png", n)
    return rows(tmp_path / "data/qa.jsonl", records)


@pytest.fixture
def ask(data: Path, tmp_path: Path, oracle: Any, decoding: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`mmlm eval` on a run whose model says yes, or "dog", by what it is asked."""

    def say(sample: Sample, seen: str) -> str:
        return "Yes." if "Is there" in sample.turns[-1].text else "dog"

    def asked(name: str, given: str | None, stop_after: int | None = None, **more: Any) -> tuple[Any, Any, Path]:
        model = oracle(say, sure=lambda sample, seen: 0.75, stop_after=stop_after)
        monkeypatch.setattr("mmlm.evaluation.assembled.opened", lambda run, limit: (model, decoding))
        out = tmp_path / name
        return command(tmp_path / "run", "vqa", data, out, presence=given, **more), model, out

    return asked


def files(out: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(out)): p.read_bytes()
        for p in sorted(out.rglob("*"))
        if p.is_file() and p.name != "timings.jsonl"
    }


def caption(data: Path) -> str:
    return f"caption:{data}"


def test_the_tables_stand_below_each_other(ask: Any, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result, model, out = ask("out", caption(data))
    first, second = result.table().split("\n\n")
    assert first.startswith("vqa, ") and second.startswith("pope, ")
    assert result.score == 0.25 and first == ask("alone", None)[0].table()
    found = {r.metric: r.score.value for r in result.presence.rows if r.group == "all"}
    assert found == {"accuracy": 0.5, "precision": 0.5, "recall": 1.0, "F1": pytest.approx(2 / 3), "yes share": 1.0}
    assert result.presence.rows[0].control.value == 0.5
    assert result.presence.calibration["reply"].measures["ECE"].value == pytest.approx(0.25)
    inner = {n for n in files(out) if n.startswith("presence/") and "/questions/" not in n}
    assert inner == {f"presence/{n}" for n in ("predictions.jsonl", "control.jsonl", "scores.jsonl", "results.json")}
    assert result.as_json()["presence"] == json.loads(json.dumps(result.presence.as_json()))
    assert "presence" not in json.loads((out / "results.json").read_text()), "each folder tells of itself"
    assert len(model.asked) == 2 * (PICTURES + result.presence.rows[0].n)


def test_it_is_the_evaluation_of_what_data_presence_makes(
    ask: Any, data: Path, tmp_path: Path, oracle: Any, decoding: Any
) -> None:
    made = tmp_path / "made"
    presence(caption(data), made)
    results = [
        ask(n, given, limit=12)[0].presence
        for n, given in (("a", caption(data)), ("b", f"{made}"), ("c", f"{made}/pope.jsonl"))
    ]
    alone = evaluate(
        oracle(lambda s, seen: "Yes.", sure=lambda s, seen: 0.75),
        PopeTask(made / "pope.jsonl"),
        out=tmp_path / "alone",
        decoding=decoding,
        limit=12,
    )
    for found in results:
        assert found.rows == alone.rows and found.calibration == alone.calibration
    assert (tmp_path / "a/presence/questions/pope.jsonl").read_bytes() == (made / "pope.jsonl").read_bytes()
    assert (tmp_path / "b/presence/scores.jsonl").read_bytes() == (tmp_path / "alone/scores.jsonl").read_bytes()


def test_killed_and_gone_on_with_it_is_the_same(ask: Any, data: Path, stopped: type[Exception]) -> None:
    few = {"batch": 4, "limit": 16}
    _, model, out = ask("whole", caption(data), **few)
    whole = files(out)
    for kill in (1, 6, 10, model.calls - 1):
        with pytest.raises(stopped):
            ask(f"kill{kill}", caption(data), stop_after=kill, **few)
        _, again, half = ask(f"kill{kill}", caption(data), **few)
        assert files(half) == whole and again.calls == model.calls - kill
    assert ask("whole", caption(data), **few)[1].asked == []


def test_both_are_scored_again_without_a_model_and_without_captions(ask: Any, data: Path) -> None:
    before, _, out = ask("out", caption(data), limit=6)
    kept = files(out)
    (data.parent / "0.png").unlink()
    result, model, _ = ask("out", caption(data), rescore=True)
    assert files(out) == kept and model.asked == []
    assert result.presence.rows == before.presence.rows and result.presence.rows[0].n == 6
    with pytest.raises(InputError, match=r"expected what `mmlm data presence` made.*does not exist"):
        ask("never", caption(data), rescore=True)


def test_its_questions_are_worded_as_the_others(ask: Any, data: Path) -> None:
    result, _, _ = ask("out", caption(data), options={"prompt": "{items} {question} Briefly.", "tokens": "3"}, limit=4)
    assert result.presence.about["prompts"]["first"].endswith("in the picture? Briefly.")
    assert result.presence.about["answers"]["decoding"]["limit"] == 16, "the other options are the task's own"
    assert result.about["answers"]["decoding"]["limit"] == 3


def test_its_progress_has_a_name_of_its_own(ask: Any, data: Path) -> None:
    told: list[str] = []
    ask("out", caption(data), progress=lambda done, total, what: told.append(what), limit=4)
    assert list(dict.fromkeys(told)) == ["predictions", "control", "presence predictions", "presence control"]


def test_what_names_no_questions_is_refused_before_anything_is_asked(ask: Any, data: Path, tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text('{"images": [], "annotations": []}')
    (tmp_path / "empty").mkdir()
    for given, said in (
        (
            "nowhere.jsonl",
            r"--presence nowhere.jsonl: expected what .* made, .*, as in captions:FILE; nowhere.jsonl does",
        ),
        (str(data), r"qa.jsonl: expected what .* made, .* or captions .*qa.jsonl:1: answer: expected one of yes, no"),
        (str(tmp_path / "captions.json"), r"captions.json: expected what"),
        (str(tmp_path / "empty"), "holds no .json file"),
        (f"cptions:{data}", "expected NAME:PATH with a reader or task, got 'cptions'"),
        ("no-such-config", "no-such-config"),
    ):
        with pytest.raises(InputError, match=said):
            ask("out", given)
    assert not (tmp_path / "out/predictions.jsonl").exists()
