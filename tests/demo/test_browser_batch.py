"""Many questions at once in a browser: what is dropped, how far it is, what comes of it, what is refused. See `browsing`."""

import csv
import errno
import io
import json
import threading
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from browsing import MARKS, RUNS, WAIT, picture, shoot
from playwright.sync_api import Page, expect

from mmlm.demo.batch import Queued
from mmlm.evaluation.answerer import Said
from mmlm.media import load_image
from mmlm.reply import Decoding, Reply
from mmlm.sample import Image, Item, Sample

pytestmark = MARKS
QUESTION = "What kind of thing is this?"


def opened(visit: Callable[..., Page], address: str, files: Sequence[Path] = ()) -> Page:
    """The tab, with files in it."""
    page = visit(address)
    page.get_by_role("tab", name="Many at once").click()
    if files:
        page.set_input_files("#batch-files input[type=file]", [str(f) for f in files])
        expect(page.locator("#batch-files")).to_contain_text(files[-1].stem, timeout=WAIT)
    return page


def drawn(folder: Path, count: int = 5) -> list[Path]:
    return [picture(folder / f"{'abcdefgh'[i]}.png", (30 * i, 120, 220 - 25 * i)) for i in range(count)]


def done(page: Page, told: str) -> Any:
    """The table, once everything was asked."""
    rows = page.locator("#batch-rows")
    expect(rows).to_contain_text(told, timeout=WAIT)
    expect(page.locator("#batch-run")).to_be_visible(timeout=WAIT)
    return rows


def downloaded(page: Page) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """What the JSONL and the CSV hold."""
    found = []
    for button in ("#batch-jsonl", "#batch-csv"):
        with page.expect_download() as download:
            page.click(button)
        found.append(Path(download.value.path()).read_bytes().decode())
    lines = [json.loads(line) for line in found[0].split("\n")[:-1]]
    return lines, list(csv.DictReader(io.StringIO(found[1], newline="")))


def the_same(page: Page, asked: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Asserts that the table and both files hold these files and questions, in order, and the same answers; gives the JSONL."""
    lines, sheet = downloaded(page)
    assert [(r["file"], r["question"]) for r in lines] == [(r["file"], r["question"]) for r in sheet] == list(asked)
    assert len({r["id"] for r in lines}) == len(asked)
    cells = page.locator("#batch-rows td.mm-said")
    said = [r["answers"][0]["answer"] for r in lines if not r["answers"][0]["error"]]
    assert [c.strip() or "(empty)" for c in said] == [c.inner_text().strip() for c in cells.all()]
    written = [a["answer"] or (f"({a['error']})" if a["error"] else "") for a in (r["answers"][0] for r in lines)]
    assert [r["answer"] for r in sheet] == written
    return lines


@pytest.fixture
def telling(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that says which colour is in the middle of its picture, and what it was asked."""

    def reply(answerer: Queued, samples: Sequence[Sample], decoding: Decoding) -> Sequence[Said]:
        texts = [" ".join([*map(colour, s.items), s.turns[-1].text.strip()]) for s in samples]
        return [Reply(text, (65,), (-0.5,), "end", 3) for text in texts]

    monkeypatch.setattr(Queued, "reply", reply)


def colour(item: Item | Path) -> str:
    """The colour in the middle, as a word."""
    image = load_image(Image(item) if isinstance(item, Path) else item)
    return "-".join(map(str, image.getpixel((image.width // 2, image.height // 2))))


def test_many_at_once(
    addresses: tuple[str, str], visit: Callable[..., Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Loose pictures: the table grows with the answers, and a file that is broken is the fault of its own row."""
    held_out = sorted((RUNS[0].parent / "data" / "images").glob("*.jpg"))[3:700:140] if RUNS else []
    files = held_out if len(held_out) == 5 else drawn(tmp_path)
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    more, reply = threading.Event(), Queued.reply

    def held(answerer: Queued, samples: Sequence[Sample], decoding: Decoding) -> Sequence[Said]:
        """Answers four, and waits for leave before it goes on."""
        if len(samples) < 4:
            more.wait(WAIT / 1000)
        return reply(answerer, samples, decoding)

    monkeypatch.setattr(Queued, "reply", held)
    page = opened(visit, addresses[0], [*files, broken])
    page.fill("#batch-question textarea", QUESTION)
    page.click("#batch-run")
    rows = page.locator("#batch-rows")
    expect(rows).to_contain_text("4 of 6 done", timeout=WAIT)
    assert rows.locator(".mm-bar i").get_attribute("style") == "width:66%"
    expect(rows.locator("td.mm-said")).to_have_count(4)
    expect(page.locator("#batch-run")).to_be_hidden()
    expect(page.locator("#batch-stop")).to_be_visible()
    more.set()
    rows = done(page, "6 of 6 done, 1 could not be asked")
    expect(rows.locator("img")).to_have_count(5)
    assert all((box := i.bounding_box()) and box["width"] > 40 for i in rows.locator("img").all())
    expect(rows.locator(".mm-bad")).to_contain_text("broken.png: expected a JPEG")
    lines = the_same(page, [(f.name, QUESTION) for f in [*files, broken]])
    assert lines[-1]["answers"][0]["error"].startswith("broken.png: expected a JPEG")
    shoot(page, "many-at-once")


@pytest.mark.usefixtures("telling")
def test_a_folder_and_a_zip(addresses: tuple[str, str], visit: Callable[..., Page], tmp_path: Path) -> None:
    """Both are asked the same; a folder is added to what lies there."""
    *files, third = drawn(tmp_path / "folder", 3)
    colours = [colour(f) for f in (third, *files)]
    box = tmp_path / "pictures.zip"
    with zipfile.ZipFile(box, "w") as archive:
        archive.write(third, "deep/in/c.png")
        archive.writestr("readme.txt", "no picture")
    third.unlink()
    page = opened(visit, addresses[0], [box])
    with page.expect_file_chooser() as chooser:
        page.click("#batch-folder")
    assert chooser.value.element.evaluate("e => e.webkitdirectory")
    chooser.value.set_files(third.parent)
    expect(page.locator("#batch-files tbody tr, #batch-files tr.file")).to_have_count(3, timeout=WAIT)
    page.fill("#batch-question textarea", QUESTION)
    page.click("#batch-run")
    expect(done(page, "3 of 3 done").locator("img")).to_have_count(3)
    lines = the_same(page, [("deep/in/c.png", QUESTION), ("a.png", QUESTION), ("b.png", QUESTION)])
    assert [r["answers"][0]["answer"] for r in lines] == [f"{c} {QUESTION}" for c in colours]


@pytest.mark.usefixtures("telling")
@pytest.mark.parametrize("form", ["csv", "jsonl"])
def test_a_table_of_questions(
    form: str, addresses: tuple[str, str], visit: Callable[..., Page], tmp_path: Path
) -> None:
    files = drawn(tmp_path, 2)
    asked = [
        ("a.png", "Is it, or is it not, green?"),
        ("b.png", "What is this?"),
        ("a.png", "Why?"),
        ("", "Who are you?"),
    ]
    table = tmp_path / f"questions.{form}"
    if form == "csv":
        with table.open("w", newline="", encoding="utf-8") as f:
            csv.writer(f).writerows([("image", "question"), *asked])
    else:
        table.write_text("".join(json.dumps({"image": i, "question": q}) + "\n" for i, q in asked), encoding="utf-8")
    page = opened(visit, addresses[0], [*files, table])
    page.click("#batch-run")
    expect(done(page, "4 of 4 done").locator("img")).to_have_count(3)
    lines = the_same(page, asked)
    colours = [f"{colour(tmp_path / name)} " if name else "" for name, _ in asked]
    assert [r["answers"][0]["answer"] for r in lines] == [f"{c}{q}" for c, (_, q) in zip(colours, asked, strict=True)]


def test_what_cannot_be_asked_is_a_sentence(
    addresses: tuple[str, str], visit: Callable[..., Page], tmp_path: Path
) -> None:
    (broken := tmp_path / "broken.zip").write_bytes(b"PK, and no more")
    (table := tmp_path / "table.csv").write_text("picture,text\na.png,What is this?\n")
    (other := tmp_path / "other.csv").write_text("picture,question\na.png,What is this?\n")
    page = opened(visit, addresses[0])
    page.fill("#batch-question textarea", " ")
    for files, told in (
        ([], "there is nothing to ask about"),
        ([broken], "broken.zip cannot be unpacked: expected a zip file that is whole and not encrypted"),
        (
            [table],
            "table.csv: expected a column question, or the question that is asked in each row; came picture, text",
        ),
        (
            [*drawn(tmp_path, 1), other],
            "other.csv: expected a column that names the files, image, audio, video or file;",
        ),
    ):
        if files:
            page.set_input_files("#batch-files input[type=file]", [str(f) for f in files])
            expect(page.locator("#batch-files")).to_contain_text(files[-1].stem, timeout=WAIT)
        page.click("#batch-run")
        toast = page.locator(".toast-body").filter(has_text=told)
        expect(toast).to_have_count(1, timeout=WAIT)
        assert str(tmp_path) not in toast.inner_text()
        expect(page.locator("#batch-run")).to_be_visible()
        toast.locator("button").last.click()
        if files:
            page.click("#batch-files button[aria-label=Clear]")


def test_what_fails_midway_can_be_asked_again(
    addresses: tuple[str, str], visit: Callable[..., Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was answered before stays to be seen and downloaded."""
    reply = Queued.reply

    def failing(answerer: Queued, samples: Sequence[Sample], decoding: Decoding) -> Sequence[Said]:
        if len(samples) < 4:
            raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path))
        return reply(answerer, samples, decoding)

    monkeypatch.setattr(Queued, "reply", failing)
    page = opened(visit, addresses[0], files := drawn(tmp_path))
    page.fill("#batch-question textarea", QUESTION)
    page.click("#batch-run")
    toast = page.locator(".toast-body")
    expect(toast).to_contain_text("the machine that this page runs on could not do it: No space left", timeout=WAIT)
    assert str(tmp_path) not in toast.inner_text()
    done(page, "4 of 5 done")
    expect(page.locator("#batch-stop")).to_be_hidden()
    the_same(page, [(f.name, QUESTION) for f in files[:4]])
