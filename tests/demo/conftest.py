"""What the tests of the demo share: a tiny system, and a server that runs for as long as a test needs it."""

import gc
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import pytest
from systems import tiny

from mmlm.assemble import Assembly, assemble
from mmlm.training.run import load_run

pytest.importorskip("starlette", reason="the demo needs starlette and uvicorn (the extra `demo`)")
pytest.importorskip("uvicorn", reason="the demo needs starlette and uvicorn (the extra `demo`)")

from starlette.types import ASGIApp

from mmlm.demo.engine import Engine
from mmlm.demo.server import Door


@pytest.fixture(scope="module", autouse=True)
def swept() -> Iterator[None]:
    """What Gradio, its client and its servers leave to the garbage collector is collected here, and not in a test of others."""
    yield
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()


@pytest.fixture(scope="session")
def assembly(tmp_path_factory: pytest.TempPathFactory) -> Assembly:
    """A tiny random system that takes pictures, sound and video."""
    return assemble(tiny("senses", tmp_path_factory.mktemp("senses")))


@contextmanager
def _serving(
    app: ASGIApp,
    *,
    body: int = 1 << 20,
    seconds: float = 5.0,
    secret: tuple[str, str] | None = None,
    names: tuple[str, ...] = (),
) -> Iterator[str]:
    with (
        Door("127.0.0.1", 0, names=names, secret=secret) as door,
        door.background(door.guard(app, body=body, seconds=seconds)) as address,
    ):
        yield address


@pytest.fixture(scope="session")
def serving() -> Callable[..., AbstractContextManager[str]]:
    """Serves an application behind a guard at a port of this machine, in a thread; the context gives its address."""
    return _serving


@pytest.fixture
def served() -> Iterator[Callable[..., str]]:
    """Does so until the end of the test; gives the address."""
    with ExitStack() as stack:
        yield lambda app, **rules: stack.enter_context(_serving(app, **rules))


Mount = Callable[..., str]


@pytest.fixture(scope="module")
def mounted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mount]:
    """Serves the page of some systems until the module is done; gives its address. What mounting writes into the environment is
    taken back."""
    from browsing import held_out
    from fastapi import FastAPI

    from mmlm.demo.app import mount

    before = dict(os.environ)
    folder = tmp_path_factory.mktemp("home")
    shown: list[Any] = []  # the same on every page: a picture that lies there already is not taken again
    with ExitStack() as stack:

        def serve(systems: Sequence[Assembly], names: Sequence[str] = ()) -> str:
            app = FastAPI()
            shown[:] = shown or held_out(systems[0], folder)
            mount(app, [Engine(s) for s in systems], folder, held_out=list(shown), names=names)
            return stack.enter_context(_serving(app, body=8 << 20))

        yield serve
    os.environ.clear()
    os.environ.update(before)
    gc.collect()


@pytest.fixture(scope="module")
def addresses(mounted: Mount, assembly: Assembly) -> tuple[str, str]:
    """A page of one model, and one of two."""
    from browsing import RUNS

    systems = [load_run(r) for r in RUNS] or [assembly]
    names = [f"{systems[i].config.name} ({'first' if i == 0 else 'second'})" for i in (0, -1)]
    return mounted(systems[:1]), mounted([systems[0], systems[-1]], names)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, as long as a module needs it."""
    from browsing import chromium
    from playwright.sync_api import sync_playwright

    fakes = ("device-for-media-stream", "ui-for-media-stream")  # a camera that shows a dot, a microphone that beeps
    flags = ["--no-sandbox", *(f"--use-fake-{f}" for f in fakes)]
    with sync_playwright() as started:
        opened = started.chromium.launch(executable_path=chromium(), args=flags)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Callable[..., Any]]:
    """Opens a page as somebody whom it has never seen; at the end nothing may have been asked of anybody else, and no script
    failed."""
    from browsing import WAIT

    people: list[Any] = []
    strangers: list[str] = []
    faults: list[str] = []

    def opened(address: str, width: int = 1280, height: int = 900, shade: Any = "light") -> Any:
        size: Any = {"width": width, "height": height}
        context = browser.new_context(viewport=size, color_scheme=shade, permissions=["camera", "microphone"])
        people.append(context)
        page = context.new_page()
        own = (address, "data:", "blob:")
        page.on("request", lambda r: None if r.url.startswith(own) else strangers.append(r.url))
        page.on("pageerror", lambda e: faults.append(str(e)))
        page.goto(address)
        page.wait_for_selector("#box textarea", timeout=WAIT)
        page.wait_for_function("document.querySelector('#seen-0 .mm-seen')", timeout=WAIT)
        return page

    yield opened
    for person in people:
        person.close()
    assert not strangers
    assert not faults
