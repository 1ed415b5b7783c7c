"""Tasks on the files of benchmarks as their authors publish them: small files in the same form, with pictures drawn here."""

import base64
import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mmlm.errors import InputError
from mmlm.evaluation import evaluate, rescore
from mmlm.evaluation.choosing import build
from mmlm.evaluation.predictions import prompt_of
from mmlm.evaluation.statistics import point
from mmlm.evaluation.tasks.chartqa import ChartQaTask
from mmlm.evaluation.tasks.docvqa import DocVqaTask
from mmlm.evaluation.tasks.mmbench import MmBenchTask
from mmlm.evaluation.tasks.mme import MmeTask
from mmlm.evaluation.tasks.mmmu import MmmuTask
from mmlm.evaluation.tasks.seed import SeedTask
from mmlm.evaluation.tasks.task import Prediction, Task
from mmlm.evaluation.tasks.textvqa import TextVqaTask
from mmlm.media import load_image
from mmlm.sample import Image

Paint = Callable[[Path, int], Path]
LETTER = "Answer with the option's letter from the given choices directly."
SHORT = "Answer the question using a single word or phrase."


def written(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def scores(task: Task, texts: Sequence[str]) -> dict[str, float]:
    """The measures of a task when it is answered with `texts`."""
    scored = task.score_all(task.questions(), [Prediction(t) for t in texts])
    return point([s.values for s in scored], task.measures)


def mme_folder(root: Path, paint: Paint) -> Path:
    """Two subtasks in both layouts of the release, and a folder of tools that holds no question."""
    for name in ("000006040", "000007"):
        paint(root / f"existence/{name}.jpg", len(name))
        (root / f"existence/{name}.txt").write_text(
            "Is there a dog? Please answer yes or no.\tYes\nIs there a cat?\tNo\n"
        )
    paint(root / "code_reasoning/images/0020.png", 3)
    inner = root / "code_reasoning/questions_answers_YN"
    inner.mkdir(parents=True)
    (inner / "0020.txt").write_text("Is it C? \tNo\nIs it Python?\tYes\n\n")
    (root / "eval_tool/Your_Results").mkdir(parents=True)
    return root


def test_mme(tmp_path: Path, paint: Paint) -> None:
    task = MmeTask(mme_folder(tmp_path / "MME", paint))
    questions = task.questions()
    assert [q.id for q in questions][:3] == ["code_reasoning/0020/1", "code_reasoning/0020/2", "existence/000006040/1"]
    assert not any(q.fault for q in questions)
    assert {(q.meta["part"], q.meta["subtask"]) for q in questions} == {
        ("cognition", "code_reasoning"),
        ("perception", "existence"),
    }
    assert prompt_of(questions[2].sample) == "user: <image>\nIs there a dog? Please answer yes or no."
    assert len({q.picture for q in questions}) == 3
    found = scores(task, ["No", "yes", "Yes", "No.", "no", "no"])
    assert found == pytest.approx({"MME score": 200 + 75 + 50, "accuracy": 5 / 6, "accuracy+": 2 / 3})
    assert not task.score(questions[0], Prediction("A picture.")).parsed
    assert len(task.files) == 3
    (tmp_path / "release").mkdir()
    task.files[0].parents[2].rename(tmp_path / "release/MME_Benchmark")
    assert [q.id for q in MmeTask(tmp_path / "release").questions()] == [q.id for q in questions]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Is it?\tYes\n", r"a\.txt: expected 2 questions"),
        ("Is it?\tYes\nIs it? No\n", r"a\.txt:2: record: expected a question, a tab"),
        ("Is it?\tYes\nIs it?\tmaybe\n", r"a\.txt:2: answer: expected one of Yes"),
        ("\tYes\nIs it?\tNo\n", r"a\.txt:1: question: expected text"),
    ],
)
def test_mme_refuses(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "OCR").mkdir()
    (tmp_path / "OCR/a.txt").write_text(text)
    with pytest.raises(InputError, match=reason):
        MmeTask(tmp_path).questions()


def test_mme_needs_its_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no folder with questions"):
        MmeTask(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        MmeTask(tmp_path / "gone")
    (tmp_path / "OCR").mkdir()
    (tmp_path / "OCR/a.txt").write_text("Is it?\tYes\nIs it?\tNo\n")
    assert all("OCR/a.jpg" in q.fault for q in MmeTask(tmp_path).questions())


COLUMNS = ["index", "question", "hint", "A", "B", "C", "D", "answer", "category", "image", "l2-category", "split"]


def painted(paint: Paint, folder: Path, number: int) -> bytes:
    return paint(folder / f"{number}.png", number).read_bytes()


def mmbench_file(tmp_path: Path, paint: Paint, circular: bool) -> Path:
    """Two questions, of three options and of two; the second shows the first one's picture."""
    picture = base64.b64encode(painted(paint, tmp_path, 1)).decode()
    rows: list[list[Any]] = [
        [3, "Which?", 'Look "here"\nand there.', "x", "y", "z", "", "B", "color", picture, "coarse", "dev"],
        [7, "What?", "", "u", "v", "", "", "A", "shape", 3, "fine", "dev"],
    ]
    if circular:
        m = 1_000_000
        rows += [
            [3 + m, "Which?", 'Look "here"\nand there.', "y", "z", "x", "", "A", "color", 3, "coarse", "dev"],
            [3 + 2 * m, "Which?", 'Look "here"\nand there.', "z", "x", "y", "", "C", "color", 3, "coarse", "dev"],
            [7 + m, "What?", "", "v", "u", "", "", "B", "shape", 3, "fine", "dev"],
        ]
    path = tmp_path / "mmbench.tsv"
    with path.open("w", encoding="utf-8", newline="") as f:
        csv.writer(f, delimiter="\t").writerows([COLUMNS, *rows])
    return path


@pytest.mark.parametrize("circular", [True, False])
def test_mmbench(tmp_path: Path, paint: Paint, circular: bool) -> None:
    """Rotations that the file holds and rotations made here are the same questions."""
    task = MmBenchTask(mmbench_file(tmp_path, paint, circular))
    questions = {int(q.id): q for q in task.questions()}
    assert sorted(questions) == [3, 7, 1_000_003, 1_000_007, 2_000_003]
    assert bool(task.notes) is not circular
    assert {q.picture for q in questions.values()} == {"3"}
    assert [questions[i].references for i in (3, 1_000_003, 2_000_003)] == [("B",), ("A",), ("C",)]
    assert questions[2_000_003].choices == ("z", "x", "y")
    first = prompt_of(questions[3].sample)
    assert first == f'user: <image>\nLook "here"\nand there.\nWhich?\nA. x\nB. y\nC. z\n{LETTER}'
    assert questions[3].meta == {"category": "color", "l2-category": "coarse"}
    for question in questions.values():
        (item,) = question.sample.items
        assert isinstance(item, Image) and load_image(item).size == (7, 5)
    said = {3: "B", 1_000_003: "A", 2_000_003: "The answer is C.", 7: "A", 1_000_007: "A"}
    found = scores(task, [said[int(q.id)] for q in task.questions()])
    expected = {"circular accuracy": 0.5, "vanilla accuracy": 1.0, "accuracy over rotations": 0.8}
    assert found == pytest.approx(expected)


def test_mmbench_once_each(tmp_path: Path, paint: Paint) -> None:
    task = MmBenchTask(mmbench_file(tmp_path, paint, True), circular=False, rule="mmlm")
    assert scores(task, ["(B)", "b"])["vanilla accuracy"] == 0.5
    assert [q.id for q in task.questions()] == ["3", "7"]
    assert task.version == "mmbench-circular-1+letter/mmlm-1"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": ""}, r"b\.tsv:2: answer: expected one of A, B"),
        ({"answer": "D"}, r"b\.tsv:2: answer: expected one of A, B"),
        ({"B": ""}, r"b\.tsv:2: .*at least the two options"),
        ({"index": "x"}, r"b\.tsv:2: index: expected a whole number"),
        ({"index": "1000001"}, r"b\.tsv: holds no question"),
        ({"question": ""}, r"b\.tsv:2: question: expected text"),
        ({"image": ""}, r"b\.tsv:2: image: expected text"),
    ],
)
def test_mmbench_refuses(tmp_path: Path, change: dict[str, str], reason: str) -> None:
    row = {"index": "1", "question": "What?", "A": "x", "B": "y", "answer": "A", "image": "aGVsbG8gd29ybGQh"} | change
    path = tmp_path / "b.tsv"
    path.write_text("\t".join(row) + "\n" + "\t".join(row.values()) + "\n")
    with pytest.raises(InputError, match=reason):
        MmBenchTask(path).questions()


def test_mmbench_pictures_that_cannot_be_had_are_faults(tmp_path: Path) -> None:
    """Base64 that is none, a row that is not there; base64 of something else is found when it is asked."""
    path = tmp_path / "b.tsv"
    path.write_text("index\tquestion\tA\tB\tanswer\timage\n1\tWhat?\tx\ty\tA\t!!not base64!!\n2\tWhat?\tx\ty\tA\t99\n")
    one, two = MmBenchTask(path, circular=False).questions()
    assert "b.tsv:2: image: expected base64" in one.fault
    assert "no row with the index 99" in two.fault


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "expected the columns"),
        ("index\tquestion\n", "expected the columns"),
        ("index\tquestion\tA\tB\tanswer\timage\n1\tx\n", r"b\.tsv:2: expected 6 cells"),
        ("index\tquestion\tA\tB\tanswer\timage\n", "holds no question"),
        ('index\tquestion\tA\tB\tanswer\timage\n1\t"open\tx\ty\tA\tz\n', r"b\.tsv:2: expected 6 cells"),
    ],
)
def test_a_tsv_that_is_none_is_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "b.tsv"
    path.write_text(text)
    before = csv.field_size_limit()
    with pytest.raises(InputError, match=rf"b\.tsv.*{reason}|{reason}"):
        MmBenchTask(path).questions()
    assert csv.field_size_limit() == before
    path.write_bytes(b"index\tquestion\tA\tB\tanswer\timage\n1\t\xff\tx\ty\tA\tz\n")
    with pytest.raises(InputError, match=r"b\.tsv: expected tab-separated values in UTF-8"):
        MmBenchTask(path).questions()


def seed_file(tmp_path: Path, paint: Paint) -> Path:
    paint(tmp_path / "pictures/1454426_2591.jpg", 1)
    (tmp_path / "pictures/1454426_2591.jpg").rename(tmp_path / "pictures/1454426_2591")
    choices = dict(zip(("choice_a", "choice_b", "choice_c", "choice_d"), ("One", "Two", "Three", "Four"), strict=True))
    record = {"question": "How many?", "answer": "C", "data_id": "1454426_2591", "data_type": "image", **choices}
    records = [
        {**record, "question_id": "101669", "question_type_id": 5},
        {**record, "question_id": "101670", "question_type_id": 1, "answer": "A"},
        {**record, "question_id": "v1", "question_type_id": 10, "data_type": "video", "data_id": "9.webm"},
    ]
    types = {"Scene Understanding": 1, "Instances Counting": 5, "Action Recognition": 10}
    return written(tmp_path / "SEED-Bench.json", {"questions": records, "question_type": types})


def test_seed(tmp_path: Path, paint: Paint) -> None:
    task = SeedTask(seed_file(tmp_path, paint), images="pictures")
    one, two = task.questions()
    assert not one.fault
    assert [q.meta["dimension"] for q in (one, two)] == ["Instances Counting", "Scene Understanding"]
    assert task.notes == ["1 questions of 3 are not about one picture and are left out"]
    assert task.replies(one) == ("One", "Two", "Three", "Four")
    ranks = ((-3.0, 1), (-2.0, 1), (-1.0, 1), (-2.5, 1))
    assert task.score(one, Prediction(ranks=ranks)).values == {"accuracy": 1.0}
    assert not task.score(one, Prediction()).parsed
    text = SeedTask(task.files[0], images="pictures", by="text", rule="first")
    assert prompt_of(text.questions()[0].sample).endswith(f"How many?\nA. One\nB. Two\nC. Three\nD. Four\n{LETTER}")
    assert scores(text, ["c", "The answer is A"])["accuracy"] == 0.5
    assert scores(SeedTask(task.files[0], images="pictures", by="text"), ["(C)", "answer: A"])["accuracy"] == 1.0


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "E"}, r"\[0\]\.answer: expected one of A, B, C, D"),
        ({"choice_c": None}, r"\[0\]\.choice_c: expected text"),
        ({"question_type_id": 99}, r"\[0\]\.question_type_id: expected one of the question types"),
        ({"data_type": "video"}, "expected questions of the data_type 'image'"),
        ({"data_type": None}, r"\[0\]\.data_type: expected text"),
    ],
)
def test_seed_refuses(tmp_path: Path, paint: Paint, change: dict[str, Any], reason: str) -> None:
    whole = json.loads(seed_file(tmp_path, paint).read_text())
    whole["questions"] = [{**whole["questions"][0], **change}]
    with pytest.raises(InputError, match=rf"s\.json.*{reason}"):
        SeedTask(written(tmp_path / "s.json", whole)).questions()


def mmmu_row(picture: bytes | None, **change: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": "validation_Accounting_1",
        "question": "<image 1> Which shows a \\frac{1}{2} share, <image 1>?",
        "options": "['$6', \"it's <image 2>\", 'a\\\\b\\n']",
        "explanation": "",
        "answer": "B",
        "question_type": "multiple-choice",
        **{f"image_{k}": None for k in range(1, 8)},
    }
    return (
        row | {"image_1": {"bytes": picture, "path": "a.png"}, "image_2": {"bytes": picture, "path": "b.png"}} | change
    )


def mmmu_folder(
    root: Path, rows: Sequence[dict[str, Any]], name: str = "Accounting/validation-00000-of-00001.parquet"
) -> Path:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(list(rows)), root / name)
    return root


def test_mmmu(tmp_path: Path, paint: Paint) -> None:
    picture = painted(paint, tmp_path / "p", 1)
    opened = {
        "question_type": "open",
        "options": "[]",
        "id": "validation_Music_7",
        "question": "How many?",
        "image_2": None,
    }
    rows = [mmmu_row(picture), mmmu_row(picture, **opened, answer="['24.00', 'two dozen']")]
    root = mmmu_folder(tmp_path / "MMMU", rows)
    mmmu_folder(root, [mmmu_row(picture, id="dev_Accounting_1")], "Accounting/dev-00000-of-00001.parquet")
    task = MmmuTask(root)
    one, two = task.questions()
    assert not one.fault and not two.fault
    assert one.choices == ("$6", "it's <image 2>", "a\\b\n")
    assert prompt_of(one.sample) == (
        f"user: <image> Which shows a \\frac{{1}}{{2}} share, image 1?\nA. $6\nB. it's <image>\nC. a\\b\n\n\n{LETTER}"
    )
    assert prompt_of(two.sample) == f"user: <image>\nHow many?\n\n{SHORT}"
    assert one.meta == {"type": "choice", "discipline": "Business", "subject": "Accounting"}
    assert two.references == ("24.00", "two dozen")
    assert one.picture == two.picture
    assert scores(task, ["(B)", "There are 24."])["accuracy"] == 1.0
    assert scores(task, ["I do not know", "So it is two dozen"])["accuracy"] == 0.5
    unread = {task.score(one, Prediction("I do not know")).answer for _ in range(20)}
    assert unread == {""} and not task.score(one, Prediction("I do not know")).parsed
    assert [q.id for q in MmmuTask(root, split="dev").questions()] == ["dev_Accounting_1"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answer": "D"}, r"#0: answer: expected one of A, B, C"),
        ({"options": "['a'"}, r"#0: options: expected a list of texts"),
        ({"options": "__import__('os')"}, r"#0: options: expected a list of texts"),
        ({"options": "[" * 50_000}, r"#0: options: expected a list of texts"),
        ({"options": "['" + "a\\\\" * 30_000}, r"#0: options: expected a list of texts"),
        ({"options": "['a', ['b']]"}, r"#0: options: expected a list of texts"),
        ({"options": "['a']"}, r"#0: options: expected two options"),
        ({"options": "['\\ud800', 'b']"}, r"#0: options: expected text in valid Unicode"),
        ({"question_type": "essay"}, r"#0: question_type: expected one of"),
        ({"question": None}, r"#0: question: expected text"),
    ],
)
def test_mmmu_refuses(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    root = mmmu_folder(tmp_path, [mmmu_row(b"x", **change)])
    with pytest.raises(InputError, match=rf"00001\.parquet{reason}"):
        MmmuTask(root).questions()


def test_mmmu_pictures_that_cannot_be_had_are_faults(tmp_path: Path) -> None:
    root = mmmu_folder(tmp_path, [mmmu_row(b"x", image_2=None, id="validation_Art_1"), mmmu_row(None)])
    one, two = MmmuTask(root).questions()
    assert "image_2: named in the question and not there" in one.fault
    assert "image_1: expected the bytes of a picture" in two.fault


def test_mmmu_files_of_another_kind_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no file validation-\*\.parquet"):
        MmmuTask(tmp_path)
    path = tmp_path / "x.parquet"
    path.write_bytes(b"PAR1 and nothing")
    with pytest.raises(InputError, match=r"x\.parquet#0: cannot be read as Parquet"):
        MmmuTask(path).questions()
    pq.write_table(pa.table({"id": ["a"]}), path)
    with pytest.raises(InputError, match=r"x\.parquet: expected the columns"):
        MmmuTask(path).questions()


def chartqa_folder(tmp_path: Path, paint: Paint) -> Path:
    paint(tmp_path / "test/png/41699051005347.png", 1)
    row = {"imgname": "41699051005347.png", "query": "How many?", "label": "100"}
    written(tmp_path / "test/test_human.json", [row, {**row, "query": "Which?", "label": "Blue"}])
    written(tmp_path / "test/test_augmented.json", [row])
    return tmp_path / "test"


def test_chartqa(tmp_path: Path, paint: Paint) -> None:
    task = ChartQaTask(chartqa_folder(tmp_path, paint))
    questions = task.questions()
    assert [q.id for q in questions] == ["test_human/0", "test_human/1", "test_augmented/0"]
    assert not any(q.fault for q in questions)
    assert {q.meta["half"] for q in questions} == {"human", "augmented"}
    assert scores(task, ["95", "Blue.", "94"]) == {"relaxed accuracy": pytest.approx(1 / 3), "mean of halves": 0.25}
    mine = ChartQaTask(tmp_path / "test/test_human.json", rule="mmlm")
    assert scores(mine, ["$100", "Blue."]) == {"relaxed accuracy": 1.0}
    assert not task.score(questions[0], Prediction(" ")).parsed
    with pytest.raises(InputError, match=r"holds neither val_human\.json"):
        ChartQaTask(tmp_path / "test", split="val")


def docvqa_file(tmp_path: Path, paint: Paint) -> Path:
    paint(tmp_path / "documents/xnbl0037_1.png", 1)
    record = {"question": "What date?", "image": "documents/xnbl0037_1.png", "docId": 279, "data_split": "val"}
    first = {**record, "questionId": 49153, "answers": ["hello world", "Hello"], "question_types": ["handwritten"]}
    second = {**record, "questionId": 49154, "answers": ["1990"], "question_types": ["form", "layout"]}
    whole = {"dataset_name": "docvqa", "dataset_version": "1.0", "dataset_split": "val", "data": [first, second]}
    return written(tmp_path / "val_v1.0.json", whole)


def test_docvqa(tmp_path: Path, paint: Paint) -> None:
    task = DocVqaTask(docvqa_file(tmp_path, paint))
    one, two = task.questions()
    assert (one.id, one.references) == ("49153", ("hello world", "Hello"))
    assert not one.fault and one.picture == two.picture
    assert (one.meta, two.meta) == ({"type": "handwritten"}, {"type": "several"})
    assert scores(task, ["helo world", "19"]) == pytest.approx({"ANLS": (10 / 11) / 2, "exact match": 0.0})
    assert scores(DocVqaTask(task.files[0], rule="stvqa"), ["HELLO", "19"]) == {"ANLS": 0.75, "exact match": 0.5}
    assert not task.score(one, Prediction(" ")).parsed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"answers": None}, r"#data\[0\]: answers: expected the answers of people"),
        ({"answers": []}, r"#data\[0\]: answers: expected at least one"),
        ({"questionId": None}, r"#data\[0\]: questionId: expected text or a whole number"),
        ({"question_types": "form"}, r"#data\[0\]: question_types: expected a list"),
    ],
)
def test_docvqa_refuses(tmp_path: Path, paint: Paint, change: dict[str, Any], reason: str) -> None:
    record = json.loads(docvqa_file(tmp_path, paint).read_text())["data"][0]
    with pytest.raises(InputError, match=rf"d\.json{reason}"):
        DocVqaTask(written(tmp_path / "d.json", {"data": [{**record, **change}]})).questions()


def test_textvqa(tmp_path: Path, paint: Paint) -> None:
    paint(tmp_path / "train_images/003a8ae2ef43b901.jpg", 1)
    record = {"question_id": 34602, "question": "What brand?", "image_id": "003a8ae2ef43b901", "set_name": "val"}
    whole = {"data": [{**record, "answers": ["nous les gosses"] * 3 + ["dakota"] * 7}], "dataset_type": "val"}
    task = TextVqaTask(written(tmp_path / "TextVQA_0.5.1_val.json", whole), images="train_images")
    (question,) = task.questions()
    assert not question.fault
    assert task.version == "vqa-soft-accuracy/evalai-1"
    assert scores(task, ["Nous les gosses."])["accuracy"] == pytest.approx(0.9)
    whole["data"][0]["answers"] = ["dakota"]
    with pytest.raises(InputError, match=r"t\.json#data\[0\]: answers: expected the answers of 10 people"):
        TextVqaTask(written(tmp_path / "t.json", whole)).questions()


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"a": 1}', '{"data": []}', '{"questions": []}', "[" * 5000])
@pytest.mark.parametrize("task", [SeedTask, DocVqaTask, TextVqaTask, ChartQaTask, MmBenchTask, MmmuTask])
def test_a_file_of_another_kind_is_named(tmp_path: Path, task: Callable[..., Task], text: str) -> None:
    path = tmp_path / "data.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"data\.json"):
        task(path).questions()


@pytest.mark.parametrize("name", ["mme", "mmbench", "seed", "mmmu", "chartqa", "docvqa", "textvqa"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"nowhere.*does not exist"):
        build(name, tmp_path / "nowhere", None, {}).questions()


def made(name: str, tmp_path: Path, paint: Paint) -> Task:
    """Each task on its fixture, with a second picture for the control where it has one."""
    match name:
        case "mme":
            return MmeTask(mme_folder(tmp_path / "MME", paint))
        case "mmbench":
            return MmBenchTask(mmbench_file(tmp_path, paint, True))
        case "seed":
            return SeedTask(seed_file(tmp_path, paint), images="pictures", by="text")
        case "mmmu":
            pictures = [painted(paint, tmp_path / "p", i) for i in range(2)]
            rows = [mmmu_row(p, id=f"validation_Art_{i}") for i, p in enumerate(pictures)]
            return MmmuTask(mmmu_folder(tmp_path / "MMMU", rows))
        case "chartqa":
            return ChartQaTask(chartqa_folder(tmp_path, paint))
        case _:
            return DocVqaTask(docvqa_file(tmp_path, paint))


@pytest.mark.parametrize("name", ["mme", "mmbench", "seed", "mmmu", "chartqa", "docvqa"])
def test_the_whole_way_to_a_table(name: str, tmp_path: Path, paint: Paint, oracle: Any, decoding: Any) -> None:
    """Asked, scored, written and scored again: every measure has a row with n, an interval where there can be one, and
    the share of answers that could not be read."""
    task = made(name, tmp_path, paint)
    result = evaluate(oracle(lambda sample, seen: "B or not"), task, out=tmp_path / "out", decoding=decoding)
    whole = [r for r in result.rows if r.group == "all"]
    assert [r.metric for r in whole] == [m.name for m in task.measures]
    assert all(r.n == len(task.questions()) for r in whole)
    assert not result.failures
    assert "unparsed" in result.table()
    assert (whole[0].control is not None) == (name in ("mme", "mmmu"))
    assert rescore(task, tmp_path / "out").as_json() == result.as_json()


def test_a_picture_that_is_none_is_a_counted_failure(tmp_path: Path, paint: Paint, oracle: Any, decoding: Any) -> None:
    """Base64 of text, and of a header that promises 65536 x 65536: wrong, listed, and the others are asked."""
    bomb = (
        b"\x89PNG\r\n\x1a\n" + b"\x00\x00\x00\rIHDR" + b"\x00\x01\x00\x00" * 2 + b"\x08\x02\x00\x00\x00\x00\x00\x00\x00"
    )
    pictures = [b"no picture at all, but base64", bomb, painted(paint, tmp_path, 1)]
    rows = [base64.b64encode(p).decode() for p in pictures]
    path = tmp_path / "b.tsv"
    lines = [f"{i}\tWhat?\tx\ty\tA\t{r}\n" for i, r in enumerate(rows)]
    path.write_text("index\tquestion\tA\tB\tanswer\timage\n" + "".join(lines))
    task = MmBenchTask(path, circular=False)
    result = evaluate(oracle(lambda sample, seen: "A"), task, out=tmp_path / "out", decoding=decoding, control=False)
    assert [f["id"] for f in result.failures] == ["0", "1"]
    assert result.score == pytest.approx(1 / 3)
