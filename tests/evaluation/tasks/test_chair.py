"""CHAIR: what is in a picture from each form of the data, and the shares of what is not."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mmlm.errors import InputError
from mmlm.evaluation import evaluate, rescore
from mmlm.evaluation.choosing import build
from mmlm.evaluation.predictions import prompt_of
from mmlm.evaluation.tasks.chair import ChairTask
from mmlm.evaluation.tasks.task import Prediction

WORDS = "dog, puppy\ncat\nhot dog\ntraffic light\nperson, man, woman\n"


@pytest.fixture
def words(tmp_path: Path) -> str:
    (tmp_path / "words.txt").write_text(WORDS)
    return "words.txt"


@pytest.fixture
def data(tmp_path: Path, paint: Callable[[Path, int], Path], rows: Callable[..., Path]) -> Path:
    for n in range(3):
        paint(tmp_path / f"{n}.png", n)
    return rows(
        tmp_path / "c.jsonl",
        [
            {"id": 0, "image": "0.png", "objects": ["dog"], "captions": ["A puppy and a man.", "Two dogs."]},
            {"id": 1, "image": "1.png", "objects": ["traffic light", "cat"], "split": "val"},
            {"id": 2, "image": "2.png", "caption": "A woman eats a hot dog."},
        ],
    )


def test_a_whole_evaluation(data: Path, words: str, tmp_path: Path, oracle: Any, decoding: Any) -> None:
    task = ChairTask(data, words=words)
    assert prompt_of(task.questions()[0].sample) == "user: <image>\nDescribe the image in detail."
    assert [q.references for q in task.questions()] == [
        ("dog", "person"),
        ("cat", "traffic light"),
        ("hot dog", "person"),
    ]
    said = {"0": "A man with two puppies and a cat.", "1": "A cat, a cat!", "2": "Nothing."}
    result = evaluate(oracle(lambda s, seen: said[s.id]), task, out=tmp_path / "out", decoding=decoding)
    found = {r.metric: r.score.value for r in result.rows}
    assert found == pytest.approx({"CHAIRi": 1 / 5, "CHAIRs": 1 / 3, "recall": 3 / 6})
    assert result.calibration == {} and result.metric.startswith("chair-1")
    assert rescore(ChairTask(data, words=words), tmp_path / "out").as_json() == result.as_json()
    assert len(task.files) == 2, "the words are part of the data"
    assert len(ChairTask(data, words=words, split="val").questions()) == 1


def test_objects_name_the_things_where_no_words_do(data: Path) -> None:
    task = build("chair", data, None, {})
    questions = task.questions()
    assert [q.references for q in questions] == [("dog",), ("cat", "traffic light"), ("dog",)]
    scored = task.score(questions[1], Prediction("A cat at a traffic light with dogs and a man"))
    assert scored.values | {"n": 0} == {"mentions": 3, "absent": 1, "CHAIRs": 1, "found": 2, "present": 2, "n": 0}


def test_coco_with_instances(data: Path, words: str, tmp_path: Path) -> None:
    images = [{"id": n, "file_name": f"{n}.png"} for n in range(2)]
    captions = [{"id": n, "image_id": n, "caption": "A man."} for n in range(2)]
    (tmp_path / "captions.json").write_text(json.dumps({"images": images, "annotations": captions}))
    annotations = [{"image_id": 0, "category_id": 17}, {"image_id": 0, "category_id": 17}]
    instances = {"images": images, "annotations": annotations, "categories": [{"id": 17, "name": "cat"}]}
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    task = ChairTask(tmp_path / "captions.json", words=words, instances="instances.json")
    assert [q.references for q in task.questions()] == [("cat", "person"), ("person",)]
    assert [q.fault for q in task.questions()] == ["", ""]
    alone = ChairTask(tmp_path / "captions.json", instances="instances.json")
    assert [q.references for q in alone.questions()] == [("cat",), ()]
    instances["annotations"][1]["category_id"] = 18
    (tmp_path / "instances.json").write_text(json.dumps(instances))
    with pytest.raises(InputError, match="expected a category_id of 'categories', got 18"):
        ChairTask(tmp_path / "captions.json", instances="instances.json")
    (tmp_path / "instances.json").write_text("{}")
    with pytest.raises(
        InputError, match=r"instances.json: expected the lists 'annotations' and 'categories', got neither"
    ):
        ChairTask(tmp_path / "captions.json", instances="instances.json")


@pytest.mark.parametrize(
    ("row", "options", "wanted"),
    [
        (
            {"id": 1, "image": "0.png"},
            {"words": "words.txt"},
            r"c.jsonl:1: objects: expected the objects in the picture",
        ),
        (
            {"id": 1, "image": "0.png", "caption": "A dog."},
            {},
            "lists no objects; name the things with the option `words`",
        ),
        (
            {"id": 1, "image": "0.png", "objects": ["zebra"]},
            {"words": "words.txt"},
            r"c.jsonl:1: objects: .*words.txt, got 'zebra'",
        ),
        (
            {"id": 1, "image": "0.png", "objects": ["dog", "dogs"]},
            {},
            r"'dogs' cannot name it.*give the option `words`",
        ),
        ({"id": 1, "image": "0.png", "objects": "dog"}, {}, r"objects: expected a list, got 'dog'"),
        (
            {"id": 1, "image": "0.png", "objects": ["dog"]},
            {"words": "none.txt"},
            "none.txt: expected a text file of objects",
        ),
        ({"id": 1, "image": "0.png", "objects": ["dog"]}, {"split": "test"}, "holds no picture of the split 'test'"),
    ],
)
def test_what_is_refused(
    data: Path, words: str, rows: Any, row: dict[str, Any], options: dict[str, str], wanted: str
) -> None:
    with pytest.raises(InputError, match=wanted):
        build("chair", rows(data, [row]), None, options).questions()
