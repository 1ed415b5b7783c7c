"""The command line: what it asks of which room, what it prints, and how it ends."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import mmlm
from mmlm import registry
from mmlm.cli import COMMANDS, main
from mmlm.errors import InputError

HERE = Path(__file__).parent
TYPICAL = str(HERE / "config" / "typical.yaml")

Room = Callable[..., list[tuple[tuple[Any, ...], dict[str, Any]]]]


class Told:
    """What a room gives back."""

    passed = True

    def table(self) -> str:
        """As text."""
        return "a table"

    def as_json(self) -> dict[str, Any]:
        """As plain values."""
        return {"a": Path("b"), "ü": 1}


@pytest.fixture(autouse=True)
def shelf(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tables of the shelf of tests/config in place of the project's."""
    monkeypatch.syspath_prepend(HERE / "config")
    kinds = ("encoders", "aligners", "backbones", "grafts", "readers", "output_aligners", "decoders")
    monkeypatch.setattr(registry, "KINDS", {kind: f"shelf.{kind}" for kind in kinds})


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Room:
    """Put a function into a room that notes how it is called; gives the notes."""

    def put(module: str, name: str, answer: Any = None) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def called(*given: Any, **named: Any) -> Any:
            calls.append((given, named))
            if isinstance(answer, BaseException):
                raise answer
            return answer

        fake = ModuleType(f"mmlm.{module}")
        setattr(fake, name, called)
        monkeypatch.setitem(sys.modules, f"mmlm.{module}", fake)
        monkeypatch.setattr(mmlm, module, fake, raising=False)
        return calls

    return put


@pytest.mark.parametrize(
    ("command", "module", "name", "expected"),
    [
        ("inspect RUN", "inspection", "inspect", (Path("RUN"),)),
        ("check-part my.parts:Eye", "conformance", "check", (None, "my.parts:Eye", None)),
        ("check-part my.parts:Eye --kind encoders", "conformance", "check", ("encoders", "my.parts:Eye", None)),
        ("check-part my.parts:Eye --weights W", "conformance", "check", (None, "my.parts:Eye", "W")),
        ("data stamps DIR", "data", "stamps", (Path("DIR"), None)),
        ("data stamps DIR --source P", "data", "stamps", (Path("DIR"), Path("P"))),
        ("data scenes DIR", "data", "scenes", (Path("DIR"), 600, 0)),
        ("data scenes DIR --count 5 --seed 3", "data", "scenes", (Path("DIR"), 5, 3)),
        ("quickstart", "quickstart", "quickstart", ("llava", Path("quickstart"), "package", 0)),
        (
            "quickstart --config blip2 --out O --weights hub --seed 2",
            "quickstart",
            "quickstart",
            ("blip2", Path("O"), "hub", 2),
        ),
        ("quickstart --seed 4 5", "quickstart", "quickstarts", ("llava", Path("quickstart"), "package", [4, 5])),
    ],
)
def test_what_rooms_are_asked(
    room: Room, capsys: pytest.CaptureFixture[str], command: str, module: str, name: str, expected: tuple[Any, ...]
) -> None:
    calls = room(module, name, Told())
    assert main(command.split()) == 0
    assert capsys.readouterr().out == "a table\n"
    assert main([*command.split(), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"a": "b", "ü": 1}
    assert calls == [(expected, {})] * 2


def test_plan(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    calls = room("plan", "plan", Told())
    assert main(["plan", TYPICAL, "seed=3", "--json", "stages.align.batch=8", "~published"]) == 0
    assert json.loads(capsys.readouterr().out)["ü"] == 1
    (config,) = calls[0][0]
    assert (config.seed, config.stages[0].batch, config.published) == (3, 8, None)


def test_data_check_measures_samples_as_training_does(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    class Example(list[int]):
        learned = 2

    asked: list[dict[str, Any]] = []

    def processor(sample: object, **named: Any) -> Example:
        asked.append(named)
        return Example([1, 2, 3])

    calls = room("data", "check", Told())
    room("assemble", "processor_of", processor)
    assert main(["data", "check", TYPICAL, "seed=3", "stages.0.template=plain", "stages.0.length=7"]) == 0
    assert capsys.readouterr().out == "a table\n"
    (config,), named = calls[0]
    assert config.seed == 3
    assert named["measure"]("a sample", config.stages[0]) == (3, 2)
    assert named["measure"]("a sample", config.stages[1]) == (3, 2)
    assert [(a["template"] and a["template"].name, a["length"]) for a in asked] == [("plain", 7), (None, None)]


def test_train(room: Room) -> None:
    calls = room("training", "train")
    assert main(["train", TYPICAL, "--out", "RUN", "seed=1"]) == 0
    assert main(["train", "--out", "RUN", "--stage", "tune", TYPICAL]) == 0
    assert [c[0][1:] for c in calls] == [(Path("RUN"), None), (Path("RUN"), "tune")]
    assert [c[0][0].seed for c in calls] == [1, 0]


def test_train_knows_the_stages(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    calls = room("training", "train")
    assert main(["train", TYPICAL, "--out", "RUN", "--stage", "tnue"]) == 2
    assert capsys.readouterr().err == "--stage: expected align or tune, got 'tnue'; did you mean `tune`?\n"
    assert calls == []


def test_eval(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    calls = room("evaluation", "command", Told())
    assert main(["eval", "RUN", "--task", "vqa", "--data", "D"]) == 0
    assert calls[0][0][:10] == (Path("RUN"), "vqa", Path("D"), None, None, 8, None, True, {}, False)
    assert calls[0][0][11] is None
    full = "eval RUN --task vqa --data D --out O --limit 5 --batch 2 --images I --no-control --set a=1 b=x=y --set c="
    assert main([*full.split(), "--rescore", "--presence", "captions:c.json"]) == 0
    assert calls[1][0][11] == "captions:c.json"
    options = {"a": "1", "b": "x=y", "c": ""}
    assert calls[1][0][:10] == (Path("RUN"), "vqa", Path("D"), Path("O"), 5, 2, Path("I"), False, options, True)
    assert capsys.readouterr().out == "a table\n" * 2


def test_commands_with_options(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    calls = room("evaluation", "compare", Told())
    assert main(["compare", "A", "B"]) == 0
    assert main(["compare", "A", "B", "--task", "vqa", "--data", "d/q.jsonl"]) == 0
    assert [given for given, _ in calls] == [
        (Path("A"), Path("B"), None, None),
        (Path("A"), Path("B"), "vqa", Path("d/q.jsonl")),
    ]
    calls = room("data", "overlap", Told())
    assert main(["data", "overlap", "qa:a.jsonl", "c.yaml"]) == 0
    assert main(["data", "overlap", "a", "b", "--out", "o", "--ngram", "8", "--workers", "2"]) == 0
    assert calls == [
        (("qa:a.jsonl", "c.yaml"), {"out": None, "size": 13, "workers": 0}),
        (("a", "b"), {"out": Path("o"), "size": 8, "workers": 2}),
    ]
    calls = room("evaluation", "presence", Told())
    assert main(["data", "presence", "captions:c.json", "O"]) == 0
    given, named = calls[0]
    assert given == ("captions:c.json", Path("O"))
    assert named == {"words": None, "limit": 500, "each": 3, "least": 5, "seed": 0}
    assert capsys.readouterr().out == "a table\n" * 5


def test_eval_shows_how_far_it_is(
    room: Room, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    room("evaluation", "command", Told())

    def command(*given: Any) -> Told:
        for done in (0, 3, 10):
            given[10](done, 10, "answers")
        return Told()

    monkeypatch.setattr(sys.modules["mmlm.evaluation"], "command", command)
    assert main(["eval", "RUN", "--task", "vqa", "--data", "D"]) == 0
    out, err = capsys.readouterr()
    assert out == "a table\n"
    assert "answers" in err
    assert "10/10" in err


def test_reply_and_chat(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    calls = room("talk", "once", "Two cats.")
    assert main(["reply", "RUN", "--text", "How many?"]) == 0
    assert capsys.readouterr().out == "Two cats.\n"
    assert calls[0][0] == (Path("RUN"), "How many?", [], None, 0.0, 1.0, 4, None, None)
    given = "--image a.png --video b.mp4 --image c.png --limit 9 --temperature 0.7 --top-p 0.9 --most 2"
    assert main(["reply", "RUN", "--text=-1?", *given.split()]) == 0
    items = [("image", Path("a.png")), ("video", Path("b.mp4")), ("image", Path("c.png"))]
    assert calls[1][0] == (Path("RUN"), "-1?", items, 9, 0.7, 0.9, 2, None, None)
    calls = room("talk", "chat")
    assert main(["chat", "RUN", "--limit", "5"]) == 0
    assert calls[0][0] == (Path("RUN"), 5, 0.0, 1.0, 4, None, None)
    assert main(["chat", "RUN", "--keep", "K", "--index", "I"]) == 0
    assert calls[1][0] == (Path("RUN"), None, 0.0, 1.0, 4, Path("K"), Path("I"))


def test_a_part_that_fails_is_bad_input(room: Room, capsys: pytest.CaptureFixture[str]) -> None:
    told = Told()
    told.passed = False
    room("conformance", "check", told)
    assert main(["check-part", "my.parts:Eye"]) == 2
    assert capsys.readouterr().out == "a table\n"


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    assert ["encoders", "clip", "shelf.encoders.clip:Clip", "mmlm"] in lines
    assert "module:Class" in text
    assert main(["list", "aligners", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["aligners"]
    assert {"name": "mlp", "target": "shelf.aligners.projectors:Mlp", "source": "mmlm"} in found["aligners"]
    assert main(["list", "systems", "--json"]) == 0
    assert all(e["target"].endswith(f"/{e['name']}.yaml") for e in json.loads(capsys.readouterr().out)["systems"])
    assert main(["list", "metrics"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["metrics", "captions", "coco-captions-1", "mmlm"] in rows
    assert ["metrics", "captions", "ptb-captions-1", "mmlm"] in rows
    assert main(["list", "metrics", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"name": "captions", "versions": ["coco-captions-1", "ptb-captions-1"], "source": "mmlm"} in found["metrics"]
    assert main(["list", "encoder"]) == 2
    assert "did you mean `encoders`?" in capsys.readouterr().err


def test_config_show(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["config", "show", TYPICAL, "seed=9"]) == 0
    shown = capsys.readouterr().out
    (tmp_path / "shown.yaml").write_text(shown, encoding="utf-8")
    assert main(["config", "show", str(tmp_path / "shown.yaml")]) == 0
    assert capsys.readouterr().out == shown
    assert main(["config", "show", TYPICAL, "seed=9", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["seed"] == 9


def test_config_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "schema"]) == 0
    assert "SystemConfig" in json.loads(capsys.readouterr().out)["$defs"]


def test_config_options(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "options", "encoders", "clip"]) == 0
    text = capsys.readouterr().out
    assert "clip (shelf.encoders.clip:Clip): A vision transformer of CLIP.\nweights: needed\n" in text
    assert ["layer", "int", "-2", "which", "layer", "speaks;", "-1", "is", "the", "last"] in [
        line.split() for line in text.splitlines()
    ]
    assert main(["config", "options", "encoders", "frames", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["handed"] == {"encoder": "needed"}
    assert found["options"][0] == {"name": "frames", "type": "int", "default": None, "required": True, "about": ""}
    assert main(["config", "options", "aligners", "linear"]) == 0
    assert capsys.readouterr().out.endswith("no options\n")
    assert main(["config", "options", "encoders", "clop"]) == 2
    assert "did you mean `clip`?" in capsys.readouterr().err


def test_bad_input_is_one_message(capsys: pytest.CaptureFixture[str], room: Room) -> None:
    assert main(["config", "show", TYPICAL, "sed=1", "stages.0.batch=x"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert [line.partition(": ")[0] for line in err.splitlines()] == ["command line", "command line"]
    room("inspection", "inspect", InputError("RUN is no run"))
    assert main(["inspect", "RUN"]) == 2
    assert capsys.readouterr().err == "RUN is no run\n"


def test_an_interrupt_is_one_line(capsys: pytest.CaptureFixture[str], room: Room) -> None:
    room("inspection", "inspect", KeyboardInterrupt())
    assert main(["inspect", "RUN"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_a_fault_is_raised(room: Room) -> None:
    room("inspection", "inspect", RuntimeError("a fault"))
    with pytest.raises(RuntimeError, match="a fault"):
        main(["inspect", "RUN"])


@pytest.mark.parametrize(
    "command",
    [
        "",
        "trian",
        "train",
        f"train {TYPICAL}",
        f"train {TYPICAL} --out R --stag x",
        f"train {TYPICAL} --out R stray",
        f"plan {TYPICAL} --seed=3",
        "eval RUN --task t",
        "eval RUN --task t --data d seed=3",
        "eval RUN --task t --data d --limit 0",
        "eval RUN --task t --data d --set a",
        "eval RUN --task t --data d --set =a",
        "reply RUN",
        "quickstart --config gpt",
        "quickstart --seed",
        "quickstart --seed x",
        "data",
        "data scenes",
        "data scenes D --count x",
        "data overlap a",
        "data overlap a b --workers -1",
        "compare a",
        "config options encoders",
        "list a b",
    ],
)
def test_what_makes_no_sense_ends_with_2(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        main(command.split())
    assert e.value.code == 2
    assert "usage: mmlm" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["", *COMMANDS, "data", "config"])
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as e:
        main([*command.split(), "--help"])
    assert e.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: mmlm {command}".strip())


def python(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run Python at the root of the project."""
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, **options)


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom mmlm.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
        "print([m for m in ('torch', 'pydantic', 'numpy', 'ruamel.yaml', 'transformers', 'mmlm.config') if m in sys.modules])"
    )
    assert python(code).stdout.splitlines()[-1] == "[]"


def test_a_fault_of_the_program_exits_with_1_and_a_traceback() -> None:
    code = (
        "import sys\nimport mmlm.cli as c\nc.COMMANDS['inspect'] = lambda a: 1 / 0\nsys.exit(c.main(['inspect', 'x']))"
    )
    done = python(code)
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert "Traceback" in done.stderr


def test_the_module_is_the_command() -> None:
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, "-m", "mmlm", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert done.stdout == f"mmlm {mmlm.__version__}\n"


def test_a_reader_that_has_seen_enough_is_no_fault() -> None:
    command = [sys.executable, "-m", "mmlm", "list", "systems"]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment) as started:
        assert started.stdout is not None
        assert started.stderr is not None
        started.stdout.close()
        assert started.stderr.read() == b""
    assert started.returncode == 0
