"""The command line as a person uses it: train, eval, reply, chat, inspect, data check; and what bad input gets."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from systems import tiny

from mmlm import cli
from mmlm.config import dump
from mmlm.data import scenes
from mmlm.talk import chat


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn scenes, a config that learns from them, and a run."""
    home = tmp_path_factory.mktemp("home")
    scenes(home / "data", 40, 0)
    config = tiny("mlp", home, data=home / "data" / "qa-train.jsonl")
    (home / "config.yaml").write_text(dump(config), encoding="utf-8")
    assert cli.main(["train", str(home / "config.yaml"), "--out", str(home / "run")]) == 0
    return home


def test_evaluation_prints_a_table_with_its_control(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = [
        "eval",
        str(home / "run"),
        "--task",
        "vqa",
        "--data",
        str(home / "data" / "qa-test.jsonl"),
        "--limit",
        "6",
    ]
    assert cli.main([*arguments, "--out", str(home / "vqa")]) == 0
    out = capsys.readouterr().out
    assert "control" in out and "unparsed" in out and "95 %" in out
    assert out.count("calibration of the probability of the reply: ECE") == 1
    assert cli.main([*arguments, "--out", str(home / "again"), "--batch", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["n"] == 6
    first, again = (
        [json.loads(line) for line in (home / n / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]
        for n in ("vqa", "again")
    )
    sums = [[line.pop("logprob") for line in lines] for lines in (first, again)]
    assert first == again, "a batch of one gives the same answers"
    assert sums[0] == pytest.approx(sums[1], abs=1e-4) and all(p < 0 for p in sums[0]), "but for the last digits"


def test_choices_are_ranked(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        cli.main(
            [
                "eval",
                str(home / "run"),
                "--task",
                "choice",
                "--data",
                str(home / "data" / "pope-test.jsonl"),
                "--limit",
                "4",
            ]
        )
        == 0
    )
    assert "choice" in capsys.readouterr().out


def test_a_reply_and_a_look_at_the_run(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    picture = next((home / "data" / "images").iterdir())
    assert cli.main(["reply", str(home / "run"), "--image", str(picture), "--text", "What is it?", "--limit", "3"]) == 0
    capsys.readouterr()
    assert cli.main(["inspect", str(home / "run")]) == 0
    assert "tune" in capsys.readouterr().out


def test_a_chat(home: Path) -> None:
    picture = next((home / "data" / "images").iterdir())
    lines = iter([f"/image {picture}", "What is it?", "/image nowhere.png", "/help", "And now?", "/clear", "/quit"])
    said: list[str] = []
    chat(home / "run", 4, 0.0, 1.0, read=lambda _: next(lines), write=said.append)
    assert any("nowhere.png: there is no such file" in s for s in said)


def test_data_is_checked_with_lengths_and_supervised_tokens(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["data", "check", str(home / "config.yaml"), "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert rows and not any(r["reasons"] for r in rows)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["eval", "{run}", "--task", "vqaa", "--data", "{data}/qa-test.jsonl"], "vqa"),
        (["eval", "{run}", "--task", "vqa", "--data", "{data}/nothing.jsonl"], "nothing.jsonl"),
        (["eval", "{data}", "--task", "vqa", "--data", "{data}/qa-test.jsonl"], "is not a run"),
        (["train", "{config}", "--out", "{run}", "stages.tune.batch=5"], "begun with another config"),
        (["train", "{config}", "--out", "{run}", "stages.tune.bach=5"], "did you mean"),
        (["train", "nothing.yaml", "--out", "{run}"], "nothing.yaml"),
        (["reply", "{run}", "--image", "none.png", "--text", "?"], "none.png"),
        (["reply", "{run}", "--image", "{config}", "--text", "?", "--limit", "8"], "config.yaml"),
        (["inspect", "{data}/images"], "images"),
        (["plan", "llava-1.5-7"], "llava-1.5-7b"),
        (["check-part", "mmlm.nothing:Mlp"], "mmlm.nothing"),
        (["quickstart", "--config", "gpt"], "gpt"),
    ],
)
def test_bad_input_gets_one_message_and_exit_code_2(
    arguments: list[str], message: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = {"run": home / "run", "data": home / "data", "config": home / "config.yaml"}
    try:
        code = cli.main([a.format(**places) for a in arguments])
    except SystemExit as e:  # argparse
        code = int(e.code or 0)
    shown = capsys.readouterr()
    assert code == 2 and message in shown.err and "Traceback" not in shown.err + shown.out


def test_the_program_as_a_program(home: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mmlm", "list", "encoders"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0 and "siglip" in done.stdout
    done = subprocess.run(
        [sys.executable, "-m", "mmlm", "inspect", str(home)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr
