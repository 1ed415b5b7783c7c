"""Many questions at once: what files make which questions, the same answers as `mmlm eval` gives, and what is refused."""

import csv
import json
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
from PIL import Image as Pillow
from systems import tiny

from mmlm.assemble import Assembly
from mmlm.config import DataConfig
from mmlm.demo.batch import Asked, Queued, answers, records, write
from mmlm.demo.engine import Engine
from mmlm.demo.gallery import examples
from mmlm.demo.gather import MOST, gather
from mmlm.demo.uploads import Limits
from mmlm.errors import InputError
from mmlm.evaluation import evaluate
from mmlm.evaluation.assembled import Assembled
from mmlm.reply import Decoding
from mmlm.training.readers.qa import Qa

DECODING = Decoding(limit=6)


def picture(path: Path, shade: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.new("RGB", (11 + shade % 3, 9), (shade, 40, 200 - shade)).save(path)
    return path


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (folder := tmp_path / "secret-home").mkdir()
    return folder


def test_loose_files_and_archives_are_asked_the_same(home: Path, tmp_path: Path) -> None:
    files = [picture(tmp_path / "a.png"), picture(tmp_path / "other" / "a.png", 5), picture(tmp_path / "b.JPG", 9)]
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as box:
        box.write(files[0], "in/a.png")
        box.write(files[0], "c.png")
        box.writestr("readme.txt", "no picture")
    path = gather([*files, tmp_path / "more.zip"], "What?", home)
    found = rows(path)
    assert [r["file"] for r in found] == ["a.png", "a-2.png", "b.JPG", "in/a.png", "c.png"]
    assert {r["question"] for r in found} == {"What?"}
    reader = Qa(path, unanswered=True)
    assert [s.turns[0].text for s in (reader[i] for i in range(5))] == ["\nWhat?"] * 5
    assert len({r["id"] for r in found}) == 5


@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_table_asks_what_its_rows_say(form: str, home: Path, tmp_path: Path) -> None:
    asked = [
        {"id": "x", "image": "a.png", "question": "Which\ncolour?"},
        {"id": "y", "image": "deep/b.png", "question": ""},
        {"id": "z", "image": "", "question": "Hello?"},
    ]
    table = tmp_path / f"table.{form}"
    if form == "csv":
        with table.open("w", newline="", encoding="utf-8") as f:
            writer = csv.DictWriter(f, ["id", "image", "question"])
            writer.writeheader()
            writer.writerows(asked)
    else:
        written(table, "\n".join(map(json.dumps, asked)))
    with zipfile.ZipFile(tmp_path / "p.zip", "w") as box:
        box.write(picture(tmp_path / "b.png"), "deep/b.png")
    found = rows(gather([table, picture(tmp_path / "a.png"), tmp_path / "p.zip"], "The common one", home))
    assert [(r["id"], r["question"], r["file"]) for r in found] == [
        ("x", "Which\ncolour?", "a.png"),
        ("y", "The common one", "deep/b.png"),
        ("z", "Hello?", ""),
    ]
    assert "image" in found[1] and "image" not in found[2]


def test_ids_that_come_twice_are_told_apart(home: Path, tmp_path: Path) -> None:
    table = written(tmp_path / "t.jsonl", '{"id": 1, "question": "a"}\n{"id": 1, "question": "b"}\n')
    assert [r["id"] for r in rows(gather([table], "", home))] == ["1: 1", "2: 1"]


@pytest.mark.parametrize(
    ("files", "question", "reason"),
    [
        ({}, "What?", "nothing to ask about"),
        ({"a.png": ""}, " ", "write the question"),
        ({"a.exe": "x"}, "What?", r"^a\.exe is no picture"),
        ({"a.csv": "question\nx\n", "b.csv": "question\ny\n"}, "", "several tables"),
        ({"a.csv": "image,question\ngone.png,x\n"}, "", r"a\.csv, row 1: gone\.png is not among"),
        ({"a.csv": "image,question\n/etc/passwd,x\n"}, "", "passwd is not among"),
        ({"a.csv": "image,question\n../../../etc/hosts,x\n"}, "", "hosts is not among"),
        ({"a.csv": "image,question\n,\n"}, "", "row 1: there is no question"),
        ({"a.csv": "picture,text\nx,y\n"}, "", "a.csv: expected a column question, .* came picture, text"),
        (
            {"a.jsonl": '{"picture": "b.png", "question": "x"}', "b.png": ""},
            "",
            "that names the files, .* came picture, q",
        ),
        ({"a.csv": ""}, "What?", "holds no row"),
        ({"a.csv": "question\n" + "x\n" * (MOST + 1)}, "", f"more than {MOST} rows"),
        ({"a.jsonl": "{"}, "", "cannot be read"),
        ({"a.jsonl": "[1, 2]"}, "", "expected an object"),
        ({"a.jsonl": "[" * 100_000}, "", "cannot be read"),
        ({"a.zip": "no archive"}, "What?", r"^a\.zip cannot be unpacked"),
    ],
)
def test_what_cannot_be_asked_is_told_and_leaves_nothing(
    files: dict[str, str], question: str, reason: str, home: Path, tmp_path: Path
) -> None:
    paths = [written(tmp_path / n, t) if t or n.endswith("csv") else picture(tmp_path / n) for n, t in files.items()]
    with pytest.raises(InputError, match=reason) as raised:
        gather(paths, question, home)
    assert "secret-home" not in str(raised.value)
    assert not list(home.iterdir())


def test_too_many_files_are_refused(home: Path, tmp_path: Path) -> None:
    one = picture(tmp_path / "a.png")
    with zipfile.ZipFile(tmp_path / "many.zip", "w") as box:
        for i in range(MOST + 1):
            box.write(one, f"{i}.png")
    with pytest.raises(InputError, match=f"holds {MOST + 1} files"):
        gather([tmp_path / "many.zip"], "What?", home)


def asked(home: Path, tmp_path: Path, count: int = 6) -> Asked:
    files = [picture(tmp_path / f"{i}.png", 30 * i) for i in range(count)]
    return Asked(gather([*files, written(tmp_path / "bad.png", "no picture")], "What?", home), {"image"}, Limits())


def test_the_answers_are_those_of_mmlm_eval(assembly: Assembly, home: Path, tmp_path: Path) -> None:
    """Other batches, the queue and the page in between change nothing."""
    task = asked(home, tmp_path)
    *grown, whole = answers(Engine(assembly), task, DECODING)
    assert [len(g) for g in grown] == [4] and len(whole) == 7
    result = evaluate(Assembled(assembly), task, out=tmp_path / "out", decoding=DECODING, control=False)
    kept = {r["id"]: r for r in rows(tmp_path / "out" / "predictions.jsonl")}
    assert [kept[a.id]["reply"] for a in whole] == [a.reply for a in whole]
    assert [kept[a.id]["key"] for a in whole] == [a.key for a in whole]
    assert whole[-1].error == kept[whole[-1].id]["error"] and whole[-1].error.startswith("bad.png: expected a JPEG")
    assert "secret-home" not in whole[-1].error
    assert len(result.failures) == 1


def test_what_is_downloaded_holds_everything(assembly: Assembly, home: Path, tmp_path: Path) -> None:
    task = asked(home, tmp_path, 1)
    (said,) = answers(Engine(assembly), task, DECODING)
    lines, sheet = write(records(task, ["one", "two"], [said, said], DECODING), home)
    found = rows(lines)
    assert [[a["model"] for a in r["answers"]] for r in found] == [["one", "two"]] * 2
    assert found[0]["answers"][0]["answer"] == said[0].reply and found[0]["decoding"]["limit"] == 6
    with sheet.open(newline="", encoding="utf-8") as f:
        table = list(csv.reader(f))
    assert table[0] == ["id", "file", "question", "answer of A (one)", "answer of B (two)"]
    assert table[2][3].startswith("(bad.png: expected")


def test_no_cell_is_a_formula(home: Path) -> None:
    dangerous = ["=cmd()", "+1", "-1", "@x", "\tx"]
    made = [
        {"id": d, "file": d, "question": d, "answers": [{"model": "m", "answer": d, "error": ""}]} for d in dangerous
    ]
    _, sheet = write(made, home)
    with sheet.open(newline="", encoding="utf-8") as f:
        assert all(cell.startswith("'") for row in list(csv.reader(f))[1:] for cell in row)


def test_a_batch_waits_for_its_turn(assembly: Assembly, home: Path, tmp_path: Path) -> None:
    engine, hold, held = Engine(assembly, waiting=0), threading.Event(), threading.Event()

    def holding(_: Assembly) -> None:
        held.set()
        hold.wait(20)

    thread = threading.Thread(target=engine.alone, args=(holding,))
    thread.start()
    held.wait(10)
    threading.Timer(0.6, hold.set).start()
    sample = asked(home, tmp_path, 1).questions()[0].sample
    assert len(Queued(engine).reply([sample], DECODING)) == 1
    assert hold.is_set()
    thread.join()


def test_examples_are_held_out_pictures(home: Path, tmp_path: Path) -> None:
    """From the last validation data, spread over them, no picture twice; none where the data are gone."""
    data = tmp_path / "run" / "data"
    for i in range(10):
        picture(data / f"{i}.png", 20 * i)
    broken = written(data / "broken.png", "no picture")
    names = [*(f"{i // 2}.png" for i in range(20)), broken.name]
    text = "\n".join(json.dumps({"id": i, "image": n, "question": f"{i}?", "answer": "x"}) for i, n in enumerate(names))
    written(data / "val.jsonl", text)
    source = written(tmp_path / "train.jsonl", '{"question": "a", "answer": "b"}\n')
    config = tiny("mlp", tmp_path, data=source)
    held_out = DataConfig(reader="qa", path="data/val.jsonl")
    stage = config.stages[0].model_copy(update={"validation": [held_out]})
    config = config.model_copy(update={"stages": [stage, config.stages[1]]})
    found = examples(tmp_path / "run", config, home, {"image"}, Limits(), 4)
    assert len(found) == 4 and len({e.picture for e in found}) == 4
    assert all(e.picture.is_relative_to(home) and e.question.endswith("?") for e in found)
    gone = config.model_copy(
        update={"stages": [stage.model_copy(update={"validation": [DataConfig(reader="qa", path="gone.jsonl")]})]}
    )
    assert examples(tmp_path / "run", gone, home, {"image"}, Limits()) == []
