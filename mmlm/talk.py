"""One reply on the command line, and a chat in the terminal."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from mmlm.assemble import Assembly
from mmlm.errors import InputError
from mmlm.media.saving import save_item
from mmlm.reply import Decoding, Reply, reply, stream, usual
from mmlm.sample import ITEMS, Item, Modality, Part, Sample, Turn
from mmlm.training.readers.captions import Captions
from mmlm.training.readers.source import SUFFIXES
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
    limit: int | None,
    temperature: float,
    top_p: float,
    most: int = 4,
    keep: Path | None = None,
    index: Path | None = None,
) -> str:
    """One reply to items and a text; items that it holds, at most `most`, are written into the folder `keep`, and found in
    `index`."""
    parts: list[Part] = [item(m, p) for m, p in items]
    assembly = opened(run, index)
    sample = Sample((Turn("user", (*parts, gap(parts) + text)),), id="reply", origin="command line")
    decoding = _decoding(assembly, limit, temperature, top_p, most)
    said = reply(assembly, [sample], decoding)[0]
    return "\n".join([*_told(said.parts, keep, 0), *said.notes]) if said.items or said.notes else said.text


def _decoding(assembly: Assembly, limit: int | None, temperature: float, top_p: float, most: int) -> Decoding:
    return Decoding(limit or usual(assembly.processor.length), temperature, top_p, items=most)


def opened(run: Path, index: Path | None = None) -> Assembly:
    """A run to talk to. Its decoders that find items get those of `index`, a folder or COCO captions. Raises InputError where
    there is nothing in it, or none that finds."""
    if index is None:
        return load_run(run)
    if not index.exists():
        raise InputError(
            f"--index {index}: there is no such file or folder; expected a folder of items, or COCO captions"
        )
    assembly = load_run(run)
    finders = {n: w.decoder for n, w in assembly.model.ways_out.items() if w.decoder.eyes is not None}
    if not finders:
        has = ", ".join(assembly.model.ways_out) or "text alone"
        raise InputError(f"--index {index}: nothing in {run} finds items (a decoder retrieval would); it says {has}")
    for name, decoder in finders.items():
        try:
            items = _captioned(index) if index.is_file() else _inside(index, decoder.modality)
            if not (fitting := [i for i in items if i.modality == decoder.modality]):
                raise InputError(f"it holds no {decoder.modality}, which the output {name!r} is to find")
            decoder.fill(fitting)
        except InputError as e:
            raise InputError(f"--index {index}: expected a folder of items, or COCO captions; {e}") from e
    return assembly


def _inside(folder: Path, modality: Modality) -> list[Item]:
    """The items of a modality in a folder and below, by the names of their files."""
    files = sorted(p for p in folder.rglob("*") if SUFFIXES.get(p.suffix[1:].lower()) == modality and p.is_file())
    return [ITEMS[modality](p) for p in files]


def _captioned(file: Path) -> list[Item]:
    """The pictures of COCO captions, each with its first caption where it has one."""
    reader = Captions(file, per="image")
    samples = [reader[i] for i in range(len(reader))]
    return [replace(s.items[0], caption=s.turns[1].text if len(s.turns) > 1 else "") for s in samples]


def _told(parts: Sequence[Part], keep: Path | None, before: int) -> list[str]:
    """What is said as lines; items are named by their files in `keep`, where they are numbered from `before` on."""
    lines = []
    for part in parts:
        if isinstance(part, str):
            lines.append(part)
        elif keep is None and isinstance(part.source, Path):  # found, not made
            lines.append(f"[{part.modality}: {part.source}]")
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
    limit: int | None,
    temperature: float,
    top_p: float,
    most: int = 4,
    keep: Path | None = None,
    index: Path | None = None,
    read: Callable[[str], str] = input,
    write: Callable[[str], object] = sys.stdout.write,
) -> None:
    """Talk to a run until /quit or the end of the input; items that it says are written into the folder `keep`, and found
    in `index`."""
    assembly = opened(run, index)
    decoding = _decoding(assembly, limit, temperature, top_p, most)
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
