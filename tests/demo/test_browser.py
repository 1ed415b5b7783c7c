"""The page in a browser: what a person does, at two widths, in two shades, and what must not happen meanwhile. See `browsing`."""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from browsing import MARKS, RUNS, WAIT, answers, attach, carry, finished, picture, send, shoot
from playwright.sync_api import Page, expect
from stand_in import stubbed
from systems import tiny

from mmlm import reply
from mmlm.assemble import Assembly, assemble
from mmlm.media import digest, load_audio, load_image
from mmlm.media.saving import save_item
from mmlm.reply import Decoding, Reply
from mmlm.sample import Audio, Image, Sample, Turn, Video
from mmlm.training.readers.messages import Messages

pytestmark = MARKS
HOSTILE = "<img src=x onerror=document.title='taken'><script>1</script> ![x](http://127.0.0.1:9/) **b**"
PLAY = """async media => {
  media.muted = true;
  await media.play();
  for (let i = 0; i < 400 && media.currentTime < 0.3; i++) await new Promise(go_on => setTimeout(go_on, 50));
  return [media.duration, media.currentTime];
}"""
SHADES: tuple[Any, ...] = ("light", "dark")


def test_a_picture_a_question_and_a_second_turn(
    addresses: tuple[str, str], visit: Callable[..., Page], tmp_path: Path
) -> None:
    page = visit(addresses[0])
    attach(page, picture(tmp_path / "red.png"))
    send(page, "What is this?")
    finished(page)
    seen = page.locator("#seen-0")
    expect(seen).to_contain_text("first token", timeout=WAIT)
    expect(seen.locator(".mm-items img")).to_have_count(1)
    expect(seen.locator(".mm-fold")).to_contain_text("[image: ")
    assert page.locator("#chat-0 [data-testid=user]").count() == 2  # the picture and the words
    send(page, "Are you sure?")
    finished(page, 2)
    expect(seen.locator(".mm-prompt")).to_contain_text("Are you sure?", timeout=WAIT)
    answers(page).first.click()
    expect(seen.locator(".mm-prompt")).not_to_contain_text("Are you sure?", timeout=WAIT)
    page.click("#clear")
    expect(answers(page)).to_have_count(0, timeout=WAIT)
    expect(seen).to_contain_text("Ask something")


def test_files_that_are_pasted_dropped_and_photographed(
    addresses: tuple[str, str], visit: Callable[..., Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sample] = []

    def stream(assembly: Assembly, sample: Sample, decoding: Decoding) -> Iterator[Reply]:
        asked.append(sample)
        yield Reply("three", (65,), (-0.5,), "end", 3, ("three",))

    monkeypatch.setattr("mmlm.reply.stream", stream)
    page = visit(addresses[0])
    held = page.locator("#box .thumbnail-item")
    for number, how in enumerate(("paste", "drop"), start=1):
        carry(page, picture(tmp_path / f"{how}.png", (100 * number, 40, 40)), how)
        expect(held).to_have_count(number, timeout=WAIT)
    page.get_by_text("Camera", exact=True).click()
    page.get_by_text("Click to Access Webcam").click()
    # A photograph of a camera that shows nothing yet is none.
    page.wait_for_function(
        "() => [...document.querySelectorAll('video')].some(v => v.videoWidth > 0 && v.currentTime > 0)"
    )
    page.locator("button[aria-label='capture photo']").click(timeout=WAIT)
    expect(held).to_have_count(3, timeout=WAIT)
    send(page, "How many pictures are these?")
    finished(page)
    shown = [load_image(i) for i in asked[0].items if isinstance(i, Image)]
    assert [s.getpixel((60, 40)) for s in shown[:2]] == [(100, 40, 40), (200, 40, 40)]
    assert shown[2].width >= 320 and np.ptp(np.asarray(shown[2])) > 50


def test_a_sound_from_the_microphone(
    addresses: tuple[str, str], visit: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Sample] = []

    def stream(assembly: Assembly, sample: Sample, decoding: Decoding) -> Iterator[Reply]:
        asked.append(sample)
        yield Reply("a beep", (65,), (-0.5,), "end", 3, ("a beep",))

    monkeypatch.setattr("mmlm.reply.stream", stream)
    page = visit(addresses[0])
    if not page.locator("#box button[aria-label='Record audio']").count():
        pytest.skip("this model takes no sound")
    page.click("#box button[aria-label='Record audio']")
    page.click("#box button[aria-label='Start recording']")
    page.wait_for_timeout(1500)
    page.click("#box button[aria-label='Stop recording']")
    page.click("#box button[aria-label='Attach audio']", timeout=WAIT)
    send(page, "What do you hear?")
    finished(page)
    (sound,) = asked[0].items
    assert isinstance(sound, Audio) and np.abs(load_audio(sound, 16_000)).max() > 0.01


def test_a_model_that_says_pictures_sounds_and_clips(
    addresses: tuple[str, str], visit: Callable[..., Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are shown where they were said, they play, and they come with the saved conversation."""
    x, y = np.meshgrid(np.linspace(0, 255, 192), np.linspace(0, 255, 128))
    drawn = np.stack([x, y, 255 - x], -1).astype(np.uint8)
    tone = np.sin(np.arange(24_000, dtype=np.float32) * np.linspace(0.05, 0.2, 24_000, dtype=np.float32)) * 0.4
    clip = np.stack([np.roll(drawn, 12 * i, 1) for i in range(16)])
    parts = ("Here is a picture:", Image(drawn), "a sound:", Audio(tone, 16_000), "and a clip:", Video(clip, 8.0))
    text = "".join(p for p in parts if isinstance(p, str))

    def stream(assembly: Assembly, sample: Sample, decoding: Decoding) -> Iterator[Reply]:
        yield Reply(text, (65,), (-0.5,), "end", 3, parts, ("image: a second one was not made",))

    monkeypatch.setattr("mmlm.reply.stream", stream)
    for width, shade in ((1280, "light"), (390, "dark")):
        page = visit(addresses[0], width, shade=shade)
        send(page, "Draw, sing and film")
        expect(page.locator("#box textarea")).to_be_enabled(timeout=WAIT)
        chat = page.locator("#chat-0")
        expect(chat.locator("[data-testid=bot] img")).to_have_count(1, timeout=WAIT)
        expect(chat.locator("audio")).to_have_count(1, timeout=WAIT)
        expect(chat.locator("video")).to_have_count(1, timeout=WAIT)
        expect(chat).to_contain_text("a second one was not made")
        size = "document.querySelector('#chat-0 [data-testid=bot] img').naturalWidth"
        page.wait_for_function(f"{size} === 192", timeout=WAIT)
        for kind, seconds in (("audio", 1.5), ("video", 2.0)):
            expect(chat.locator(kind)).to_have_js_property("readyState", 4, timeout=WAIT)
            lasts, played = chat.locator(kind).evaluate(PLAY)
            assert abs(lasts - seconds) < 0.2 and played > 0.2
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        shoot(page, f"items-{'wide' if width > 390 else 'narrow'}")
    with page.expect_download() as download:
        page.click("#save-0")
    with zipfile.ZipFile(download.value.path()) as box:
        assert sorted(Path(n).suffix for n in box.namelist()) == [".jsonl", ".mp4", ".png", ".wav"]


def test_where_it_looked(
    addresses: tuple[str, str], visit: Callable[..., Page], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not RUNS:
        stubbed(monkeypatch, " red", 2, 0.0)  # a random model may say nothing at all
    for shade in SHADES:
        page = visit(addresses[0], shade=shade)
        if page.locator("#examples .thumbnail-item").count() > 1:
            shoot(page, f"start-{shade}")
            page.locator("#examples .thumbnail-item").nth(1).click()
            expect(page.locator("#box textarea")).not_to_have_value("", timeout=WAIT)
            page.press("#box textarea", "Enter")
        else:
            attach(page, picture(tmp_path / "red.png"))
            send(page, "What is this?")
        finished(page)
        went_in = page.locator("#seen-0 .mm-items img").get_attribute("src")
        shown = page.locator("#looked-0 img")
        page.click("#look-0")
        expect(shown).to_have_count(1, timeout=WAIT)
        expect(page.locator("#looked-0")).to_contain_text("by gradient")
        shoot(page, f"chat-{shade}")
        by_gradient = shown.get_attribute("src")
        page.locator(".mm-lookbar label").filter(has_text="attention").click()
        page.click("#look-0")
        expect(page.locator("#looked-0")).to_contain_text("by attention", timeout=WAIT)
        assert len({went_in, by_gradient, shown.get_attribute("src")}) == 3


def clip(folder: Path) -> Path:
    """Two seconds in which a bright square goes over the dark."""
    frames = np.zeros((16, 64, 96, 3), np.uint8)
    for i, frame in enumerate(frames):
        frame[20:44, 4 * i : 4 * i + 24] = 250
    return save_item(Video(frames, 8.0), folder / "clip")


def test_a_clip_is_seen_frame_by_frame(
    addresses: tuple[str, str], assembly: Assembly, visit: Callable[..., Page], tmp_path: Path
) -> None:
    if RUNS:
        pytest.skip("that model may take no clips")
    file, page = clip(tmp_path), visit(addresses[0])
    (placed,) = assembly.processor(Sample((Turn("user", (Video(file), "\nWhat moves?")),)), reply=True).placed
    attach(page, file)
    send(page, "What moves?")
    finished(page)
    expect(page.locator("#chat-0 video")).to_have_count(1)
    frames = page.locator("#seen-0 .mm-items img")
    expect(frames).to_have_count(len(placed.units), timeout=WAIT)
    assert len({f.get_attribute("src") for f in frames.all()}) == len(placed.units) > 1  # each is another moment
    told = page.locator("#seen-0 .mm-items figcaption")
    expect(told).to_contain_text(f"video 1: {placed.slots} tokens")
    expect(told).to_contain_text(f"{len(placed.units)} units of ")
    expect(page.locator("#seen-0 .mm-fold")).to_have_text(f"[video: {placed.slots} tokens]")


def test_a_clip_for_a_model_that_takes_none(
    mounted: Callable[..., str], visit: Callable[..., Page], tmp_path: Path
) -> None:
    """Dropped, it is refused by the box; given another way, by the server."""
    page = visit(mounted([assemble(tiny("mlp", tmp_path))]))
    page.set_input_files("#box input[type=file]", str(clip(tmp_path)))
    expect(page.locator(".toast-body")).to_contain_text("clip.mp4. Only image allowed", timeout=WAIT)
    expect(page.locator("#box .thumbnail-item")).to_have_count(0)
    page.get_by_role("tab", name="Many at once").click()
    page.set_input_files("#batch-files input[type=file]", str(tmp_path / "clip.mp4"))
    expect(page.locator("#batch-files")).to_contain_text("clip", timeout=WAIT)
    page.fill("#batch-question textarea", "What moves?")
    page.click("#batch-run")
    refused = "clip.mp4: this model takes pictures, and this is a video clip"
    expect(page.locator("#batch-rows .mm-bad")).to_have_text(refused, timeout=WAIT)


def test_the_settings_are_what_the_model_is_asked_with(
    addresses: tuple[str, str], visit: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Decoding] = []
    said: list[Reply] = []
    stream = reply.stream

    def watched(assembly: Assembly, sample: Sample, decoding: Decoding) -> Iterator[Reply]:
        asked.append(decoding)
        for said[:] in ([each] for each in stream(assembly, sample, decoding)):
            yield said[0]

    monkeypatch.setattr("mmlm.reply.stream", watched)
    page = visit(addresses[0])
    page.get_by_text("Settings", exact=True).first.click()
    system = page.get_by_label("System prompt")
    system.fill("Answer like a pirate.")
    for name, value in (("Temperature", "0.8"), ("Top-p", "0.65"), ("Length", "5")):
        page.locator(f"#settings .block:has-text('{name}') input[type=number]").fill(value)
        page.keyboard.press("Tab")
    page.get_by_label("Seed").fill("7")
    page.keyboard.press("Tab")
    send(page, "Who are you?")
    finished(page)
    assert asked == [Decoding(5, 0.8, 0.65, seed=7)]
    expect(page.locator("#seen-0 .mm-prompt")).to_contain_text("Answer like a pirate.", timeout=WAIT)
    told = page.locator("#seen-0 .mm-list")
    shown = ("temperature0.8", "top-p0.65", "seed7", f"length{len(said[0].ids)} of at most 5 tokens")
    for text in shown:
        expect(told).to_contain_text(text)
    assert len(said[0].ids) <= 5


def test_a_token_tells_its_probability(
    addresses: tuple[str, str], visit: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stream(assembly: Assembly, sample: Sample, decoding: Decoding) -> Iterator[Reply]:
        ids = [i for w in ("sea", "horse") for i in assembly.vocabulary.encode(w)[:1]] * 20
        yield Reply(assembly.vocabulary.decode(ids), tuple(ids), (-0.25, -2.5) * 20, "limit", 3)

    monkeypatch.setattr("mmlm.reply.stream", stream)
    for width in (1280, 390):
        page = visit(addresses[0], width)
        send(page, "What is it?")
        finished(page)
        tokens = page.locator("#seen-0 .mm-tokens > span")
        expect(tokens).to_have_count(40, timeout=WAIT)
        assert shades(page, 0) != shades(page, 1)
        places = tokens.evaluate_all("all => all.map(e => e.getBoundingClientRect().right)")
        for number, told in ((0, "p = 0.779"), (1, "p = 0.082"), (places.index(max(places)), "p = ")):
            assert bubble(page, number) == "none"
            tokens.nth(number).hover()
            assert told in bubble(page, number)
            inside = "e => e.scrollWidth <= e.clientWidth"
            assert page.locator("#seen-0 .mm-tokens").evaluate(inside)  # the last of a line as well


def bubble(page: Page, number: int) -> str:
    """What stands above a token."""
    found = "e => getComputedStyle(e, '::after').content"
    return str(page.locator("#seen-0 .mm-tokens > span").nth(number).evaluate(found))


def shades(page: Page, number: int) -> str:
    found = "e => getComputedStyle(e).backgroundColor"
    return str(page.locator("#seen-0 .mm-tokens > span").nth(number).evaluate(found))


def test_answers_grow_and_stop_at_once(
    addresses: tuple[str, str], visit: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = stubbed(monkeypatch, "word ", 600, 0.05)
    page = visit(addresses[0])
    send(page, "Talk")
    expect(answers(page)).to_contain_text("word word word", timeout=WAIT)
    few = answers(page).inner_text().count("word")
    page.wait_for_timeout(700)
    assert answers(page).inner_text().count("word") > few
    page.click("#box .stop-button")
    expect(page.locator("#box textarea")).to_be_enabled(timeout=WAIT)
    stopped = len(made)
    page.wait_for_timeout(700)
    assert len(made) == stopped < 600
    assert few < answers(page).inner_text().count("word") <= stopped
    monkeypatch.undo()
    send(page, "Again")
    finished(page, 2)


def test_a_turn_is_edited_and_tried_again(
    addresses: tuple[str, str], visit: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, int]] = []

    def stream(assembly: Assembly, sample: Sample, decoding: Decoding) -> Iterator[Reply]:
        asked.append((sample.turns[-1].text, decoding.seed))
        yield Reply(f"answer {len(asked)}", (65,), (-0.5,), "end", 3)

    monkeypatch.setattr("mmlm.reply.stream", stream)
    page = visit(addresses[0])
    for n, text in enumerate(("First", "Second"), start=1):
        send(page, text)
        finished(page, n)
    page.locator("#chat-0 button[title=Retry], #chat-0 button[aria-label=Retry]").last.click()
    expect(answers(page).last).to_contain_text("answer 3", timeout=WAIT)
    page.wait_for_timeout(500)
    page.locator("#chat-0 button[title=Edit], #chat-0 button[aria-label=Edit]").first.click()
    page.locator("#chat-0 textarea").fill("First, in other words")
    page.locator("#chat-0 button[title=Submit], #chat-0 button[aria-label=Submit]").first.click()
    expect(answers(page)).to_have_count(1, timeout=WAIT)
    expect(answers(page)).to_contain_text("answer 4", timeout=WAIT)
    assert asked == [("First", 0), ("Second", 0), ("Second", 1), ("First, in other words", 0)]


def test_a_broken_file_is_a_sentence(addresses: tuple[str, str], visit: Callable[..., Page], tmp_path: Path) -> None:
    page = visit(addresses[0])
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"<svg onload=alert(1)>")
    attach(page, broken)
    send(page, "What is this?")
    expect(page.locator(".toast-body")).to_contain_text("broken.png: expected a JPEG", timeout=WAIT)
    assert str(tmp_path) not in page.locator(".toast-body").inner_text()
    assert page.locator("#box textarea").input_value() == "What is this?"
    expect(answers(page)).to_have_count(0)
    shoot(page, "broken-file")


def test_what_a_model_says_is_shown_as_text(
    addresses: tuple[str, str], visit: Callable[..., Page], monkeypatch: pytest.MonkeyPatch
) -> None:
    stubbed(monkeypatch, HOSTILE, 1, 0.0)
    page = visit(addresses[0])
    title = page.title()
    send(page, HOSTILE)
    finished(page)
    expect(page.locator("#seen-0 .mm-tokens")).to_be_visible(timeout=WAIT)
    for said in (answers(page), page.locator("#chat-0 [data-testid=user]"), page.locator("#seen-0 .mm-prompt")):
        assert HOSTILE in said.inner_text()
        assert said.locator("img, script, b, strong").count() == 0
    assert page.title() == title


def test_two_people_do_not_meet(addresses: tuple[str, str], visit: Callable[..., Page], tmp_path: Path) -> None:
    first, second = visit(addresses[0]), visit(addresses[0])
    attach(first, picture(tmp_path / "red.png"))
    send(first, "The secret of the first")
    send(second, "Hello")
    finished(first)
    finished(second)
    assert "secret" not in second.locator("body").inner_text()
    assert second.locator("#chat-0 img").count() == 0
    first.reload()
    first.wait_for_selector("#box textarea", timeout=WAIT)
    first.wait_for_timeout(500)
    assert "secret" not in first.locator("body").inner_text()


def test_two_models_side_by_side(addresses: tuple[str, str], visit: Callable[..., Page], tmp_path: Path) -> None:
    page = visit(addresses[1])
    if page.locator("#examples .thumbnail-item").count() > 4:
        page.locator("#examples .thumbnail-item").nth(4).click()
        expect(page.locator("#box textarea")).not_to_have_value("", timeout=WAIT)
        page.press("#box textarea", "Enter")
    else:
        attach(page, picture(tmp_path / "red.png"))
        send(page, "What is this?")
    for side in (0, 1):
        finished(page, 1, side)
        expect(page.locator(f"#seen-{side} .mm-facts")).to_be_visible(timeout=WAIT)
    left, right = (page.locator(f"#chat-{i}").bounding_box() for i in (0, 1))
    assert left and right and left["x"] + left["width"] <= right["x"] and left["y"] == right["y"]
    shoot(page, "side-by-side")


def test_a_conversation_is_saved_and_loaded(
    addresses: tuple[str, str],
    assembly: Assembly,
    visit: Callable[..., Page],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What is saved is a sample that mmlm's reader gives, and that a model learns from."""
    stubbed(monkeypatch, " red", 2, 0.0)
    page = visit(addresses[0])
    attach(page, picture(tmp_path / "red.png"))
    send(page, "What is this?")
    finished(page)
    with page.expect_download() as download:
        page.click("#save-0")
    box = tmp_path / "conversation.zip"
    download.value.save_as(box)
    with zipfile.ZipFile(box) as files:
        files.extractall(tmp_path / "out")
    sample = Messages(tmp_path / "out" / "conversation.jsonl")[0]
    assert [(t.role, t.text) for t in sample.turns] == [("user", "\nWhat is this?"), ("assistant", " red red")]
    assert [digest(i) for i in sample.items] == [digest(Image(tmp_path / "red.png"))]
    assert assembly.processor(sample).learned > 0
    page.click("#clear")
    expect(answers(page)).to_have_count(0, timeout=WAIT)
    with page.expect_file_chooser() as chooser:
        page.click("#load")
    chooser.value.set_files(str(box))
    expect(answers(page)).to_contain_text("red red", timeout=WAIT)
    expect(page.locator("#chat-0 img")).to_have_count(1)


@pytest.mark.parametrize("shade", SHADES)
def test_a_narrow_screen(shade: str, addresses: tuple[str, str], visit: Callable[..., Page], tmp_path: Path) -> None:
    page = visit(addresses[0], width=390, height=844, shade=shade)
    attach(page, picture(tmp_path / "red.png"))
    send(page, "What is this?")
    finished(page)
    expect(page.locator("#seen-0 .mm-facts")).to_be_visible(timeout=WAIT)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    for part in ("#chat-0", "#box", "#seen-0"):
        box = page.locator(part).bounding_box()
        assert box and box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["width"] > 300
    shoot(page, f"narrow-{shade}")
    page.get_by_role("tab", name="Many at once").click()
    expect(page.locator("#batch-run")).to_be_visible(timeout=WAIT)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    shoot(page, f"narrow-many-{shade}")
