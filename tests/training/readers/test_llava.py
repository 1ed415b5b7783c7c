"""The reader of LLaVA conversations."""

import json
from pathlib import Path
from typing import Any

import pytest
from training.readers.records import shown, talk

from mmlm.errors import InputError
from mmlm.sample import Audio, Image, Video
from mmlm.training.readers.llava import Llava


def test_items_stand_where_their_marks_were(lines: Any, home: Path) -> None:
    path = lines(
        talk("<image>\nWhat?", "A.", id="x", image="a.png"),
        talk("See <image> and <image>, then?", "B.", "And <image>", "C.", image=["a.png", "b.png", "c/d.png"]),
        talk("Hear <audio>.", "D.", audio="s.wav", id=7),
        talk("Hello.", "E.", image=None),
    )
    reader = Llava(path)
    assert len(reader) == 4
    assert [shown(t) for t in reader[0].turns] == [["[a.png]", "\nWhat?"], ["A."]]
    assert [shown(t) for t in reader[1].turns[::2]] == [
        ["See ", "[a.png]", " and ", "[b.png]", ", then?"],
        ["And ", "[d.png]"],
    ]
    assert isinstance(reader[2].items[0], Audio) and isinstance(reader[0].items[0], Image)
    assert reader[3].items == ()
    assert [s.id for s in reader] == ["data#0/x", "data#1", "data#2/7", "data#3"]
    assert [s.origin for s in reader] == [f"{path}:{n}" for n in range(1, 5)]


def test_a_list_and_lines_are_the_same_data(lines: Any, whole: Any) -> None:
    records = [talk("<image>What?", "A.", image="a.png"), talk("Hello.", "B.", id="ü")]
    as_lines, as_list = Llava(lines(*records)), Llava(whole(records))
    for one, other in zip(as_lines, as_list, strict=True):
        assert [shown(t) for t in one.turns] == [shown(t) for t in other.turns] and one.id == other.id
    assert as_list[1].origin.endswith("data.json#1")


def test_media_folders(home: Path, lines: Any) -> None:
    path = lines(talk("<image>", "A.", image="d.png"))
    assert Llava(path, images="c")[0].items[0].source == (home / "c/d.png").resolve()
    assert Llava(path, images=str(home / "c"))[0].items[0].source == (home / "c/d.png").resolve()
    with pytest.raises(InputError, match="a file that exists below"):
        Llava(path)[0]
    with pytest.raises(InputError, match="the folder of its image files"):
        Llava(path, images="nowhere")
    with pytest.raises(InputError, match="the folder of its video files"):
        Llava(path, videos="nowhere")


def test_a_clip_is_handed_on_unread(home: Path, lines: Any) -> None:
    (home / "v.mp4").write_bytes(b"not opened here")
    item = Llava(lines(talk("<video>\nWhat?", "A.", video="v.mp4")))[0].items[0]
    assert isinstance(item, Video) and item.source == (home / "v.mp4").resolve()


def test_items_first_is_the_order_of_the_original_training(lines: Any) -> None:
    path = lines(
        talk("What is it?\n<image>", "A.", "And?", "B.", image="a.png"), talk("<image>\n", "A.", image="a.png")
    )
    reader = Llava(path, items_first=True)
    assert [shown(t) for t in reader[0].turns] == [["[a.png]", "\nWhat is it?"], ["A."], ["And?"], ["B."]]
    assert shown(reader[1].turns[0]) == ["[a.png]"]


def test_loose_marks_are_text_where_there_is_no_such_item(lines: Any) -> None:
    path = lines(
        talk("What is <video> in HTML?", "The tag <video> ...", image=None), talk("<image>", "<video>", image="a.png")
    )
    with pytest.raises(InputError, match="1 mark and 0 video items"):
        Llava(lines(talk("What is <video> in HTML?", "A tag."), name="strict.jsonl"))[0]
    reader = Llava(path, loose_marks=True)
    assert reader[0].turns[0].parts == ("What is <video> in HTML?",)
    assert reader[1].turns[1].parts == ("<video>",)


def test_other_role_names_and_a_system_turn(lines: Any) -> None:
    roles = [("system", "Be brief."), ("user", "Hi."), ("assistant", "Hello.")]
    path = lines({"conversations": [{"from": r, "value": v} for r, v in roles]})
    assert [t.role for t in Llava(path)[0].turns] == ["system", "user", "assistant"]


def test_unanswered(lines: Any) -> None:
    path = lines(talk("Hi."))
    with pytest.raises(InputError, match="an answer at the end"):
        Llava(path)[0]
    assert len(Llava(path, unanswered=True)[0].turns) == 1
    assert Llava(path, unanswered=True).record(0)["answers"] == []


def test_record_keeps_what_the_file_says(lines: Any) -> None:
    raw = talk("<image>What?", "A.", id=5, image="a.png", category="detail")
    reader = Llava(lines(raw, talk("Hi.", "B.")))
    assert reader.record(0) == {**raw, "id": "5", "answers": ["A."]}
    assert reader.record(1)["id"] == "data#1" == reader[1].id
    assert json.dumps(reader.record(0))
