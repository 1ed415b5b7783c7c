"""Pictures, sounds and clips that a model says: kept as files of the session, saved, loaded, and told to programs."""

import asyncio
import base64
import json
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from test_outputs import DRAW, READS, eager, system

from mmlm.assemble import Assembly, assemble
from mmlm.demo.completions import beside
from mmlm.demo.engine import Engine
from mmlm.demo.history import ask, messages, record
from mmlm.demo.links import Links
from mmlm.demo.saved import NAME, load, save
from mmlm.demo.serve import application
from mmlm.demo.session import Session, answers
from mmlm.demo.uploads import Limits
from mmlm.errors import InputError
from mmlm.media import digest, load_audio, load_image, load_video
from mmlm.reply import Decoding, Reply
from mmlm.sample import Audio, Image, Item, Sample, Turn, Video
from mmlm.training.readers.messages import Messages

TONE = Audio(np.sin(np.arange(8000, dtype=np.float32) / 9) * 0.5, 16_000)
CLIP = Video(np.repeat(np.arange(0, 250, 25, dtype=np.uint8), 16 * 16 * 3).reshape(10, 16, 16, 3), 5.0)
DOT = Image(np.full((6, 9, 3), (200, 30, 30), np.uint8), "a dot")


@pytest.fixture
def drawer() -> Assembly:
    """A tiny random system that takes pictures, and draws one as soon as it may."""
    llava = {"encoder": {"type": "clip", "weights": "openai/clip-vit-base-patch32"}, "aligner": {"type": "mlp"}}
    return eager(assemble(system({"image": {**DRAW, **READS["at"]}}, inputs={"image": llava})), after=3)


def growing(engine: Engine, session: Session, limit: int = 12) -> list[Session]:
    async def every() -> list[Session]:
        return [now async for now in answers([engine], session, "", Decoding(limit, items=1))]

    return asyncio.run(every())


def said(engine: Engine, session: Session, limit: int = 12) -> Session:
    return growing(engine, session, limit)[-1]


def saying(monkeypatch: pytest.MonkeyPatch, *parts: str | Item, notes: tuple[str, ...] = ()) -> None:
    """A model that says this."""

    def stream(assembly: Assembly, sample: Sample, decoding: Decoding) -> Iterator[Reply]:
        text = "".join(p for p in parts if isinstance(p, str))
        yield Reply(text, (65,), (-0.5,), "end", 3)
        yield Reply(text, (65,), (-0.5,), "end", 3, parts, notes)

    monkeypatch.setattr("mmlm.reply.stream", stream)


def test_a_picture_that_is_drawn_is_a_file_of_the_session(drawer: Assembly, tmp_path: Path) -> None:
    engine = Engine(drawer)
    session = said(engine, Session.of(1).below(tmp_path).ask(ask([], "draw")))
    (exchange,) = session.sides[0].talk
    assert exchange.said is not None and exchange.note.startswith(
        "the reply asked for more items than the 1 that it may"
    )
    (item,) = exchange.said.items
    assert session.folder is not None and isinstance(item.source, Path) and item.source.is_relative_to(session.folder)
    drawn = session.sides[0].records[0]
    assert drawn is not None and np.array_equal(np.asarray(load_image(item)), drawn.reply.items[0].source)
    shown = messages(session.sides[0].talk, lambda i: {"path": str(i.source)})
    assert {"role": "assistant", "content": {"path": str(item.source)}} in shown
    again = said(engine, session.ask(ask([item], "and now?")))  # what was drawn is put into the next prompt
    assert len(again.sides[0].talk) == 2 and again.sides[0].talk[1].said is not None, again.sides[0].talk[1].note
    again.end()
    assert not item.source.exists() and tmp_path.exists()


def test_an_item_on_its_way_is_no_empty_answer(
    assembly: Assembly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(assembly: Assembly, sample: Sample, decoding: Decoding) -> Iterator[Reply]:
        yield Reply("", (65,), (-0.5,), "end", 3)
        time.sleep(0.3)  # for so long it is drawn
        yield Reply("", (65,), (-0.5,), "end", 3, (DOT,))

    monkeypatch.setattr("mmlm.reply.stream", stream)
    session = Session.of(1).below(tmp_path).ask(ask([], "draw"))
    turns = [s.sides[0].talk[0].said for s in growing(Engine(assembly), session)]
    assert turns[-1] is not None and all(turn is None or turn.items for turn in turns)


def test_items_of_each_kind_are_kept_and_come_back(
    assembly: Assembly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saying(monkeypatch, "see ", DOT, TONE, "hear", CLIP, notes=("image: it was not made",))
    session = said(Engine(assembly), Session.of(1).below(tmp_path).ask(ask([], "draw")))
    (exchange,) = session.sides[0].talk
    assert exchange.note == "image: it was not made" and exchange.said is not None
    before, dot, tone, between, clip = exchange.said.parts
    assert (before, between) == ("see ", "hear")
    assert isinstance(dot, Image) and np.array_equal(np.asarray(load_image(dot)), DOT.source)
    assert isinstance(tone, Audio) and np.abs(load_audio(tone, 16_000) - TONE.source).max() < 1e-3  # type: ignore[operator]
    assert isinstance(clip, Video) and load_video(clip, 10)[:, 8, 8, 0].tolist() == pytest.approx(
        range(0, 250, 25), abs=6
    )
    box = save(session.sides[0].talk, "", tmp_path)
    _, (found,) = load(box, tmp_path, set(), Limits())
    assert found.said is not None
    assert [digest(i) for i in found.said.items] == [digest(i) for i in exchange.said.items]
    with zipfile.ZipFile(box) as files:
        files.extractall(tmp_path / "out")
    read = Messages(tmp_path / "out" / NAME)[0]
    assert [type(i) for i in read.items] == [Image, Audio, Video] and read.items[0].caption == "a dot"
    assert record((exchange,)).turns[-1].text == read.turns[-1].text


def test_what_cannot_be_kept_is_a_note(assembly: Assembly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saying(monkeypatch, "see ", Video(np.zeros((2, 1, 1, 3), np.uint8), 5.0))
    session = Session.of(1).below(tmp_path).ask(ask([], "draw"))
    (exchange,) = said(Engine(assembly), session).sides[0].talk
    assert exchange.said == Turn("assistant", ("see ",)) and "expected uint8" in exchange.note
    shutil.rmtree(tmp_path)
    (exchange,) = said(Engine(assembly), session).sides[0].talk
    assert exchange.note and exchange.said is not None and not exchange.said.items


def test_a_saved_answer_that_names_another_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"x")
    home = tmp_path / "home"
    home.mkdir()
    for path, data in (("../secret.png", b""), ("a.png", b"no picture")):
        turns = [
            {"role": "user", "content": "draw"},
            {"role": "assistant", "content": [{"type": "image", "path": path}]},
        ]
        with zipfile.ZipFile(home / "a.zip", "w") as box:
            box.writestr(NAME, json.dumps({"messages": turns}))
            box.writestr("a.png", data)
        with pytest.raises(InputError, match=r"'\.\.'|expected a JPEG"):
            load(home / "a.zip", home, {"image"}, Limits())


@pytest.mark.parametrize("streamed", [False, True], ids=["whole", "stream"])
def test_programs_get_items_as_data_uris(drawer: Assembly, served: Callable[..., str], streamed: bool) -> None:
    """In a form that may be sent back as the content of the message."""
    address = served(application(Engine(drawer), Links()))
    body: dict[str, Any] = {"model": "t", "messages": [{"role": "user", "content": "draw"}], "max_tokens": 40}
    answer = httpx.post(f"{address}/v1/chat/completions", json={**body, "stream": streamed}, timeout=60)
    if streamed:
        events = [json.loads(e[6:]) for e in answer.text.split("\n\n") if e.startswith("data: {")]
        message = events[-1]["choices"][0]["delta"]
        assert not any("parts" in e["choices"][0]["delta"] for e in events[:-1])
    else:
        message = answer.json()["choices"][0]["message"]
        assert isinstance(message["content"], str)
    pictures = [p["image_url"]["url"] for p in message["parts"] if p["type"] == "image_url"]
    head, data = pictures[0].split(",")
    assert head == "data:image/png;base64" and load_image(Image(base64.b64decode(data))).size == (8, 8)
    told = [*body["messages"], {"role": "assistant", "content": message["parts"]}, {"role": "user", "content": "more"}]
    again = httpx.post(f"{address}/v1/chat/completions", json={**body, "messages": told, "max_tokens": 4}, timeout=60)
    assert again.status_code == 200, again.text


def test_what_stands_beside_the_text() -> None:
    plain = Reply("a", (), (), "end", 1, ("a",))
    assert beside(plain) == {}
    assert beside(replace(plain, notes=("none",))) == {"notes": ["none"]}
    found = beside(replace(plain, parts=("a", TONE, CLIP)))
    assert [p["type"] for p in found["parts"]] == ["text", "audio_url", "video_url"]
    assert found["parts"][2]["video_url"]["url"].startswith("data:video/mp4;base64,")
    broken = beside(replace(plain, parts=("a", Image(b"noise"))))
    assert broken["notes"] and broken["parts"] == [{"type": "text", "text": "a"}]
