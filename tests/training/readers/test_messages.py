"""The reader of chat messages."""

import base64
from typing import Any

import pytest
from training.readers.records import chat, picture, read, sound, talk

from mmlm.errors import InputError
from mmlm.sample import Audio, Image
from mmlm.training.readers.llava import Llava
from mmlm.training.readers.messages import Messages

URI = "data:image/png;base64," + base64.b64encode(picture()).decode()


def test_typed_parts(lines: Any) -> None:
    path = lines(
        chat([{"type": "image", "path": "a.png"}, {"type": "text", "text": "What?"}], "A."),
        chat(
            [{"type": "text", "text": "See"}, {"type": "image", "image": "c/d.png"}, {"type": "text", "text": "\n"}],
            "B.",
        ),
        chat([{"type": "audio", "audio": "s.wav"}], [{"type": "text", "text": "C."}]),
        chat("Hello.", "D."),
    )
    assert [read(s) for s in Messages(path)] == [
        [["[a.png]", "What?"], ["A."]],
        [["See", "[d.png]", "\n"], ["B."]],
        [["[s.wav]"], ["C."]],
        [["Hello."], ["D."]],
    ]


def test_parts_without_a_path_take_the_items_of_the_record(lines: Any) -> None:
    image = {"type": "image"}
    path = lines(
        chat([image, {"type": "text", "text": "or"}, image], "A.", images=["a.png", {"path": "b.png"}]),
        chat([{"type": "image", "text": None}], "B.", image="a.png"),
    )
    assert [read(s)[0] for s in Messages(path)] == [["[a.png]", "or", "[b.png]"], ["[a.png]"]]


def test_marks_in_plain_text_take_the_items_of_the_record(lines: Any) -> None:
    path = lines(chat("<image>What, with <audio>?", "A.", images=["a.png"], audios=["s.wav"]))
    assert read(Messages(path)[0])[0] == ["[a.png]", "What, with ", "[s.wav]", "?"]


def test_marks_inside_typed_text_are_text(lines: Any) -> None:
    path = lines(chat([{"type": "image", "path": "a.png"}, {"type": "text", "text": "What does <image> mean?"}], "A."))
    assert read(Messages(path)[0])[0] == ["[a.png]", "What does <image> mean?"]


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": URI}},
        {"type": "image_url", "image_url": URI},
        {"type": "image", "image": URI},
        {"type": "image", "url": URI},
        {"type": "image", "base64": URI.partition(",")[2]},
    ],
)
def test_embedded_pictures(lines: Any, part: dict[str, Any]) -> None:
    (item,) = Messages(lines(chat([part], "A.")))[0].items
    assert isinstance(item, Image) and item.source == picture()


def test_embedded_sound(lines: Any) -> None:
    data = base64.b64encode(sound()).decode()
    (item,) = Messages(lines(chat([{"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}], "A.")))[
        0
    ].items
    assert isinstance(item, Audio) and item.source == sound()


def test_embedded_items_are_of_bounded_size(lines: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmlm.training.readers.source.LIMIT", 20)
    with pytest.raises(InputError, match="at most 20 bytes"):
        Messages(lines(chat([{"type": "image", "image": URI}], "A.")))[0]


def test_an_answer_may_hold_an_item_with_its_caption(lines: Any) -> None:
    path = lines(
        chat(
            "Draw a cat.", [{"type": "text", "text": "Here:"}, {"type": "image", "path": "a.png", "caption": "A cat."}]
        )
    )
    answer = Messages(path)[0].turns[1]
    assert answer.text == "Here:" and answer.items[0].caption == "A cat."


def test_llava_and_messages_agree(lines: Any) -> None:
    said = ("<image>\nWhat?", "A.", "And <image>?", "B.")
    images = ["a.png", "b.png"]
    one = Llava(lines(talk(*said, image=images), name="one.jsonl"))[0]
    other = Messages(lines(chat(*said, images=images), name="other.jsonl"))[0]
    assert read(one) == read(other)


def test_record(lines: Any) -> None:
    raw = chat("Hi.", "Hello.", id="x", loss=1)
    assert Messages(lines(raw)).record(0) == {**raw, "id": "x", "answers": ["Hello."]}
