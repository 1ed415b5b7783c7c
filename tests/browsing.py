"""What the tests in a browser share: how a person uses the page, by playwright in Chromium.

Chromium is found on the path, or named by CHROMIUM. With MMLM_DEMO_RUNS (folders of one or two runs, parted by ":") a trained
model answers in place of a tiny random one; with MMLM_SCREENSHOTS (a folder) pictures of the page are written.
"""

import base64
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Pillow

from mmlm.assemble import Assembly

pytest.importorskip("gradio", reason="the page needs gradio (the extra `demo`)")
pytest.importorskip("playwright", reason="the browser test needs playwright (the extra `browser`)")
from playwright.sync_api import Page, expect

from mmlm.demo.app import LIMITS
from mmlm.demo.gallery import Example, examples

MARKS = [
    pytest.mark.browser,
    pytest.mark.slow,
    # Gradio and playwright leave event loops and sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:.*no_silent_downcasting.*"),
    pytest.mark.filterwarnings("ignore:The copy keyword is deprecated"),
]
WAIT = 60_000  # milliseconds
RUNS = [Path(r) for r in os.environ.get("MMLM_DEMO_RUNS", "").split(":") if r]
CARRY = """([name, data, how]) => {
  const carried = new DataTransfer(), bytes = Uint8Array.from(atob(data), c => c.charCodeAt(0));
  carried.items.add(new File([bytes], name, {type: "image/png"}));
  const rest = {bubbles: true, cancelable: true}, box = document.querySelector("#box textarea");
  if (how === "paste") box.dispatchEvent(new ClipboardEvent("paste", {clipboardData: carried, ...rest}));
  else for (const kind of ["dragenter", "dragover", "drop"])
    box.dispatchEvent(new DragEvent(kind, {dataTransfer: carried, ...rest}));
}"""


def chromium() -> str:
    names = ("chromium", "chromium-browser", "google-chrome")
    found = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if not found:
        pytest.skip("there is no Chromium on the path; install it, or name it in CHROMIUM")
    return found


def held_out(assembly: Assembly, folder: Path) -> list[Example]:
    """The run's own held-out pictures; drawn ones for a system that has no run."""
    if RUNS:
        return examples(RUNS[0], assembly.config, folder, {"image"}, LIMITS)
    made = []
    for i in range(4):
        path = picture(folder / "examples" / f"{i}.png", (60 * i, 90, 200 - 40 * i))
        made.append(Example(path, "What colour is it?"))
    return made


def picture(path: Path, colour: tuple[int, int, int] = (200, 40, 40)) -> Path:
    """A square on white."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.full((96, 128, 3), 255, np.uint8)
    pixels[24:72, 40:88] = colour
    Pillow.fromarray(pixels).save(path)
    return path


def attach(page: Page, file: Path) -> None:
    with page.expect_response(lambda r: "/upload?" in r.url, timeout=WAIT):
        page.set_input_files("#box input[type=file]", str(file))
    page.wait_for_timeout(400)  # until the page has put it into the box


def carry(page: Page, file: Path, how: str) -> None:
    """Paste a file into the box, or drop it there."""
    data = base64.b64encode(file.read_bytes()).decode()
    with page.expect_response(lambda r: "/upload?" in r.url, timeout=WAIT):
        page.evaluate(CARRY, [file.name, data, how])


def send(page: Page, text: str) -> None:
    page.fill("#box textarea", text)
    page.press("#box textarea", "Enter")


def answers(page: Page, side: int = 0) -> Any:
    return page.locator(f"#chat-{side} [data-testid=bot]")


def finished(page: Page, count: int = 1, side: int = 0) -> None:
    """Wait until the answer number `count` is whole and the box is open again."""
    expect(answers(page, side)).to_have_count(count, timeout=WAIT)
    expect(page.locator("#box textarea")).to_be_enabled(timeout=WAIT)


def shoot(page: Page, name: str) -> None:
    """A picture of the whole page, where they are asked for."""
    if folder := os.environ.get("MMLM_SCREENSHOTS"):
        Path(folder).mkdir(parents=True, exist_ok=True)
        page.wait_for_timeout(600)
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)
