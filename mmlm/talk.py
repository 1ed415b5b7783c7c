"""One reply on the command line, and a chat in the terminal."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from mmlm.assemble import Assembly
from mmlm.errors import InputError
from mmlm.media.saving import save_item
from mmlm.reply import Decoding, Reply, reply, stream
from mmlm.sample import ITEMS, Item, Modality, Part, Sample, Turn
from mmlm.training.run import load_run

_HELP = "/image PATH, /audio PATH, /video PATH attach an item to the next message; /clear starts over; /quit ends"


def item(modality: Modality, path: Path) -> Item:
    """An item from a file; InputError where there is none."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file; expected a {modality}")
    return ITEMS[modality](path)


def once(
    run: Path,
    text: str,
    items: Sequence[tuple[Modality, Path]],
    limit: int,
    temperature: float,
    top_p: float,
    keep: Path | None = None,
) -> str:
    """One reply to items and a text; items that it holds are written into the folder `keep`."""
    parts: list[Part] = [item(m, p) for m, p in items]
    assembly = load_run(run)
    sample = Sample((Turn("user", (*parts, gap(parts) + text)),), id="reply", origin="command line")
    said = reply(assembly, [sample], Decoding(limit, temperature, top_p))[0]
    return "\n".join([*_told(said.parts, keep, 0), *said.notes]) if said.items or said.notes else said.text


def _told(parts: Sequence[Part], keep: Path | None, before: int) -> list[str]:
    """What is said as lines; items are named by their files in `keep`, where they are numbered from `before` on."""
    lines = []
    for part in parts:
        if isinstance(part, str):
            lines.append(part)
        elif keep is None:
            lines.append(f"[{part.modality}: made, and not kept; --keep DIR keeps it]")
        else:
            keep.mkdir(parents=True, exist_ok=True)
            lines.append(f"[{part.modality}: {save_item(part, keep / f'{before:03d}')}]")
            before += 1
    return lines


def gap(items: Sequence[Part]) -> str:
    """LLaVA's convention, which its data keep: a line break between the items and the question."""
    return "\n" if items else ""


def chat(
    run: Path,
    limit: int,
    temperature: float,
    top_p: float,
    keep: Path | None = None,
    read: Callable[[str], str] = input,
    write: Callable[[str], object] = sys.stdout.write,
) -> None:
    """Talk to a run until /quit or the end of the input; items that it says are written into the folder `keep`."""
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
                made = sum(len(t.items) for t in turns if t.role == "assistant")
                for line in (*_told(said.items, keep, made), *said.notes):
                    write(f"{line}\n")
                turns, waiting = [*turns, asked, Turn("assistant", said.parts)], []
        except InputError as e:
            write(f"{e}\n")


def _stream(assembly: Assembly, sample: Sample, decoding: Decoding, write: Callable[[str], object]) -> Reply:
    """Write the text of a reply as it comes; gives the whole reply."""
    shown = ""
    for said in stream(assembly, sample, decoding):
        write(said.text[len(shown) :])
        shown = said.text
    write("\n")
    return said
