"""One reply on the command line, and a chat in the terminal."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mmlm.assemble import Assembly
from mmlm.errors import InputError
from mmlm.reply import Decoding, reply, stream
from mmlm.sample import ITEMS, Item, Modality, Part, Sample, Turn
from mmlm.training.run import load_run

_HELP = "/image PATH, /audio PATH, /video PATH attach an item to the next message; /clear starts over; /quit ends"


def item(modality: Modality, path: Path) -> Item:
    """An item from a file; InputError where there is none."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; expected a {modality}")
    return ITEMS[modality](path)


def once(
    run: Path, text: str, items: Sequence[tuple[Modality, Path]], limit: int, temperature: float, top_p: float
) -> str:
    """One reply to items and a text."""
    parts: list[Part] = [item(m, p) for m, p in items]
    assembly = load_run(run)
    sample = Sample((Turn("user", (*parts, gap(parts) + text)),), id="reply", origin="command line")
    return reply(assembly, [sample], Decoding(limit, temperature, top_p))[0].text


def gap(items: Sequence[Part]) -> str:
    """LLaVA's convention, which its data keep: a line break between the items and the question."""
    return "\n" if items else ""


def chat(
    run: Path,
    limit: int,
    temperature: float,
    top_p: float,
    read: Callable[[str], str] = input,
    write: Callable[[str], object] = sys.stdout.write,
) -> None:
    """Talk to a run until /quit or the end of the input."""
    assembly, decoding = load_run(run), Decoding(limit, temperature, top_p)
    turns: list[Turn] = []
    waiting: list[Part] = []
    write(_HELP + "\n")
    while True:
        try:
            line = read("> ")
        except EOFError:
            return
        command, _, rest = line.partition(" ")
        if command == "/quit":
            return
        try:
            if command == "/clear":
                turns, waiting = [], []
            elif command.startswith("/") and command[1:] in ITEMS:
                waiting.append(item(command[1:], Path(rest).expanduser()))  # type: ignore[arg-type]
            elif command.startswith("/"):
                write(_HELP + "\n")
            elif line.strip():
                asked = Turn("user", (*waiting, gap(waiting) + line))
                said = _stream(assembly, Sample((*turns, asked), origin="chat"), decoding, write)
                turns, waiting = [*turns, asked, Turn("assistant", (said,))], []
        except InputError as e:
            write(f"{e}\n")


def _stream(assembly: Assembly, sample: Sample, decoding: Decoding, write: Callable[[str], object]) -> str:
    """Write the reply as it comes; gives the whole of it."""
    shown = ""
    for said in stream(assembly, sample, decoding):
        write(said.text[len(shown) :])
        shown = said.text
    write("\n")
    return shown
