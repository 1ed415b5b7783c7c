"""The page over a real server, asked by Gradio's own client: the same answers as everywhere, and nothing of anybody else."""

import gc
import html
import json
import os
import threading
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image as Pillow
from stand_in import stubbed

from mmlm import cli
from mmlm.assemble import Assembly
from mmlm.media import digest
from mmlm.reply import Decoding, Reply, reply
from mmlm.sample import Image, Sample, Turn
from mmlm.training.readers.messages import Messages

pytest.importorskip("gradio", reason="the page needs gradio (the extra `demo`)")
from fastapi import FastAPI
from gradio_client import Client, handle_file

from mmlm.demo.app import mount
from mmlm.demo.engine import Engine

Serving = Callable[..., AbstractContextManager[str]]
Messages_ = list[dict[str, Any]]
# Gradio and its client leave event loops and sockets to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*no_silent_downcasting.*"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]
LIMIT = 12
SETTINGS = ("", 0.0, 1.0, LIMIT, 0)  # system text, temperature, top-p, length, seed
HOSTILE = "<script>document.title='x'</script> ![x](http://127.0.0.1:9/x.png) **b** <b>{{x}}</b> ${x}"


_clients: list[Client] = []


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What was left behind is collected here, and not in the midst of somebody else's test."""
    yield
    while _clients:
        _clients.pop().close()
    gc.collect()


@contextmanager
def page(serving: Serving, engines: list[Engine], folder: Path) -> Iterator[str]:
    """A page of these engines; what mounting writes into the environment is taken back."""
    before = dict(os.environ)
    app = FastAPI()
    try:
        mount(app, engines, folder)
        with serving(app, body=8 << 20) as address:
            yield address
    finally:
        os.environ.clear()
        os.environ.update(before)


@pytest.fixture(scope="module")
def one(serving: Serving, assembly: Assembly, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Engine]]:
    engine = Engine(assembly, waiting=0)
    with page(serving, [engine], tmp_path_factory.mktemp("home")) as address:
        yield address, engine


def connected(address: str) -> Client:
    _clients.append(Client(address, verbose=False, analytics_enabled=False))
    return _clients[-1]


def picture(path: Path, colour: tuple[int, int, int] = (200, 30, 30)) -> Path:
    Pillow.new("RGB", (21, 13), colour).save(path)
    return path


def ask(client: Client, text: str, *files: Path) -> Messages_:
    """The chat after the question was taken."""
    *_, chat = client.predict({"text": text, "files": [handle_file(f) for f in files]}, api_name="/ask")
    return chat  # type: ignore[no-any-return]


def answer(client: Client, *settings: Any) -> Messages_:
    return client.predict(*(settings or SETTINGS), api_name="/answer")  # type: ignore[no-any-return]


def said(chat: Messages_) -> list[tuple[str, str]]:
    """Role and text (or the name of the file) of each message."""
    parts = [(m["role"], c) for m in chat for c in m["content"]]
    return [(r, html.unescape(c["text"]) if c["type"] == "text" else Path(c["file"]).name) for r, c in parts]


def words(reply: Reply) -> str:
    """A reply as the chat shows it."""
    return reply.text.strip("\n") or "(an empty answer)"


def test_the_answer_is_that_of_reply_over_two_turns(one: tuple[str, Engine], tmp_path: Path) -> None:
    address, engine = one
    client, file = connected(address), picture(tmp_path / "red.png")
    assert said(ask(client, "What is it?", file)) == [("user", "red.png"), ("user", "What is it?")]
    job = client.submit(*SETTINGS, api_name="/answer")
    first = Sample((Turn("user", (Image(file), "\nWhat is it?")),))
    (expected,) = reply(engine.assembly, [first], Decoding(LIMIT))
    shown = said(job.result())
    assert shown[2:] == [("assistant", words(expected))]
    grown = [said(o)[2][1] for o in job.outputs()]
    assert all(b.startswith(a.rstrip("\ufffd")) for a, b in pairwise(grown))

    ask(client, "And now?")
    second = Sample((*first.turns, Turn("assistant", (expected.text,)), Turn("user", ("And now?",))))
    (expected,) = reply(engine.assembly, [second], Decoding(LIMIT, 0.9, 0.8, seed=5))
    assert said(answer(client, "", 0.9, 0.8, LIMIT, 5))[-1] == ("assistant", words(expected))


def test_a_system_text_and_a_retry_with_another_seed(one: tuple[str, Engine]) -> None:
    address, engine = one
    client = connected(address)
    sample = Sample((Turn("system", ("Be brief.",)), Turn("user", ("Hello",))))
    expected = [words(reply(engine.assembly, [sample], Decoding(LIMIT, 1.0, seed=s))[0]) for s in (3, 4)]
    settings = ("Be brief.", 1.0, 1.0, LIMIT, 3)
    ask(client, "Hello")
    assert said(answer(client, *settings))[-1][1] == expected[0]
    assert len(said(client.predict(api_name="/retry_0"))) == 1
    again = said(client.predict(*settings, api_name="/again_0"))
    assert [t for _, t in again] == ["Hello", expected[1]]


def test_a_full_line_is_told_in_the_chat_and_the_next_question_is_answered(one: tuple[str, Engine]) -> None:
    address, engine = one
    client, hold, held = connected(address), threading.Event(), threading.Event()

    def holding(assembly: Assembly) -> None:
        held.set()
        hold.wait(30)

    thread = threading.Thread(target=engine.alone, args=(holding,))
    thread.start()
    held.wait(10)
    ask(client, "Hello")
    told = said(answer(client))
    hold.set()
    thread.join()
    assert told[-1][1].startswith("No answer: the model is busy")
    ask(client, "Now?")
    (expected,) = reply(engine.assembly, [Sample((Turn("user", ("Now?",)),))], Decoding(LIMIT))
    assert [t for _, t in said(answer(client))] == ["Hello", told[-1][1], "Now?", words(expected)]


def test_a_bad_file_is_a_sentence_and_leaves_the_conversation_alone(one: tuple[str, Engine], tmp_path: Path) -> None:
    address, _ = one
    client = connected(address)
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"<svg onload=alert(1)>")
    with pytest.raises(Exception, match=r"bad\.png: expected a JPEG") as raised:
        ask(client, "What?", bad)
    assert str(tmp_path) not in str(raised.value) and "<" not in str(raised.value)
    with pytest.raises(Exception, match="nothing to ask"):
        ask(client, "  ")
    assert said(ask(client, "Hello")) == [("user", "Hello")]


def test_sessions_see_nothing_of_each_other(one: tuple[str, Engine], tmp_path: Path) -> None:
    address, _ = one
    first, second = connected(address), connected(address)
    ask(first, "My secret", picture(tmp_path / "secret.png"))
    assert said(ask(second, "Hello")) == [("user", "Hello")]
    answer(second)
    chat = said(ask(second, "More"))
    assert len(chat) == 3 and "secret" not in str(chat)
    assert said(answer(first))[1] == ("user", "My secret")


def test_stop_frees_the_model_within_a_token_and_keeps_what_was_said(
    one: tuple[str, Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, engine = one
    made = stubbed(monkeypatch, "word ", 400, 0.05)
    client = connected(address)
    ask(client, "Talk")
    job = client.submit(*SETTINGS, api_name="/answer")
    until = time.monotonic() + 20
    while len(job.outputs()) < 4 and time.monotonic() < until:
        time.sleep(0.02)
    job.cancel()
    time.sleep(0.5)
    stopped = len(made)
    assert stopped < 100
    time.sleep(0.5)
    assert len(made) == stopped
    assert engine.alone(lambda a: True)
    monkeypatch.undo()
    chat = said(ask(client, "Again?"))
    assert chat[1][0] == "assistant" and 3 <= chat[1][1].count("word") <= stopped
    assert said(answer(client))[-1][0] == "assistant"


def test_what_a_model_says_stays_text(one: tuple[str, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    address, _ = one
    stubbed(monkeypatch, HOSTILE, 1, 0.0)
    client = connected(address)
    ask(client, HOSTILE)
    chat = answer(client)
    assert [t for _, t in said(chat)] == [HOSTILE, HOSTILE]
    assert [c["text"] for m in chat for c in m["content"]] == [html.escape(HOSTILE, quote=False)] * 2
    chats = [c for c in httpx.get(f"{address}/config").json()["components"] if c["type"] == "chatbot"]
    assert [(c["props"]["render_markdown"], c["props"]["sanitize_html"]) for c in chats] == [(False, True)]


def test_two_models_are_asked_the_same(serving: Serving, assembly: Assembly, tmp_path: Path) -> None:
    engines = [Engine(assembly), Engine(assembly)]
    with page(serving, engines, tmp_path / "home") as address:
        client = connected(address)
        _, *chats = client.predict({"text": "Hello", "files": []}, api_name="/ask")
        assert [said(c) for c in chats] == [[("user", "Hello")]] * 2
        both = [said(c) for c in client.predict(*SETTINGS, api_name="/answer")]
        (expected,) = reply(assembly, [Sample((Turn("user", ("Hello",)),))], Decoding(LIMIT))
        assert both == [[("user", "Hello"), ("assistant", words(expected))]] * 2
        a, b = (said(c) for c in client.predict(api_name="/retry_1"))
        assert (len(a), len(b)) == (2, 1)
        a, b = (said(c) for c in client.predict(*SETTINGS, api_name="/again_1"))
        assert a == b == both[0]


def test_a_conversation_is_saved_for_training_and_loaded_back(
    one: tuple[str, Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _ = one
    stubbed(monkeypatch, " red", 2, 0.0)
    client, file = connected(address), picture(tmp_path / "red.png")
    ask(client, "What?", file)
    shown = said(answer(client))
    box = Path(client.predict("Be brief.", api_name="/save_0"))
    with zipfile.ZipFile(box) as f:
        f.extractall(tmp_path / "out")
    sample = Messages(tmp_path / "out" / "conversation.jsonl")[0]
    told = [("system", "Be brief."), ("user", "\nWhat?"), ("assistant", " red red")]
    assert [(t.role, t.text) for t in sample.turns] == told
    assert [digest(i) for i in sample.items] == [digest(Image(file))]
    other = connected(address)
    chat, *_, system = other.predict(handle_file(box), api_name="/load")
    assert [t for r, t in said(chat)][1:] == [t for r, t in shown][1:] and system == "Be brief."
    (broken := tmp_path / "broken.zip").write_bytes(b"no archive")
    with pytest.raises(Exception, match=r"broken\.zip cannot be unpacked"):
        other.predict(handle_file(broken), api_name="/load")


def test_many_questions_at_once(one: tuple[str, Engine], tmp_path: Path) -> None:
    address, engine = one
    client = connected(address)
    files = [picture(tmp_path / f"{n}.png", (i * 60, 0, 0)) for i, n in enumerate("abcde")]
    broken = tmp_path / "x.png"
    broken.write_bytes(b"no picture")
    job = client.submit([handle_file(f) for f in [*files, broken]], "What?", LIMIT, api_name="/batch")
    rows, *_, lines, sheet = job.result()
    assert rows.count("<img") == 5 and "6 of 6 done, 1 could not be asked" in rows
    samples = [Sample((Turn("user", (Image(f), "\nWhat?")),)) for f in files]
    expected = [r.text for r in reply(engine.assembly, samples, Decoding(LIMIT))]
    found = [json.loads(line) for line in Path(lines).read_text(encoding="utf-8").splitlines()]
    assert [r["answers"][0]["answer"] for r in found] == [*expected, ""]
    assert found[5]["answers"][0]["error"].startswith("x.png: expected a JPEG")
    assert Path(sheet).read_text(encoding="utf-8").startswith("id,file,question,answer")
    with pytest.raises(Exception, match="write the question"):
        client.predict([handle_file(files[0])], " ", LIMIT, api_name="/batch")


def test_where_an_answer_looked(one: tuple[str, Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address, _ = one
    client = connected(address)
    with pytest.raises(Exception, match="ask something first"):
        client.predict("gradient", api_name="/look_0")
    stubbed(monkeypatch, " red", 2, 0.0)
    ask(client, "What?", picture(tmp_path / "red.png"))
    answer(client)
    shown = client.predict(api_name="/seen_answer")
    assert shown[0].count("<img") == 1 and "[image: " in shown[0]
    for way in ("gradient", "attention"):
        assert client.predict(way, api_name="/look_0").count("<img") == 1


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "pyproject.toml", "../../etc/passwd", "{home}/../outside.txt", "{run}"]
)
def test_no_file_of_this_machine_can_be_read(path: str, one: tuple[str, Engine], tmp_path: Path) -> None:
    address, _ = one
    (tmp_path / "outside.txt").write_text("outside", encoding="utf-8")
    wanted = path.format(home=tmp_path / "inside", run=Path(__file__))
    for start in ("/gradio_api/file=", "/file=", "/gradio_api/file/", "/static/", "/assets/"):
        assert httpx.get(f"{address}{start}{wanted}").status_code in (403, 404)


@pytest.mark.parametrize("where", ["{folder}/x.png", "file://{folder}/x.png", "http://site.example/x.png"])
@pytest.mark.parametrize("name", ["batch_add", "ask", "batch"])
def test_a_file_that_was_not_uploaded_is_not_taken(
    where: str, name: str, one: tuple[str, Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr("safehttpx.async_validate_url", asked.append)
    picture(tmp_path / "x.png")
    file = {"path": where.format(folder=tmp_path), "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}
    sent = {"ask": [{"text": "", "files": [file]}, None], "batch_add": [None, [file]], "batch": [[file], "What?", 2]}
    found = httpx.post(f"{one[0]}/gradio_api/run/{name}", json={"data": sent[name], "session_hash": "somebody"})
    assert found.status_code == 500 and "expected a file that was attached here" in found.text
    assert not asked


def test_what_stands_for_a_photograph_is_decoded_elsewhere_first(one: tuple[str, Engine]) -> None:
    """Gradio would open it right here, by every format that Pillow knows."""
    address, _ = one
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n"
    (at,) = httpx.post(f"{address}/gradio_api/upload", files={"files": ("x.png", script)}).json()
    page = httpx.get(f"{address}/config").json()
    camera = next(c["id"] for c in page["components"] if c["type"] == "image")
    number = next(d["id"] for d in page["dependencies"] if d["inputs"][:1] == [camera])
    photograph = {"path": at, "orig_name": "x.png", "meta": {"_type": "gradio.FileData"}}
    data = [photograph, {"text": "", "files": []}]
    httpx.post(f"{address}/gradio_api/queue/join", json={"data": data, "fn_index": number, "session_hash": "snap"})
    told = httpx.get(f"{address}/gradio_api/queue/data?session_hash=snap", timeout=30).text
    assert "x.png: expected a JPEG, PNG" in told and '"success":false' in told.replace(" ", "")


@pytest.mark.parametrize("start", ["/gradio_api/file=", "/gradio_api/file/"])
def test_nothing_is_fetched_from_outside(start: str, one: tuple[str, Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("safehttpx.async_validate_url", asked.append)
    for url in ("http://site.example/x.png", "https://site.example/", "%68ttp://site.example/"):
        assert httpx.get(f"{one[0]}{start}{url}").status_code == 404
    assert not asked


def test_pages_that_nobody_needs_are_not_there(one: tuple[str, Engine]) -> None:
    address, _ = one
    for path in ("/docs", "/redoc", "/openapi.json", "/monitoring/summary"):
        found = httpx.get(f"{address}{path}")
        assert found.status_code in (401, 403, 404) or "quickstart" not in found.text
    shown = httpx.get(address).text
    assert "fonts.googleapis" not in shown and "cdnjs" not in shown


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--host", "0.0.0.0"], "needs a password"),
        (["--user", "me"], "no password"),
        ([], "is not a run"),
    ],
)
def test_what_cannot_be_served_is_told(
    arguments: list[str],
    reason: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MMLM_PASSWORD", raising=False)
    assert cli.main(["demo", str(tmp_path), "--port", "0", *arguments]) == 2
    assert reason in capsys.readouterr().err


def left(home: Path) -> dict[str, int]:
    """How many folders of each kind lie in `home`, once what nobody holds is gone."""
    gc.collect()
    return dict(Counter(p.name.partition("-")[0] for p in home.iterdir() if p.name.startswith(("session-", "asked-"))))


def eventually(found: Callable[[], object], expected: object) -> None:
    """A server lets go of a request a moment after it was answered."""
    until = time.monotonic() + 10
    while found() != expected and time.monotonic() < until:
        time.sleep(0.05)
    assert found() == expected


def test_files_go_with_whom_they_were_made_for(
    serving: Serving, assembly: Assembly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files of many questions go when others are asked, and all of a person's when the server keeps others in their place."""
    monkeypatch.setattr("mmlm.demo.app._SESSIONS", 2)
    stubbed(monkeypatch, " red", 2, 0.0)
    file, home = picture(tmp_path / "red.png"), tmp_path / "home"
    with page(serving, [Engine(assembly)], home) as address:
        client = connected(address)
        ask(client, "What?", file)
        answer(client)
        assert Path(client.predict("", api_name="/save_0")).is_file()
        for _ in range(2):
            *_, lines, _ = client.predict([handle_file(file)], "What?", LIMIT, api_name="/batch")
            assert Path(lines).is_file()
            eventually(lambda: left(home), {"session": 1, "asked": 1})
        with pytest.raises(Exception, match="write the question"):
            client.predict([handle_file(file)], " ", LIMIT, api_name="/batch")
        eventually(lambda: left(home), {"session": 1, "asked": 1})
        for other in (connected(address), connected(address), connected(address)):
            ask(other, "Hello")
        eventually(lambda: left(home), {"session": 2})
