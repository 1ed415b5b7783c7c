"""Each task on files as its data come in: questions, prompts, groups, scores, and what is refused."""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mmlm.errors import InputError
from mmlm.evaluation.choosing import build
from mmlm.evaluation.metrics import meteor
from mmlm.evaluation.predictions import prompt_of
from mmlm.evaluation.tasks.caption import CaptionTask
from mmlm.evaluation.tasks.choice import ChoiceTask
from mmlm.evaluation.tasks.gqa import GqaTask
from mmlm.evaluation.tasks.pope import PopeTask
from mmlm.evaluation.tasks.scienceqa import ScienceQaTask
from mmlm.evaluation.tasks.task import Prediction, Question, Task
from mmlm.evaluation.tasks.vqa import VqaTask

Paint = Callable[[Path, int], Path]
Rows = Callable[[Path, Sequence[Mapping[str, Any]]], Path]
SHORT = "\nAnswer the question using a single word or phrase."


def say(task: Task, question: Question, text: str) -> float:
    return task.score(question, Prediction(text)).values["accuracy"]


def written(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def test_vqa_rows(tmp_path: Path, paint: Paint, rows: Rows) -> None:
    paint(tmp_path / "images/a.png", 1)
    data = rows(
        tmp_path / "rows.jsonl",
        [
            {"id": 1, "image": "images/a.png", "question": "What?", "answer": "a frog", "category": "animals"},
            {"id": "2", "image": "images/a.png", "question": "How many?", "answers": ["2"] * 3 + ["3"] * 7},
        ],
    )
    task = VqaTask(data)
    one, two = task.questions()
    assert (one.id, two.id) == ("1", "2")
    assert one.picture == two.picture
    assert prompt_of(one.sample) == f"user: <image>\nWhat?{SHORT}"
    assert one.meta == {"category": "animals"}
    assert say(task, one, "Frog.") == 1.0
    assert say(task, two, "two") == pytest.approx(0.9)
    assert say(task, one, "the") == 0.0
    assert not task.score(one, Prediction(" \n")).parsed
    assert "1 questions have fewer than four annotators" in task.notes[0]


def test_vqa_official_files(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "val/COCO_val2014_000000000042.jpg", 1)
    questions = {"data_subtype": "val2014", "questions": [{"question_id": 420, "image_id": 42, "question": "Is it?"}]}
    answers = [{"answer": a, "answer_id": i} for i, a in enumerate(["yes"] * 8 + ["no"] * 2)]
    annotation = {"question_id": 420, "answers": answers, "answer_type": "yes/no", "question_type": "is it"}
    path = written(tmp_path / "q.json", questions)
    written(tmp_path / "a.json", {"annotations": [annotation]})
    task = VqaTask(path, images="val", annotations="a.json", normaliser="official")
    (question,) = task.questions()
    assert not question.fault
    assert len(question.sample.turns) == 1
    assert question.meta == {"answer_type": "yes/no"}
    assert say(task, question, "No") == pytest.approx(0.6)
    assert task.version == "vqa-soft-accuracy/official-1"
    assert len(task.files) == 2


def test_a_picture_that_is_not_there_is_the_questions_fault(tmp_path: Path, rows: Rows) -> None:
    data = rows(tmp_path / "r.jsonl", [{"id": "1", "image": "gone.png", "question": "What?", "answer": "x"}])
    (question,) = VqaTask(data).questions()
    assert "gone.png" in question.fault


@pytest.mark.parametrize(
    ("record", "wanted"),
    [
        ({"id": "1", "question": "What?"}, "an answer"),
        ({"id": "1", "answer": "x"}, "question: expected text"),
        ({"id": "1", "question": "What?", "answers": []}, "answer"),
    ],
)
def test_a_record_that_is_no_question_is_named(tmp_path: Path, rows: Rows, record: dict[str, Any], wanted: str) -> None:
    data = rows(tmp_path / "r.jsonl", [{"id": "0", "question": "ok?", "answer": "x"}, record])
    with pytest.raises(InputError, match=rf"r\.jsonl:2.*{wanted}"):
        VqaTask(data).questions()


def choice_rows(tmp_path: Path, rows: Rows) -> Path:
    return rows(
        tmp_path / "c.jsonl",
        [{"id": "1", "question": "What?", "answer": "a dog", "choices": ["a cat", "a dog", "a very large bird"]}],
    )


def test_choice_by_likelihood(tmp_path: Path, rows: Rows) -> None:
    task = ChoiceTask(choice_rows(tmp_path, rows))
    (question,) = task.questions()
    assert task.ranks
    assert task.replies(question) == ("a cat", "a dog", "a very large bird")
    ranks = ((-3.0, 2), (-2.0, 2), (-3.6, 4))
    assert task.score(question, Prediction(ranks=ranks)).answer == "a very large bird"
    whole = ChoiceTask(task.files[0], per_token=False)
    assert whole.score(question, Prediction(ranks=ranks)).values == {"accuracy": 1.0}
    assert not task.score(question, Prediction()).parsed


def test_choice_by_text_and_by_letter(tmp_path: Path, rows: Rows) -> None:
    path = choice_rows(tmp_path, rows)
    text = ChoiceTask(path, by="text")
    (question,) = text.questions()
    assert say(text, question, "The dog.") == 1.0
    assert not text.score(question, Prediction("B")).parsed
    letter = ChoiceTask(path, by="text", letters=True)
    (question,) = letter.questions()
    assert "A. a cat\nB. a dog\nC. a very large bird\nAnswer with the option's letter" in question.sample.turns[0].text
    assert say(letter, question, "(B)") == 1.0
    assert ChoiceTask(path, letters=True).replies(question) == ("A", "B", "C")


def test_choice_needs_choices(tmp_path: Path, rows: Rows) -> None:
    data = rows(tmp_path / "r.jsonl", [{"id": "1", "question": "What?", "answer": "x"}])
    with pytest.raises(InputError, match="expected the options of the question"):
        ChoiceTask(data).questions()


def test_pope_folder_has_three_splits(tmp_path: Path, paint: Paint, rows: Rows) -> None:
    paint(tmp_path / "val/x.jpg", 1)
    record = {"question_id": 1, "image": "x.jpg", "text": "Is there a dog?", "label": "no"}
    for split in ("random", "popular", "adversarial"):
        rows(tmp_path / f"coco_pope_{split}.json", [record])
    task = PopeTask(tmp_path, images="val")
    questions = task.questions()
    assert [q.id for q in questions] == ["adversarial/1", "popular/1", "random/1"]
    assert {q.meta["split"] for q in questions} == {"random", "popular", "adversarial"}
    assert len({q.picture for q in questions}) == 1
    assert task.score(questions[0], Prediction("No, there is not.")).values["correct"] == 1.0
    unread = task.score(questions[0], Prediction("a picture"))
    assert (unread.parsed, unread.values["correct"]) == (False, 0.0)
    assert PopeTask(tmp_path, images="val", rule="llava").score(questions[0], Prediction("a picture")).answer == "yes"
    assert not PopeTask(tmp_path, images="val", rule="llava").score(questions[0], Prediction("")).parsed


def test_gqa(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "images/7.jpg", 1)
    types = {"structural": "query", "semantic": "attr"}
    record = {"question": "What color?", "imageId": "7", "answer": "red", "types": types}
    task = GqaTask(written(tmp_path / "g.json", {"12": record}), images="images")
    (question,) = task.questions()
    assert question.meta == {"answer": "open", "structure": "query"}
    assert not question.fault
    assert [say(task, question, t) for t in ("Red.", "reddish", "")] == [1.0, 0.0, 0.0]


def test_scienceqa(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "test/3/image.png", 1)
    problem = {"question": "Which?", "choices": ["x", "y"], "answer": 1, "split": "test", "subject": "s"}
    problems = {
        "3": {**problem, "image": "image.png", "hint": "Look."},
        "4": {**problem, "image": None, "hint": ""},
        "5": {**problem, "split": "train"},
    }
    task = ScienceQaTask(written(tmp_path / "problems.json", problems))
    one, two = task.questions()
    assert prompt_of(one.sample).startswith("user: <image>\nContext: Look.\nWhich?\nA. x\nB. y\nAnswer with")
    assert prompt_of(two.sample).startswith("user: Which?\n")
    assert (one.meta["picture"], two.meta["picture"]) == ("yes", "no")
    assert [say(task, one, t) for t in ("B", "B. y", "The answer is B.", "(B)", "A")] == [1.0, 1.0, 1.0, 0.0, 0.0]
    assert say(ScienceQaTask(task.files[0], rule="mmlm"), one, "(B)") == 1.0
    with pytest.raises(InputError, match="no problem is of the split 'val'"):
        ScienceQaTask(task.files[0], split="val").questions()


@pytest.mark.parametrize("answer", [2, -1, "B", True, None])
def test_scienceqa_answer_must_be_a_choice(tmp_path: Path, answer: object) -> None:
    problem = {"question": "Which?", "choices": ["x", "y"], "answer": answer, "split": "test"}
    with pytest.raises(InputError, match=r"#3: answer: expected the number of one of the 2 choices"):
        ScienceQaTask(written(tmp_path / "p.json", {"3": problem})).questions()


CAPTIONS = [["A man rides a wave.", "A surfer."], ["Two dogs play.", "Dogs with a ball."]]


def coco(tmp_path: Path, paint: Paint) -> Path:
    for i in range(2):
        paint(tmp_path / f"{i}.jpg", i)
    flat = [{"id": 10 * i + j, "image_id": i, "caption": c} for i, cs in enumerate(CAPTIONS) for j, c in enumerate(cs)]
    images = [{"id": i, "file_name": f"{i}.jpg"} for i in range(2)]
    return written(tmp_path / "captions.json", {"images": images, "annotations": flat})


def karpathy(tmp_path: Path, paint: Paint) -> Path:
    images = [
        {"filename": f"{i}.jpg", "filepath": "val", "cocoid": i, "split": "test", "sentences": [{"raw": c} for c in cs]}
        for i, cs in enumerate(CAPTIONS)
    ]
    for i in range(2):
        paint(tmp_path / f"val/{i}.jpg", i)
    images.append({"filename": "9.jpg", "filepath": "val", "cocoid": 9, "split": "train", "sentences": []})
    return written(tmp_path / "dataset.json", {"images": images, "dataset": "coco"})


def lines(tmp_path: Path, paint: Paint) -> Path:
    for i in range(2):
        paint(tmp_path / f"{i}.jpg", i)
    records = [{"id": i, "image": f"{i}.jpg", "captions": cs, "split": "test"} for i, cs in enumerate(CAPTIONS)]
    path = tmp_path / "c.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in records))
    return path


@pytest.mark.parametrize(("form", "split"), [(coco, None), (karpathy, "test"), (lines, "test")])
def test_captions_in_three_forms(
    tmp_path: Path, paint: Paint, form: Callable[[Path, Paint], Path], split: str | None
) -> None:
    task = CaptionTask(form(tmp_path, paint), split=split, meteor=False)
    questions = task.questions()
    assert [list(q.references) for q in questions] == CAPTIONS
    assert not any(q.fault for q in questions)
    scored = task.score_all(questions, [Prediction("a man rides a wave"), Prediction("two dogs play")])
    found = task.summary(scored)
    assert list(found) == ["BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr-D"]
    assert found["BLEU-1"] == pytest.approx(1.0, abs=1e-6)
    assert found["ROUGE-L"] == pytest.approx(1.0)
    assert task.read(questions[0], Prediction("A man!")) == "a man"
    assert not task.score(questions[0], Prediction(" . ")).parsed


def test_one_picture_has_no_cider(tmp_path: Path, rows: Rows) -> None:
    task = CaptionTask(rows(tmp_path / "c.jsonl", [{"id": 1, "image": "x.jpg", "caption": "A cat."}]), meteor=False)
    assert "CIDEr-D" not in [m.name for m in task.measures]
    assert "CIDEr-D is absent" in task.notes[0]


def test_document_frequencies_can_be_stored(tmp_path: Path, paint: Paint, rows: Rows) -> None:
    whole = CaptionTask(coco(tmp_path, paint), save_frequencies="df.json", meteor=False)
    part = rows(tmp_path / "part.jsonl", [{"id": 0, "image": "0.jpg", "captions": CAPTIONS[0]}])
    subset = CaptionTask(part, frequencies="df.json", meteor=False)
    said = Prediction("a man rides")
    assert subset.score(subset.questions()[0], said).values == whole.score(whole.questions()[0], said).values
    assert len(subset.files) == 2


def test_meteor_is_reported_absent(tmp_path: Path, paint: Paint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meteor, "find_spec", lambda name: None)
    task = CaptionTask(coco(tmp_path, paint))
    assert any("METEOR is absent" in n for n in task.notes)
    assert "METEOR" not in [m.name for m in task.measures]


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"a": 1}', "[" * 5000, '{"a": ' + "9" * 5000 + "}"])
@pytest.mark.parametrize("task", [GqaTask, ScienceQaTask, CaptionTask, VqaTask, PopeTask])
def test_a_file_of_another_kind_is_named(tmp_path: Path, task: Callable[..., Task], text: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"data\.json"):
        task(path).questions()


@pytest.mark.parametrize("name", ["vqa", "choice", "pope", "caption", "gqa", "scienceqa"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"nowhere\.json.*does not exist"):
        build(name, tmp_path / "nowhere.json", None, {}).questions()


def test_tasks_and_options_are_named_exactly(tmp_path: Path, rows: Rows) -> None:
    data = choice_rows(tmp_path, rows)
    with pytest.raises(InputError, match="did you mean 'vqa'"):
        build("vqas", data, None, {})
    with pytest.raises(InputError, match="did you mean 'per_token'"):
        build("choice", data, None, {"per_tokens": "true"})
    with pytest.raises(InputError, match="option by='guess'"):
        build("choice", data, None, {"by": "guess"})
    with pytest.raises(InputError, match="option tokens='many'"):
        build("choice", data, None, {"tokens": "many"})
    built = build("choice", data, tmp_path, {"by": "text", "per_token": "false", "letters": "yes", "tokens": "3"})
    assert built.options["per_token"] is False
    assert built.tokens == 3
    assert not built.ranks


def test_prompts_are_stated_and_hold_nothing_foreign(tmp_path: Path, rows: Rows) -> None:
    data = rows(tmp_path / "r.jsonl", [{"id": "1", "question": "{items}{choices} %s {0}", "answer": "x"}])
    task = VqaTask(data, prompt="Q: {question}\n{items}")
    assert task.questions()[0].sample.turns[0].text.startswith("Q: {items}{choices} %s {0}")
    assert task.options["prompt"] == "Q: {question}\n{items}"
    with pytest.raises(InputError, match="prompt"):
        VqaTask(data, prompt="no field for the picture")


def test_default_prompts_are_fixed_to_the_byte(tmp_path: Path, paint: Paint, rows: Rows) -> None:
    """A score belongs to a prompt: a change here is a change of every published number."""
    paint(tmp_path / "x.png", 1)
    paint(tmp_path / "7.jpg", 1)
    paint(tmp_path / "test/3/image.png", 1)
    row = {"id": "1", "image": "x.png", "question": "Which?", "answer": "a", "choices": ["a", "b"], "caption": "A cat."}
    one = rows(tmp_path / "one.jsonl", [row])
    yes = rows(tmp_path / "yes.jsonl", [{**row, "answer": "yes"}])
    gqa = written(tmp_path / "g.json", {"1": {"question": "Which?", "imageId": "7", "answer": "a"}})
    problem = {"question": "Which?", "choices": ["a", "b"], "answer": 0, "split": "test", "image": "image.png"}
    science = written(tmp_path / "s.json", {"3": {**problem, "hint": "Look."}})
    letter = "A. a\nB. b\nAnswer with the option's letter from the given choices directly."
    expected = {
        VqaTask(one): f"Which?{SHORT}",
        ChoiceTask(one): f"Which?{SHORT}",
        ChoiceTask(one, letters=True): f"Which?\n{letter}",
        PopeTask(yes): f"Which?{SHORT}",
        GqaTask(gqa): f"Which?{SHORT}",
        ScienceQaTask(science): f"Context: Look.\nWhich?\n{letter}",
        CaptionTask(one, meteor=False): "Describe the image in one short sentence.",
    }
    for task, prompt in expected.items():
        assert prompt_of(task.questions()[0].sample) == f"user: <image>\n{prompt}"
