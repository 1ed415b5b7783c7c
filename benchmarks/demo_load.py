"""The page and the service of a run under many clients at once, and their memory over many turns.

python benchmarks/demo_load.py [RUN] [--pictures FOLDER] [--clients N ...] [--turns N]

Without a run, a tiny system is made on the spot; without a folder of pictures they are drawn. The server has a process of its
own, whose memory is what is measured; features that it keeps on purpose (256 MiB at most) are bounded to few, so that they are
no growth.
Exits with 1 if a client gets neither an answer nor a clear "busy", or if memory grows by more than GROWTH after the warm-up.
"""

import argparse
import base64
import http.client
import io
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("OMP_NUM_THREADS", "1")

from fastapi import FastAPI
from gradio_client import Client, handle_file
from PIL import Image

from mmlm.assemble import assemble
from mmlm.columns import aligned
from mmlm.config import load
from mmlm.demo.app import mount
from mmlm.demo.engine import Engine
from mmlm.demo.links import Links
from mmlm.demo.serve import BODY, SECONDS, application
from mmlm.demo.server import Door
from mmlm.training.run import load_run

KINDS = ("page", "service")
WARM_UP, STAY = 20, 4  # turns before memory is looked at; turns after which a person leaves
TOKENS, PATIENCE = 8, 600.0
GROWTH = 64  # MiB
FEATURES = 4 << 20  # bytes; full before the warm-up ends
Turn = Callable[[Path], str]  # asks about a picture; "answered", "busy", or "failed"


def host(kind: str, run: Path | None, line: Connection) -> None:
    """Serve until the process is ended; tells the address."""
    logging.disable(logging.CRITICAL)
    engine = Engine(load_run(run) if run else assemble(load("llava-1.5-7b", ["scale=tiny"])), features=FEATURES)
    with tempfile.TemporaryDirectory() as folder, Door("127.0.0.1", 0) as door:
        app: Any = application(engine, Links())
        if kind == "page":
            app = FastAPI()
            mount(app, [engine], Path(folder))
        line.send((door.address, engine.name))
        door.serve(door.guard(app, body=BODY, seconds=SECONDS))


@contextmanager
def hosted(kind: str, run: Path | None) -> Iterator[tuple[int, Callable[[], Turn]]]:
    """A server in a process of its own: the process, and what makes a new client of it."""
    spawn = multiprocessing.get_context("spawn")
    here, there = spawn.Pipe()
    process = spawn.Process(target=host, args=(kind, run, there), daemon=True)
    process.start()
    there.close()
    try:
        address, model = here.recv()
        yield process.pid or 0, partial(visitor, address) if kind == "page" else partial(program, address, model)
    finally:
        process.terminate()
        process.join()


def visitor(address: str) -> Turn:
    """Somebody at the page, with a conversation that grows, who leaves after STAY turns and comes back as somebody else."""
    client, turns = Client(address, verbose=False, analytics_enabled=False), 0

    def turn(picture: Path) -> str:
        nonlocal client, turns
        if turns == STAY:
            client.close()
            client, turns = Client(address, verbose=False, analytics_enabled=False), 0
        turns += 1
        client.predict({"text": "What is it?", "files": [handle_file(picture)]}, api_name="/ask")
        last = client.predict("", 0.0, 1.0, TOKENS, 0, api_name="/answer")[-1]
        told = "".join(part.get("text", "") for part in last["content"])
        if told.startswith("No answer: the model is busy"):
            return "busy"
        return "answered" if last["role"] == "assistant" and not told.startswith("No answer: ") else "failed"

    return turn


def program(address: str, model: str) -> Turn:
    """A program that asks the service."""

    def turn(picture: Path) -> str:
        kind = "jpeg" if picture.suffix == ".jpg" else "png"
        url = f"data:image/{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"
        parts = [{"type": "image_url", "image_url": {"url": url}}, {"type": "text", "text": "What is it?"}]
        body = {"model": model, "max_tokens": TOKENS, "messages": [{"role": "user", "content": parts}]}
        line = http.client.HTTPConnection(urlsplit(address).netloc, timeout=PATIENCE)
        try:
            line.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
            return {200: "answered", 429: "busy"}.get(line.getresponse().status, "failed")
        finally:
            line.close()

    return turn


def pictures(folder: Path, real: Sequence[Path]) -> Iterator[Path]:
    """Pictures without end: the `real` ones again and again, or drawn ones, none like another."""
    while real:
        yield from real
    number = 0
    while True:
        data = io.BytesIO()
        Image.new("RGB", (96, 64), (number % 256, number // 256 % 256, 99)).save(data, "PNG")
        (path := folder / f"{number}.png").write_bytes(data.getvalue())
        yield path
        number += 1


def at_once(enter: Callable[[], Turn], count: int, shown: Iterator[Path]) -> Counter[str]:
    """What so many clients get that ask at the same moment."""
    told, start = Counter[str](), threading.Barrier(count)

    def ask(turn: Turn, picture: Path) -> None:
        start.wait()
        try:
            result = turn(picture)
        except Exception as e:  # noqa: BLE001 - whatever a client may meet with counts
            result = "failed"
            print(f"failed: {type(e).__name__}: {e}", file=sys.stderr)
        told[result] += 1

    people = [threading.Thread(target=ask, args=(enter(), next(shown))) for _ in range(count)]
    for person in people:
        person.start()
    for person in people:
        person.join()
    return told


def resident(process: int) -> int:
    """MiB of memory that a process holds."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def level(turn: Turn, process: int, turns: int, shown: Iterator[Path]) -> tuple[list[int], int]:
    """Memory after the warm-up, halfway and after the last turn; how many turns had no answer."""
    marks, held, failed = (WARM_UP, (WARM_UP + turns) // 2, turns), list[int](), 0
    for number in range(1, turns + 1):
        failed += turn(next(shown)) != "answered"
        if number in marks:
            held.append(resident(process))
    return held, failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", nargs="?", type=Path, metavar="RUN")
    parser.add_argument("--pictures", type=Path, metavar="FOLDER")
    parser.add_argument("--kind", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--clients", nargs="+", type=int, default=[8, 24])
    parser.add_argument("--turns", type=int, default=200)
    given = parser.parse_args()
    real = sorted(p for p in given.pictures.rglob("*") if p.suffix in (".jpg", ".png")) if given.pictures else []
    if given.pictures and not real:
        parser.error(f"--pictures: expected a folder with JPEG or PNG files, got {given.pictures}")
    if given.turns <= WARM_UP:
        parser.error(f"--turns: expected more than the {WARM_UP} of the warm-up")
    wrong = False
    with tempfile.TemporaryDirectory() as folder:
        shown = pictures(Path(folder), real)
        for kind in given.kind:
            with hosted(kind, given.run) as (process, enter):
                crowd: list[tuple[str, ...]] = [(kind, "clients", "answered", "busy", "failed")]
                for count in given.clients:
                    told = at_once(enter, count, shown)
                    wrong |= told["failed"] > 0
                    crowd.append(("", str(count), *(str(told[k]) for k in ("answered", "busy", "failed"))))
                print("\n".join(aligned(crowd, words=[0])), flush=True)
                held, failed = level(enter(), process, given.turns, shown)
                grown = held[-1] - held[0]
                wrong |= failed > 0 or grown > GROWTH
                marks = (f"MiB at {n}" for n in (WARM_UP, (WARM_UP + given.turns) // 2, given.turns))
                memory = [(kind, "turns", "failed", *marks, "growth")]
                memory.append(("", str(given.turns), str(failed), *map(str, held), f"{grown:+d}"))
                print("\n".join(aligned(memory, words=[0])), flush=True)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
