"""The set of drawn scenes: exact captions, answers that are true, the same bytes every time."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from mmlm.data import scenes
from mmlm.data.forms import SPLITS, split_of
from mmlm.data.scenes import COLOURS, KINDS, Group, Scene, compose, draw, outline
from mmlm.errors import InputError
from mmlm.training.readers.captions import Captions
from mmlm.training.readers.messages import Messages
from mmlm.training.readers.qa import Qa


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes")
    report = scenes(out, count=60)
    assert sum(row.values["pictures"] for row in report.rows) == 60
    return out


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_two_runs_are_the_same_bytes(made: Path, tmp_path: Path) -> None:
    scenes(tmp_path / "again", count=60)
    assert contents(made) == contents(tmp_path / "again")
    scenes(tmp_path / "other", count=60, seed=1)
    assert rows(made / "scenes.jsonl") != rows(tmp_path / "other/scenes.jsonl")


def test_splits_follow_the_ids_and_share_no_caption(made: Path) -> None:
    every = rows(made / "scenes.jsonl")
    assert len({r["caption"] for r in every}) == len({r["id"] for r in every}) == 60
    assert all(r["split"] == split_of(r["id"]) for r in every)


def test_readers_read_what_was_made(made: Path) -> None:
    every = {r["id"]: r for r in rows(made / "scenes.jsonl")}
    for split in SPLITS:
        mine = [r for r in every.values() if r["split"] == split]
        assert [s.turns[1].text for s in Messages(made / f"{split}.jsonl")] == [r["caption"] for r in mine]
        captions = Captions(made / f"captions-{split}.json", per="image")
        assert [captions.record(i)["answers"] for i in range(len(captions))] == [[r["caption"]] for r in mine]
        for form in ("qa", "pope"):
            assert all(len(s.items) == 1 for s in Qa(made / f"{form}-{split}.jsonl"))


def test_yes_and_no_are_balanced_and_true(made: Path) -> None:
    every = {r["id"]: r for r in rows(made / "scenes.jsonl")}
    for split in SPLITS:
        asked = rows(made / f"pope-{split}.jsonl")
        assert sum(q["answer"] == "yes" for q in asked) * 2 == len(asked)
        for q in asked:
            colour, kind = q["question"].split()[3:5]
            caption = every[q["id"].rpartition("/")[0]]["caption"].lower()
            assert (f"{colour} {kind}" in caption) == (q["answer"] == "yes")


def test_answers_are_among_the_choices(made: Path) -> None:
    for split in SPLITS:
        asked = rows(made / f"qa-{split}.jsonl")
        assert all(q["answer"] in q["choices"] for q in asked)
    assert {q["category"] for q in rows(made / "qa-train.jsonl")} == {"colour", "kind", "count", "position"}


def test_captions_say_what_is_there() -> None:
    red, blue = Group("circle", "red", (0, 3)), Group("cross", "orange", (2,))
    assert Scene((red,)).caption == "Two red circles."
    assert Scene((blue,), "top right").caption == "An orange cross at the top right."
    assert Scene((blue,), "middle").caption == "An orange cross in the middle."
    assert Scene((red, blue), "left").caption == "Two red circles to the left of an orange cross."
    assert Group("cross", "red", (0, 1, 2)).phrase == "three red crosses"


def test_pictures_show_their_shapes_where_they_are_said_to_be() -> None:
    for k in range(40):
        scene = compose(f"test/{k}")
        pixels = np.asarray(draw(scene, f"test/{k}"))
        assert 96 <= pixels.shape[0] == pixels.shape[1] <= 160
        cell = pixels.shape[0] / 3
        for group in scene.groups:
            found = np.argwhere((pixels == COLOURS[group.colour]).all(-1))
            cells = {(int(y // cell), int(x // cell)) for y, x in found}
            assert cells == {divmod(c, 3) for c in group.cells}
        if len(scene.groups) == 2:
            first, second = ([c % 3 if scene.place == "left" else c // 3 for c in g.cells] for g in scene.groups)
            assert max(first) < min(second)


@pytest.mark.parametrize("kind", [k for k in KINDS if k != "circle"])
def test_outlines_lie_in_the_circle(kind: str) -> None:
    assert all(x * x + y * y <= 1.3 for x, y in outline(kind))


def test_pictures_are_plain_png(made: Path) -> None:
    with PIL.Image.open(next(iter(sorted(made.glob("images/*.png"))))) as picture:
        assert picture.mode == "RGB" and picture.format == "PNG"


@pytest.mark.parametrize("count", [0, -1, 10_001])
def test_count_is_bounded(tmp_path: Path, count: int) -> None:
    with pytest.raises(InputError, match="a count of 1 to"):
        scenes(tmp_path, count=count)
