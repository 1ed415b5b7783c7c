"""Questions of presence from captions: balanced, true to the captions, hard in the way they say, the same every time."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmlm.cli import main
from mmlm.errors import InputError
from mmlm.evaluation import evaluate, presence
from mmlm.evaluation.nouns import nouns, standing
from mmlm.evaluation.tasks.pope import PopeTask
from mmlm.training.readers.qa import Qa

Paint = Callable[[Path, int], Path]
SAID = {  # dogs go with balls, boats with birds; dogs are everywhere
    0: "A dog with a ball in a field.",
    1: "A brown dog runs after a ball near a house.",
    2: "A dog, a ball and a tree.",
    3: "A boat with a bird on a lake.",
    4: "A boat and a bird near a tree.",
    5: "A dog on a boat.",
    6: "A bird over a house without a tree.",
    7: "Two dogs and a house.",
}


@pytest.fixture
def captions(tmp_path: Path, paint: Paint) -> str:
    """Captions in COCO's form, of which picture 0 has two."""
    for n in SAID:
        paint(tmp_path / f"set/{n}.png", n)
    annotations = [{"id": n, "image_id": n, "caption": text} for n, text in SAID.items()]
    annotations.append({"id": 99, "image_id": 0, "caption": "There is a cat beside a dog."})
    images = [{"id": n, "file_name": f"{n}.png"} for n in SAID]
    (tmp_path / "set/c.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return f"captions:{tmp_path / 'set/c.json'}"


@pytest.fixture
def words(tmp_path: Path) -> Path:
    (tmp_path / "words.txt").write_text("# things\ndog, puppy\nball\nboat\nbird\nhouse\ntree\ncat\na field, field\n")
    return tmp_path / "words.txt"


def asked(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "pope.jsonl").read_text(encoding="utf-8").splitlines()]


def thing(row: dict[str, Any]) -> str:
    text = row["question"].removeprefix("Is there ").removesuffix(" in the picture?")
    return str(text.partition(" ")[2])


def told(folder: Path, captions: str, tmp_path: Path) -> dict[str, str]:
    """What is said of each picture that was written, found again by its bytes."""
    content = {(tmp_path / f"set/{n}.png").read_bytes(): n for n in SAID}
    both = {**SAID, 0: SAID[0] + " There is a cat beside a dog."}
    return {r["image"]: both[content[(folder / r["image"]).read_bytes()]].lower() for r in asked(folder)}


def test_questions_are_balanced_and_true_to_the_captions(captions: str, words: Path, tmp_path: Path) -> None:
    report = presence(captions, tmp_path / "out", words=words)
    rows, said = asked(tmp_path / "out"), told(tmp_path / "out", captions, tmp_path)
    assert len(said) == len(SAID) and len({r["id"] for r in rows}) == len(rows)
    for row in rows:
        assert (thing(row) in said[row["image"]]) == (row["answer"] == "yes"), row
    for level in ("random", "popular", "adversarial"):
        mine = [r for r in rows if r["category"] == level]
        assert Counter(r["answer"] for r in mine) == {"yes": len(mine) // 2, "no": len(mine) // 2}
        assert max(Counter(r["image"] for r in mine).values()) <= 6
        things = [(r["image"], thing(r)) for r in mine if r["answer"] == "yes"]
        assert things == [(r["image"], thing(r)) for r in rows if r["answer"] == "yes" and r["category"] == "random"]
    assert "is there a field" in " ".join(r["question"].lower() for r in rows)
    assert [r.values["yes"] for r in report.rows] == [r.values["no"] for r in report.rows]
    assert "may be there all the same" in report.table() and "mmlm eval RUN --task pope --data" in report.table()


def test_popular_and_adversarial_negatives_are_what_they_say(captions: str, words: Path, tmp_path: Path) -> None:
    presence(captions, tmp_path / "out", words=words, each=1)
    rows, said = asked(tmp_path / "out"), told(tmp_path / "out", captions, tmp_path)
    frequency = {"dog": 5, "ball": 3, "boat": 3, "bird": 3, "house": 3, "tree": 3}
    for yes, no in zip(rows[::2], rows[1::2], strict=True):
        absent = {t for t in frequency if t not in said[no["image"]]}
        if no["category"] == "popular":
            assert frequency[thing(no)] == max(frequency[t] for t in absent)
        if no["category"] == "adversarial" and thing(yes) == "ball":
            with_ball = {"dog": 3, "tree": 1, "house": 1}
            assert with_ball.get(thing(no), 0) == max(with_ball.get(t, 0) for t in absent)


def test_the_seed_decides_and_nothing_else_does(captions: str, words: Path, tmp_path: Path) -> None:
    for name, seed in (("one", 0), ("two", 0), ("other", 1)):
        presence(captions, tmp_path / name, words=words, seed=seed, limit=5, each=2)
    (tmp_path / "set").rename(tmp_path / "elsewhere")
    presence(f"captions:{tmp_path / 'elsewhere/c.json'}", tmp_path / "moved", words=words, limit=5, each=2)
    texts = {n: (tmp_path / n / "pope.jsonl").read_text() for n in ("one", "two", "other", "moved")}
    assert texts["one"] == texts["two"] == texts["moved"] != texts["other"]
    assert len({r["image"] for r in asked(tmp_path / "one")}) == 5


def test_the_task_reads_what_was_made(captions: str, words: Path, tmp_path: Path, oracle: Any, decoding: Any) -> None:
    out = tmp_path / "out"
    presence(captions, out, words=words)
    answers = {r["id"]: r["answer"] for r in asked(out)}
    for path in (out, out / "pope.jsonl"):
        task = PopeTask(path)
        assert [q.references[0] for q in task.questions()] == list(answers.values())
    result = evaluate(oracle(lambda s, seen: answers[s.id]), task, out=tmp_path / "eval", decoding=decoding)
    rows = {(r.group, r.metric): r.score.value for r in result.rows}
    assert rows["all", "F1"] == 1.0 and rows["category: adversarial", "yes share"] == 0.5
    assert len(Qa(out / "pope.jsonl")) == len(answers)


def test_nouns_are_found_where_no_words_are_given(captions: str, tmp_path: Path) -> None:
    report = presence(captions, tmp_path / "out", least=3)
    rows, said = asked(tmp_path / "out"), told(tmp_path / "out", captions, tmp_path)
    assert {thing(r) for r in rows} == {"dog", "ball", "boat", "bird", "house"}
    assert "nouns that captions of at least 3 pictures name" in report.table()
    for row in rows:
        assert (thing(row) in said[row["image"]]) == (row["answer"] == "yes")
    brown = next(i for i, text in said.items() if "brown" in text)
    assert not [r for r in rows if r["image"] == brown and thing(r) == "dog"], "neither surely there nor absent"


def test_conversations_are_captions_too(captions: str, words: Path, paint: Paint, tmp_path: Path) -> None:
    said = {"1.png": "A dog beside a ball.", "2.png": "A boat.", "none.png": "A dog."}
    records = [
        {"id": n, "image": n, "conversations": [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": text}]}
        for n, text in said.items()
    ]
    (tmp_path / "set/l.json").write_text(json.dumps(records))
    report = presence(f"llava:{tmp_path / 'set/l.json'}", tmp_path / "out", words=words, limit=1)
    assert {thing(r) for r in asked(tmp_path / "out") if r["answer"] == "yes"} <= {"dog", "ball", "boat"}
    assert "none.png" in report.rows[0].bad[0]


def test_a_picture_under_two_names_is_one_and_a_broken_one_is_left_out(
    captions: str, words: Path, tmp_path: Path
) -> None:
    (tmp_path / "set/3.png").write_bytes((tmp_path / "set/0.png").read_bytes())
    (tmp_path / "set/4.png").write_bytes(b"no picture")
    report = presence(captions, tmp_path / "out", words=words)
    rows = asked(tmp_path / "out")
    assert len({r["image"] for r in rows}) == len(SAID) - 2 and "4.png" in report.rows[0].bad[0]
    assert len({r["id"] for r in rows}) == len(rows)


def test_what_no_question_can_be_made_of(captions: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "w.txt").write_text("zebra\n")
    with pytest.raises(InputError, match="no question can be made of 8 pictures and 0 things"):
        presence(captions, tmp_path / "out", words=tmp_path / "w.txt")
    with pytest.raises(InputError, match="at least two nouns that captions of 50 pictures name, got 0"):
        presence(captions, tmp_path / "out", least=50)
    (tmp_path / "w.txt").write_text("dog, cat\npuppy, dog\n")
    with pytest.raises(InputError, match=r"w.txt: the object 'puppy': 'dog' cannot name it"):
        presence(captions, tmp_path / "out", words=tmp_path / "w.txt")
    (tmp_path / "none").write_text("a file")
    for given in (
        ("captions:none.json", "o"),
        (captions, str(tmp_path / "o"), "--words", "none.txt"),
        (captions, str(tmp_path / "none"), "--least", "2"),
    ):
        assert main(["data", "presence", *given]) == 2
        assert "none" in capsys.readouterr().err
    assert main(["data", "presence", captions, str(tmp_path / "o"), "--least", "2", "--seed", "3", "--json"]) == 0
    assert [r["yes"] - r["no"] for r in json.loads(capsys.readouterr().out)["rows"]] == [0, 0, 0]


@pytest.mark.parametrize(
    ("caption", "found"),
    [
        ("A man riding a wave on top of a surfboard.", ["man", "wave", "surfboard"]),
        ("An orange cat lying on a red and white blanket near a window", ["window"]),
        ("a cat, a dog and an owl", ["cat", "dog", "owl"]),
        ("A couple of people without a dog in a field", ["field"]),
        ("There is not a car but a bus is here", ["bus"]),
        ("a building with a clock; a ring", ["building", "clock", "ring"]),
        ("A photo of a stop sign", []),
        ("Dogs.", []),
        ("", []),
    ],
)
def test_where_a_noun_stands(caption: str, found: list[str]) -> None:
    assert list(standing(caption)) == found


def test_nouns_by_how_many_pictures_have_them() -> None:
    assert nouns([["a cat.", "a cat, a dog"], ["a dog."], ["a dog.", "an owl"]], 1) == ["dog", "cat", "owl"]
    assert nouns([["a cat.", "a cat."], ["a dog."], ["a dog."]], 2) == ["dog"]
