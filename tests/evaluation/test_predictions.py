"""The record of answers: what a key depends on, and what a kill or a stranger's edit does to the file."""

from dataclasses import replace
from pathlib import Path

import pytest

from mmlm.errors import InputError
from mmlm.evaluation.predictions import Answer, Predictions, key, prompt_of
from mmlm.sample import Image, Sample, Turn

ANSWER = Answer(
    "k1", "q1", "user: <image>\nwhat?", ("ab",), "a dog", parsed="dog", references=("dog", "a dog"), tokens=2
)


def test_every_part_changes_the_key() -> None:
    same = ("run", "vqa", "7", "user: what?", ("ab", "cd"), {"limit": 16})
    other = ("run2", "pope", "8", "user: what ?", ("cd", "ab"), {"limit": 17})
    keys = {key(*same)} | {key(*(*same[:i], o, *same[i + 1 :])) for i, o in enumerate(other)}  # type: ignore[arg-type]
    assert len(keys) == 7
    assert key(*same) == key("run", "vqa", "7", "user: what?", ["ab", "cd"], {"limit": 16})


def test_answers_come_back_as_they_were(tmp_path: Path) -> None:
    odd = replace(ANSWER, key="k2", reply='line\nend \u2028 \ud800 "quote" 日本', ranks=((-0.1, 3), (-1e-30, 1)))
    Predictions(tmp_path / "p.jsonl").add([ANSWER, odd])
    assert (tmp_path / "p.jsonl").read_bytes().count(b"\n") == 2
    assert Predictions(tmp_path / "p.jsonl").answers == {"k1": ANSWER, "k2": odd}


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_a_torn_line_is_dropped(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "p.jsonl"
    Predictions(path).add([ANSWER, replace(ANSWER, key="k2")])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    kept = Predictions(path)
    assert list(kept.answers) == ["k1"]
    kept.add([replace(ANSWER, key="k2")])
    assert path.read_bytes() == whole


def test_what_stands_there_is_not_repeated_and_the_last_line_counts(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    kept = Predictions(path)
    failed = replace(ANSWER, reply="", error="broken")
    kept.add([failed])
    kept.add([failed])
    assert path.read_bytes().count(b"\n") == 1
    assert not kept.done("k1")
    kept.add([ANSWER])
    assert Predictions(path).done("k1")
    assert Predictions(path).answers["k1"] == ANSWER


@pytest.mark.parametrize("line", [b"{}", b"nonsense", b'{"key": 1}', b"[" * 9000, b"\xff\xfe"])
def test_a_line_that_was_edited_is_named(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "p.jsonl"
    Predictions(path).add([ANSWER])
    path.write_bytes(path.read_bytes() + line + b"\n")
    with pytest.raises(InputError, match=r"p\.jsonl:2 is not a recorded answer"):
        Predictions(path)


def test_the_prompt_shows_roles_text_and_items() -> None:
    sample = Sample((Turn("system", ("Be brief.",)), Turn("user", (Image(b"x"), "\nwhat?"))))
    assert prompt_of(sample) == "system: Be brief.\nuser: <image>\nwhat?"
