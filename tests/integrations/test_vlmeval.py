"""A run as a model of VLMEvalKit: the mapping of its messages, and the suite itself where it is installed."""

import base64
import csv
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from mmlm.integrations import vlmeval
from mmlm.integrations.asking import Asked
from mmlm.reply import Decoding
from mmlm.sample import Sample

ROOT = Path(__file__).parents[2]
HERE = find_spec("vlmeval") is not None


class _Base:
    """What of the suite's base class the mapping is reached through."""

    allowed_types: tuple[str, ...] = ()

    def generate(self, message: Any, dataset: str | None = None) -> Any:
        assert all(m["type"] in self.allowed_types for m in message)
        return self.generate_inner(message, dataset)  # type: ignore[attr-defined]

    def chat(self, messages: Any, dataset: str | None = None) -> Any:
        return self.chat_inner(messages, dataset=dataset)  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def suite() -> Iterator[ModuleType]:
    """mmlm.integrations.vlmeval_model over the real suite, or over a stand-in for its base class."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if not HERE:
            held: Mapping[str, Mapping[str, Any]] = {
                "vlmeval": {},
                "vlmeval.vlm": {},
                "vlmeval.vlm.base": {"BaseModel": _Base},
            }
            for name, values in held.items():
                module = ModuleType(name)
                vars(module).update(values)
                patch.setitem(sys.modules, name, module)
        yield import_module("mmlm.integrations.vlmeval_model")
        if not HERE:
            del sys.modules["mmlm.integrations.vlmeval_model"]


@pytest.fixture(scope="module")
def asked(home: Any) -> Asked:
    return Asked(home.run, "cpu")


class _Heard(Asked):
    """Keeps what it is asked, and says nothing."""

    def __init__(self, asked: Asked) -> None:
        self.assembly, self.refused = asked.assembly, []
        self.samples: list[Sample] = []

    def replies(self, questions: Any, decoding: Decoding) -> list[Any]:
        self.samples += [make() for make in questions]
        return [None for _ in questions]


def piece(kind: str, value: str, **more: str) -> dict[str, str]:
    return {"type": kind, "value": value, **more}


def test_replies_are_those_of_mmlm_eval(suite: ModuleType, asked: Asked, home: Any) -> None:
    model = suite.Model(asked, Decoding(16))
    for i, (path, question) in home.asked.items():
        assert model.generate([piece("image", str(path)), piece("text", question)], "probe") == home.replies[i]
    said = model.chat(
        [{"role": "user", "content": [piece("image", str(path)), piece("text", question)]}], dataset="probe"
    )
    assert said == home.replies[i]
    assert len(set(home.replies.values())) == 2, "the two replies must differ"
    assert model.VIDEO_LLM is False and model.questions == 3 and not asked.refused


@pytest.mark.parametrize(
    ("message", "turns"),
    [
        ([piece("text", "a"), piece("text", "b")], [("user", ["a", "\nb"])]),
        ([piece("image", "PICTURE"), piece("text", "a")], [("user", [None, "\na"])]),
        ([piece("text", "a"), piece("image", "PICTURE"), piece("text", "b")], [("user", ["a", None, "b"])]),
        (
            [piece("text", "be", role="system"), piece("image", "PICTURE"), piece("text", "a")],
            [("system", ["be"]), ("user", [None, "\na"])],
        ),
        (
            [piece("image", "PICTURE"), piece("text", "a"), piece("text", "Best option:(", role="assistant")],
            [("user", [None, "\na", "\nBest option:("])],
        ),
    ],
)
def test_messages_become_turns(
    message: list[dict[str, str]], turns: list[Any], suite: ModuleType, asked: Asked, home: Any
) -> None:
    picture, _ = home.asked["0"]
    heard = _Heard(asked)
    pieces = [m | {"value": m["value"].replace("PICTURE", str(picture))} for m in message]
    assert suite.Model(heard, Decoding(1)).generate(pieces, "probe") == ""
    (sample,) = heard.samples
    assert [(t.role, [p if isinstance(p, str) else None for p in t.parts]) for t in sample.turns] == turns
    assert sample.origin == "probe: question 1"


def test_a_question_that_cannot_be_put_has_an_empty_reply(suite: ModuleType, home: Any, tmp_path: Path) -> None:
    asked = Asked(home.run, "cpu")
    (tmp_path / "no.png").write_bytes(b"this is no picture")
    model = suite.Model(asked, Decoding(4))
    assert model.generate([piece("image", str(tmp_path / "no.png")), piece("text", "What?")], "probe") == ""
    (reason,) = asked.refused
    assert reason.startswith("probe: question 1:") and "no.png" in reason


def test_without_the_suite_one_message_names_it(
    home: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vlmeval, "find_spec", lambda _: None)
    assert vlmeval.main(["--run", str(home.run), "--data", "MMBench_DEV_EN"]) == 2
    told = capsys.readouterr().err
    assert "VLMEvalKit (the package 'vlmeval')" in told and told.count("\n") == 1


@pytest.mark.skipif(HERE, reason="vlmeval is installed")
def test_the_command_exits_with_2_where_the_suite_is_absent(home: Any) -> None:
    done = _command(home.run, ROOT, [])
    assert done.returncode == 2 and "VLMEvalKit (the package 'vlmeval')" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"--run": "nowhere"}, "nowhere is not a run"),
        ({"--limit": "0"}, "decoding: expected limit >= 1"),
        ({"--device": "gpu"}, "device: expected cpu, cuda or cuda:0, came 'gpu'"),
    ],
)
def test_wrong_arguments_are_one_clear_error(
    changed: dict[str, str], told: str, home: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(vlmeval, "_runner", lambda: Path("run.py"))
    given = {"--run": str(home.run), "--data": "probe"} | changed
    assert vlmeval.main([x for pair in given.items() for x in pair]) == 2
    assert told in capsys.readouterr().err


@pytest.mark.skipif(HERE, reason="vlmeval is installed, and comes before a folder of its name")
def test_a_package_without_its_runner_is_told(tmp_path: Path, home: Any, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "vlmeval").mkdir()
    (tmp_path / "vlmeval" / "__init__.py").touch()
    done = _command(home.run, tmp_path, [])
    assert done.returncode == 2 and "expected VLMEvalKit's runner" in done.stderr
    (tmp_path / "run.py").touch()
    done = _command(home.run, tmp_path, [])
    assert done.returncode == 2 and "cannot be imported: No module named 'vlmeval.config'" in done.stderr


def _command(run: Path, folder: Path, more: list[str], **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in `folder`, where a package of the suite may lie."""
    return subprocess.run(
        [sys.executable, "-m", "mmlm.integrations.vlmeval", "--run", str(run), "--data", "mmlm_probe", *more],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"} | environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


@pytest.mark.slow
@pytest.mark.skipif(not HERE, reason="vlmeval is not installed: pip install -e . in a checkout of VLMEvalKit")
def test_the_suite_asks_a_run(home: Any, tmp_path: Path) -> None:
    """By its own runner, on a table of two pictures, without a network."""
    with (tmp_path / "mmlm_probe.tsv").open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, delimiter="\t")
        table.writerow(("index", "image", "question", "answer"))
        for i, (path, question) in home.asked.items():
            table.writerow((i, base64.b64encode(path.read_bytes()).decode(), question, "a hat"))
    more = ["--work-dir", str(tmp_path / "out"), "--limit", "16", "--device", "cpu", "--mode", "infer"]
    done = _command(home.run, tmp_path, more, LMUData=str(tmp_path), PRED_FORMAT="tsv")
    assert done.returncode == 0, done.stdout + done.stderr
    found = sorted((tmp_path / "out").rglob("mmlm-run_mmlm_probe.tsv"))
    assert found, done.stdout + done.stderr
    with found[0].open(encoding="utf-8", newline="") as file:
        said = {row["index"]: row["prediction"] for row in csv.DictReader(file, delimiter="\t")}
    assert said == home.replies
