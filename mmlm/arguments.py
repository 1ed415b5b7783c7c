"""What the command line understands: the commands with their arguments, as argparse reads them."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mmlm import __version__

Add = Callable[..., Any]


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments of one command, whose name is in `command` ("data check"). Exits with 2 where they make no sense.

    Overrides may stand behind options too, where argparse by itself does not look for them.
    """
    arguments, rest = _parser().parse_known_args(argv)
    stray = [r for r in rest if r.startswith("-") or not ("=" in r or r.startswith("~"))]
    if rest and (stray or not hasattr(arguments, "overrides")):
        arguments.parser.error(f"unrecognized arguments: {' '.join(stray or rest)}")
    if rest:
        arguments.overrides += rest
    return arguments


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("mmlm", description="Large multimodal models from configs.", allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"mmlm {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    add = _adder(commands, "list", "name what there is: systems, encoders, aligners, ..., tasks, metrics")
    add("kind", nargs="?", metavar="KIND", help="only this kind")

    _config(_adder(commands, "plan", "parts, parameters, tokens, memory and FLOPs of a config; no download"))

    add = _adder(commands, "train", "train the stages of a config; goes on where RUN was interrupted", table=False)
    _config(add)
    add("--out", type=Path, required=True, metavar="RUN", help="folder of the run")
    add("--stage", metavar="NAME", help="only this stage")

    _evaluation(_adder(commands, "eval", "put the questions of a task to a run and score its answers"))
    _comparing(
        _adder(commands, "compare", "the difference of two runs on the same questions, from their recorded answers")
    )
    _talking(commands)

    add = _adder(commands, "inspect", "what a run, a checkpoint or a weights folder holds")
    add("run_folder", type=Path, metavar="RUN")

    _importing(
        _adder(commands, "import", "make a run of a Hugging Face folder, or of what a system's authors published")
    )

    _exporting(_adder(commands, "export", "write a run as a folder that plain transformers loads, and check it"))

    _data(
        commands.add_parser(
            "data", help="look at data before training; make the demonstration sets", allow_abbrev=False
        )
    )

    add = _adder(commands, "check-part", "hold a part of your own against its contract")
    add("target", metavar="module:Class")
    add("--kind", help="encoders, aligners, ...; found out where it is not given")
    add("--weights", metavar="NAME", help="whose shape it takes, if it asks for weights: a folder, or a known hub name")

    add = _adder(commands, "quickstart", "from nothing to a small trained model, in one command")
    add(
        "--config",
        default="llava",
        choices=("llava", "blip2", "flamingo", "gill", "draw"),
        help="which system (default: %(default)s)",
    )
    add("--out", type=Path, default=Path("quickstart"), metavar="DIR", help="where to (default: %(default)s)")
    add(
        "--weights",
        default="package",
        choices=("package", "hub"),
        help="where weights come from (default: %(default)s)",
    )
    about = "seed of everything random (default: 0); of several the scores and their median are shown"
    add("--seed", type=int, nargs="+", default=[0], metavar="N", help=about)

    _configs(
        commands.add_parser(
            "config", help="the config's schema, a resolved config, a part's options", allow_abbrev=False
        )
    )
    return parser


def _adder(commands: Any, command: str, about: str, table: bool = True) -> Add:
    """Open a command; gives its `add_argument`. A command that prints a table can print JSON too."""
    name = command.rpartition(" ")[2]
    parser = commands.add_parser(name, help=about, description=f"{about[0].upper()}{about[1:]}.", allow_abbrev=False)
    parser.set_defaults(command=command, parser=parser)
    if table:
        parser.add_argument("--json", action="store_true", help="print JSON in place of a table")
    add: Add = parser.add_argument
    return add


def _config(add: Add) -> None:
    add("config", metavar="CONFIG", help="a YAML file, or the name of a shipped system")
    add("overrides", nargs="*", metavar="key=value", help="key.path=value sets, ~key.path deletes")


def _evaluation(add: Add) -> None:
    add("run_folder", type=Path, metavar="RUN")
    add("--task", required=True, help="name of the task (`mmlm list tasks`)")
    add("--data", type=Path, required=True, metavar="PATH", help="the questions")
    add("--out", type=Path, metavar="FOLDER", help="where results go (default: in RUN)")
    add("--limit", type=_positive, metavar="N", help="ask only N questions")
    add("--batch", type=_positive, default=8, metavar="N", help="questions at a time (default: %(default)s)")
    add("--images", type=Path, metavar="DIR", help="folder that picture paths are relative to")
    add(
        "--control",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="ask the same questions over exchanged pictures too (default: yes)",
    )
    add(
        "--presence",
        metavar="QUESTIONS",
        help="ask whether things are in pictures too, as POPE does: what `mmlm data presence` made, or captions to make "
        "it of, as in captions:FILE.json; of --data with captions in its rows, caption:FILE.jsonl",
    )
    add("--set", type=_pair, nargs="+", action="extend", default=[], metavar="key=value", help="options of the task")
    add("--rescore", action="store_true", help="score the answers of an earlier evaluation again, without a model")


def _comparing(add: Add) -> None:
    add("first", type=Path, metavar="RUN_A", help="a run, or a folder that `mmlm eval` wrote")
    add("second", type=Path, metavar="RUN_B", help="another")
    add("--task", help="the task that both were evaluated on; needed where a run holds several")
    add(
        "--data",
        type=Path,
        metavar="PATH",
        help="the questions, as `mmlm eval` had them; needed where there are several",
    )


def _importing(add: Add) -> None:
    add(
        "source",
        type=Path,
        metavar="SOURCE",
        help="config.json, .safetensors files, tokenizer and processor; with --system, a file or folder of trained parts; "
        "alone, the file of an encoder (imagebind_huge.pth)",
    )
    add("out", type=Path, metavar="RUN", help="folder of the run (of an encoder: of its weights), which must be new")
    add(
        "--system",
        metavar="CONFIG",
        help="the system that SOURCE holds trained parts of, as LLaVA, LAVIS, MiniGPT-4, OpenFlamingo or Otter wrote them: "
        "a YAML file, or the name of a shipped one",
    )
    add("--base", type=Path, metavar="PATH", help="what SOURCE was trained on top of, and what it lacks is taken from")
    add("overrides", nargs="*", metavar="key=value", help="said of --system: key.path=value sets, ~key.path deletes")


def _exporting(add: Add) -> None:
    add("run_folder", type=Path, metavar="RUN")
    add("out", type=Path, metavar="OUT", help="the folder, which must be new")
    add("--to", required=True, choices=("huggingface",), help="for whom")
    add("--lora", default="merge", choices=("merge", "keep"), help="keep: as a PEFT adapter (default: %(default)s)")
    add("--licence", default="unknown", metavar="ID", help="licence in the model card (default: %(default)s)")


def _talking(commands: Any) -> None:
    reply = _adder(commands, "reply", "one reply of a run", table=False)
    chat = _adder(commands, "chat", "talk to a run in the terminal", table=False)
    reply("run_folder", type=Path, metavar="RUN")
    reply("--text", required=True, help="what is said to it")
    for modality in ("image", "audio", "video"):
        reply(
            f"--{modality}",
            dest="items",
            action="append",
            default=[],
            type=lambda path, modality=modality: (modality, Path(path)),
            metavar="PATH",
            help=f"a file with {'an' if modality[0] in 'ia' else 'a'} {modality}; may be given several times, in order",
        )
    chat("run_folder", type=Path, metavar="RUN")
    _showing(_adder(commands, "demo", "a page in the browser, to talk to a run or to two side by side", table=False))
    _serving(_adder(commands, "serve", "answer programs that speak OpenAI's chat completions", table=False))
    for add in (reply, chat):
        add("--limit", type=_positive, metavar="N", help="longest reply in tokens (default: 256 or half the context)")
        add("--temperature", type=float, default=0.0, metavar="F", help="0 takes the likeliest token (default)")
        add("--top-p", type=float, default=1.0, metavar="F", help="draw from the likeliest share F (default: all)")
        add("--most", type=_positive, default=4, metavar="N", help="items of a reply, at most (default: %(default)s)")
        add("--keep", type=Path, metavar="DIR", help="write pictures, sounds and clips that it says into DIR")
        add("--index", type=Path, metavar="PATH", help="what can be found by it: a folder of items, or a captions file")


def _showing(add: Add) -> None:
    add("run_folder", type=Path, metavar="RUN")
    add("second", nargs="?", type=Path, metavar="RUN_B", help="another run, which is asked the same questions")
    _listening(add, 7860)


def _serving(add: Add) -> None:
    add("run_folder", type=Path, metavar="RUN")
    _listening(add, 8000)
    add(
        "--allow-host",
        nargs="+",
        default=[],
        metavar="HOST",
        help="hosts whose pictures may be fetched: example.org, example.org:8443, or http://example.org",
    )


def _listening(add: Add, port: int) -> None:
    add("--host", default="127.0.0.1", help="address to listen at; any but this machine's own asks for --user")
    add("--port", type=_count, default=port, metavar="N", help="port to listen at (default: %(default)s)")
    add("--user", metavar="NAME", help="ask for a user and a password; the password is in MMLM_PASSWORD")
    add("--password-file", type=Path, metavar="FILE", help="or the password is in this file")
    add("--server-name", nargs="+", default=[], metavar="NAME", help="names by which others call this machine")


def _data(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _config(_adder(commands, "data check", "read all data of a config and list every fault"))
    add = _adder(commands, "data stamps", "make the set of stamps: pictures, sounds, captions, questions")
    add("folder", type=Path, metavar="DIR")
    add("--source", type=Path, metavar="P", help="the package or folder with the stamps; fetched where it is not given")
    add = _adder(commands, "data scenes", "draw the set of scenes: shapes, captions, questions")
    add("folder", type=Path, metavar="DIR")
    add("--count", type=_positive, default=600, metavar="N", help="how many scenes (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="which scenes (default: %(default)s)")
    _making_sure(commands)


def _making_sure(commands: Any) -> None:
    naming = 'reader:path, task:path, "{reader: NAME, path: PATH, option: ...}", or a config'
    add = _adder(commands, "data overlap", "find the pictures and texts of one set in another")
    add("train", metavar="TRAIN", help=f"{naming} (its training data)")
    add("evaluation", metavar="EVAL", help=f"{naming} (its validation data)")
    add("--out", type=Path, metavar="FILE", help="list every record that stands in both, as JSON Lines")
    add("--ngram", type=_positive, default=13, metavar="N", help="words of a phrase (default: %(default)s)")
    add("--workers", type=_count, default=0, metavar="N", help="processes that decode pictures (default: this one)")
    add = _adder(commands, "data presence", "make yes-or-no questions about what captioned pictures show, as POPE does")
    add("captions", metavar="CAPTIONS", help=f"{naming} (its training data)")
    add("out", type=Path, metavar="DIR", help="where the questions and their pictures go")
    add(
        "--words", type=Path, metavar="FILE", help="the things, a line each: name, synonym, ...; else nouns of captions"
    )
    add("--limit", type=_positive, default=500, metavar="N", help="how many pictures (default: %(default)s)")
    add("--each", type=_positive, default=3, metavar="N", help="things asked about each picture (default: %(default)s)")
    add("--least", type=_positive, default=5, metavar="N", help="pictures that a noun stands in (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="which pictures and things (default: %(default)s)")


def _configs(parser: argparse.ArgumentParser) -> None:
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _adder(commands, "config schema", "the JSON schema of a config, for editors", table=False)
    _config(_adder(commands, "config show", "the config as it is after base, overrides and defaults"))
    add = _adder(commands, "config options", "what a config may say of one part")
    add("kind", metavar="KIND", help="encoders, aligners, backbones, grafts, readers, ...")
    add("name", metavar="NAME", help="name of the part, or module:Class")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number from 1 on, got {text!r}")
    return int(text)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number from 0 on, got {text!r}")
    return int(text)


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"expected key=value, got {text!r}")
    return key, value
