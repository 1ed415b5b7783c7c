"""What of one set stands in another: pictures that were changed, texts, both, and what is no evidence."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageEnhance
import pytest

from mmlm.cli import main
from mmlm.data import overlap
from mmlm.data.phrases import Phrases, phrases
from mmlm.errors import InputError
from mmlm.sample import Sample, Turn

LONG = "The man in the red jacket stands near the old bridge and looks at the boats below"
Write = Callable[[str, Sequence[tuple[int, str, str]]], str]


def picture(number: int) -> PIL.Image.Image:
    pixels = np.random.default_rng(number).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return PIL.Image.fromarray(pixels).resize((180, 140), PIL.Image.Resampling.BICUBIC)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes a set of (number of a picture, question, answer); gives how a command line names it. The pictures of the set
    `eval` are smaller, cut, brighter and JPEG."""

    def made(name: str, records: Sequence[tuple[int, str, str]]) -> str:
        (tmp_path / name).mkdir()
        rows = []
        for i, (number, question, answer) in enumerate(records):
            image = picture(number)
            if name == "eval":
                image = PIL.ImageEnhance.Brightness(image.resize((120, 93)).crop((3, 2, 118, 92))).enhance(1.1)
            file = f"{number}.{'jpg' if name == 'eval' else 'png'}"
            image.save(tmp_path / name / file)
            rows.append({"id": str(i), "image": file, "question": question, "answer": answer})
        (tmp_path / name / "d.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
        return f"qa:{tmp_path / name / 'd.jsonl'}"

    return made


def counts(found: Any) -> dict[str, tuple[int, int]]:
    return {r.values["what"]: (r.values["in EVAL"], r.values["found"]) for r in found.report.rows}


def test_pictures_texts_and_both(write: Write, tmp_path: Path) -> None:
    train = write(
        "train", [(1, "What is on the table?", "bread"), (2, f"{LONG}, one more.", "no"), (3, "Where is he?", "x")]
    )
    known = [
        (1, "what is on the TABLE", "a loaf"),  # the picture and the question of one record
        (2, "What is on the table?", "a loaf"),  # a picture and the question of another
        (9, f"Look: {LONG}!", "yes"),  # a text alone
        (3, "Who is the tall one there?", "y"),  # a picture alone
        (8, "What stands on a chair?", "z"),
        (7, "he is", "Where"),  # too short to say anything
    ]
    found = overlap(train, write("eval", known), out=tmp_path / "deep" / "shared.jsonl")
    assert counts(found) == {"pictures": (6, 3), "texts": (5, 3), "picture and text": (5, 1), "records": (6, 4)}
    assert [s.kind for s in found.shared] == ["picture and text", "picture", "picture", "text"]
    listed = [json.loads(line) for line in (tmp_path / "deep" / "shared.jsonl").read_text().splitlines()]
    places = {(Path(r["eval"]).name, Path(r["train"]).name, r["kind"]) for r in listed}
    assert places == {
        ("d.jsonl:1", "d.jsonl:1", "picture and text"),
        ("d.jsonl:2", "d.jsonl:2", "picture"),
        ("d.jsonl:4", "d.jsonl:3", "picture"),
        ("d.jsonl:3", "d.jsonl:2", "text"),
    }
    both, text = listed[0], listed[3]
    assert both["eval_picture"].endswith("eval/1.jpg") and both["train_picture"].endswith("train/1.png")
    assert both["bits"] <= 10 and both["phrase"] == "what is on the table" and both["text"] == 1.0
    assert text["phrase"] == "the man in the red jacket stands near the old bridge and looks" and 0 < text["text"] < 1
    assert "66.7%" in found.table() and "train/1.png" in found.table()
    assert [s["kind"] for s in found.as_json()["surest"]] == [s.kind for s in found.shared]


def test_what_most_records_say_is_the_form_of_the_set(write: Write) -> None:
    form = "Answer the question using one word."
    train = write("train", [(100, f"Is it here?\n{form}", "no")])
    other = write("eval", [(i, f"What is thing number {i} of these?\n{form}", "yes") for i in range(20)])
    found = overlap(train, other)
    assert counts(found)["texts"] == (20, 0) and "1 phrases stand in more than a tenth" in found.table()


def test_a_picture_that_stands_twice_is_one(write: Write, tmp_path: Path) -> None:
    train = write("train", [(1, "Is that a boat there?", "no")] * 3 + [(2, "Is that a boat there?", "no")])
    (tmp_path / "train/2.png").write_bytes((tmp_path / "train/1.png").read_bytes())
    found = overlap(train, write("eval", [(1, "Who knows the way home?", "me"), (1, "Is that a boat there?", "no")]))
    rows = {r.values["what"]: r.values for r in found.report.rows}
    assert (rows["pictures"]["in TRAIN"], rows["pictures"]["in EVAL"], rows["pictures"]["found"]) == (1, 1, 1)
    assert counts(found)["picture and text"] == (2, 1)


def test_what_cannot_be_read_is_listed_and_left_out(write: Write, tmp_path: Path) -> None:
    train, other = (
        write("train", [(1, "Is that it over there?", "no")]),
        write("eval", [(1, "x", "y"), (2, "x", "y"), (3, "x", "y")]),
    )
    PIL.Image.new("RGB", (30, 30), (255, 255, 255)).save(tmp_path / "eval/2.jpg")
    (tmp_path / "eval/3.jpg").write_bytes(b"no picture")
    found = overlap(train, other)
    assert counts(found)["pictures"] == (1, 1) and counts(found)["records"] == (3, 1)
    assert (
        "eval/3.jpg" in found.report.rows[3].bad[0]
        and "1 pictures of EVAL and 0 of TRAIN show nothing" in found.table()
    )
    (tmp_path / "eval/1.jpg").unlink()
    assert "1.jpg" in overlap(train, other).report.rows[3].bad[0]
    for name in "23":
        (tmp_path / f"eval/{name}.jpg").unlink()
    with pytest.raises(InputError, match=r"none of its 3 records can be read: .*1\.jpg"):
        overlap(train, other)


def test_other_processes_decode_the_same(write: Write) -> None:
    train, other = (write(n, [(i, f"Which of the things is {i}?", "no") for i in range(5)]) for n in ("train", "eval"))
    assert overlap(train, other, workers=1) == overlap(train, other)


def test_texts_without_pictures(tmp_path: Path) -> None:
    rows = [{"messages": [{"role": "user", "content": LONG}, {"role": "assistant", "content": "Yes."}]}]
    (tmp_path / "t.jsonl").write_text(json.dumps(rows[0]) + "\n")
    found = overlap(f"messages:{tmp_path / 't.jsonl'}", f"messages:{tmp_path / 't.jsonl'}")
    assert counts(found) == {"pictures": (0, 0), "texts": (1, 1), "picture and text": (0, 0), "records": (1, 1)}


def sample(*turns: str) -> Sample:
    return Sample(tuple(Turn("user", (t,)) for t in turns))


def test_phrases_are_runs_of_words_within_a_line() -> None:
    assert list(phrases(sample("One, two; THREE four!\nfive six seven"), 4)) == ["one two three four"]
    assert list(phrases(sample("a b c d e", "f g h i"), 4)) == ["a b c d", "b c d e", "f g h i"]
    assert list(phrases(sample("It's a_b c"), 13)) == ["it s a b c"]
    assert list(phrases(sample("桌子上是什么"), 5)) == ["桌 子 上 是 什", "子 上 是 什 么"]
    assert list(phrases(sample("a b c"), 13)) == []


def test_phrases_that_are_common_to_few_records_stay() -> None:
    texts = Phrases(13)
    for i in range(10):
        texts.add(i, sample("what is on the table"))
    assert texts.settle(10) == 0
    texts.add(10, sample("what is on the table"))
    assert texts.settle(11) == 1 and not texts.records


def test_the_command(write: Write, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train, other = write("train", [(1, "Who is it in there?", "no")]), write("eval", [(1, "Who is it in there?", "no")])
    assert main(["data", "overlap", train, other, "--out", str(tmp_path / "o.jsonl"), "--ngram", "8"]) == 0
    assert "picture and text" in capsys.readouterr().out and (tmp_path / "o.jsonl").read_text().count("\n") == 1
    assert main(["data", "overlap", train, other, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["share"] == 1.0
    for given in (
        (train, "none.yaml"),
        ("qa:none.jsonl", other),
        (train, other, "--ngram", "3"),
        (train, other, "--out", str(tmp_path)),
    ):
        assert main(["data", "overlap", *given]) == 2
        assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.slow
def test_different_stamps_do_not_overlap(stamps: Path, tmp_path: Path) -> None:
    """Halves of the stamps share next to nothing, and what they share is drawn alike."""
    rows = [json.loads(line) for line in (stamps / "stamps.jsonl").read_text(encoding="utf-8").splitlines()]
    for name, part in (("a", rows[::2]), ("b", rows[1::2])):
        asked = [{"id": r["id"], "image": r["image"], "question": "What?", "answer": r["caption"]} for r in part]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in asked))
    named = [f"{{reader: qa, path: {tmp_path / n}.jsonl, images: {stamps}}}" for n in "ab"]
    found = overlap(*named)
    pictures, shared = counts(found)["pictures"]
    assert pictures > 300 and shared <= 0.06 * pictures
    assert counts(overlap(named[0], named[0]))["pictures"][0] == counts(overlap(named[0], named[0]))["pictures"][1]
