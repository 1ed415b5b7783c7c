"""The command line's door: one function for each command, which asks a room and prints what it says.

Rooms are imported when they are asked, so that `mmlm --help` is quick. Tables go to stdout, progress and log to stderr.
Exit codes: 0 done, 2 bad input (one message), 1 a fault of the program (a traceback), 130 interrupted.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from mmlm.arguments import parse
from mmlm.errors import InputError, missing_extra

if TYPE_CHECKING:
    from mmlm.config import StageConfig
    from mmlm.sample import Sample

Arguments = argparse.Namespace
SYSTEMS, METRICS = "systems", "metrics"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; gives its exit code. A fault of the program is raised."""
    arguments = parse(argv)
    import logging

    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(message)s")
    try:
        code = COMMANDS[arguments.command](arguments)
        sys.stdout.flush()
    except InputError as e:
        print(e, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has seen enough (`mmlm list | head`)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code or 0


def _load(arguments: Arguments) -> Any:
    from mmlm.config import load

    return load(arguments.config, arguments.overrides)


def _show(arguments: Arguments, result: Any) -> None:
    _print(arguments, result.as_json, result.table)


def _print(arguments: Arguments, value: Callable[[], Any], table: Callable[[], str]) -> None:
    import json

    print(json.dumps(value(), indent=2, ensure_ascii=False, default=str) if arguments.json else table())


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    from mmlm.columns import aligned

    return "\n".join(aligned([header, *rows], words=range(len(header))))


def _list(arguments: Arguments) -> None:
    from mmlm import registry

    kinds = (SYSTEMS, *registry.KINDS, METRICS)
    if arguments.kind not in (None, *kinds):
        from mmlm.config.problems import hint

        raise InputError(f"expected one of {', '.join(kinds)}, got {arguments.kind!r}{hint(arguments.kind, kinds)}")
    found = {kind: _entries(kind) for kind in ([arguments.kind] if arguments.kind else kinds)}

    def table() -> str:
        header = ("kind", "name", "target", "from")
        rows = [
            (k, e["name"], said, e["source"])
            for k, entries in found.items()
            for e in entries
            for said in e.get("versions", [e.get("target")])
        ]
        own = "A class of your own works too: write module:Class in place of a name."
        return _table(header, rows) + ("" if arguments.kind in (SYSTEMS, METRICS) else f"\n\n{own}")

    _print(arguments, lambda: found, table)


def _entries(kind: str) -> list[dict[str, Any]]:
    """Name, target and source of everything of a kind; of a metric, in place of a target, the versions that results carry."""
    if kind == SYSTEMS:
        from mmlm.config import shipped

        return [{"name": n, "target": f"{p.parent.name}/{p.name}", "source": "mmlm"} for n, p in shipped().items()]
    if kind == METRICS:
        from mmlm.evaluation import metrics

        return [{"name": n, "versions": list(v), "source": "mmlm"} for n, v in metrics.METRICS.items()]
    from mmlm import registry

    return [{"name": e.name, "target": e.target, "source": e.source} for e in registry.entries(kind).values()]


def _plan(arguments: Arguments) -> None:
    config = _load(arguments)
    from mmlm.plan import plan

    _show(arguments, plan(config))


def _train(arguments: Arguments) -> None:
    config = _load(arguments)
    names = [s.name for s in config.stages]
    if arguments.stage not in (None, *names):
        from mmlm.config.problems import hint

        raise InputError(
            f"--stage: expected {' or '.join(names)}, got {arguments.stage!r}{hint(arguments.stage, names)}"
        )
    from mmlm.training import train

    train(config, arguments.out, arguments.stage)


def _eval(arguments: Arguments) -> None:
    from mmlm.evaluation import command

    a = arguments
    with _bars() as bars:
        asked = (a.run_folder, a.task, a.data, a.out, a.limit, a.batch, a.images, a.control, dict(a.set), a.rescore)
        result = command(*asked, bars, a.presence)
    _show(arguments, result)


def _compare(arguments: Arguments) -> None:
    from mmlm.evaluation import compare

    _show(arguments, compare(arguments.first, arguments.second, arguments.task, arguments.data))


def _reply(arguments: Arguments) -> None:
    from mmlm import talk

    a = arguments
    print(talk.once(a.run_folder, a.text, a.items, a.limit, a.temperature, a.top_p, a.most, a.keep, a.index))


def _chat(arguments: Arguments) -> None:
    from mmlm import talk

    a = arguments
    talk.chat(a.run_folder, a.limit, a.temperature, a.top_p, a.most, a.keep, a.index)


def _demo(arguments: Arguments) -> None:
    try:
        from mmlm.demo.app import launch
    except ModuleNotFoundError as e:
        raise missing_extra(str(e.name), "demo", "mmlm demo") from e
    a = arguments
    runs = [a.run_folder] if a.second is None else [a.run_folder, a.second]
    launch(runs, a.host, a.port, a.user, a.password_file, a.server_name)


def _serve(arguments: Arguments) -> None:
    try:
        from mmlm.demo.serve import serve
    except ModuleNotFoundError as e:
        raise missing_extra(str(e.name), "demo", "mmlm serve") from e
    a = arguments
    serve(a.run_folder, a.host, a.port, a.user, a.password_file, a.server_name, a.allow_host)


def _inspect(arguments: Arguments) -> None:
    from mmlm.inspection import inspect

    _show(arguments, inspect(arguments.run_folder))


def _import(arguments: Arguments) -> None:
    from mmlm.interop import import_encoder, import_folder, import_original

    a = arguments
    if a.system is not None:
        _show(a, import_original(a.source, a.out, a.system, a.overrides, a.base))
        return
    if a.overrides or a.base:
        raise InputError("key=value and --base are said of a --system; a folder of transformers says all by itself")
    _show(a, import_encoder(a.source, a.out) if a.source.is_file() else import_folder(a.source, a.out))


def _export(arguments: Arguments) -> None:
    from mmlm.interop import export_run

    a = arguments
    _show(a, export_run(a.run_folder, a.out, lora=a.lora, licence=a.licence))


def _data_check(arguments: Arguments) -> None:
    config = _load(arguments)
    from mmlm.assemble import processor_of
    from mmlm.data import check
    from mmlm.templates import find

    processor = processor_of(config)

    def measure(sample: "Sample", stage: "StageConfig") -> tuple[int, int]:
        template = find(stage.template) if stage.template else None
        example = processor(sample, template=template, length=stage.length)
        return len(example), example.learned

    _show(arguments, check(config, measure=measure))


def _data_stamps(arguments: Arguments) -> None:
    from mmlm.data import stamps

    _show(arguments, stamps(arguments.folder, arguments.source))


def _data_scenes(arguments: Arguments) -> None:
    from mmlm.data import scenes

    _show(arguments, scenes(arguments.folder, arguments.count, arguments.seed))


def _data_overlap(arguments: Arguments) -> None:
    from mmlm.data import overlap

    a = arguments
    _show(a, overlap(a.train, a.evaluation, out=a.out, size=a.ngram, workers=a.workers))


def _data_presence(arguments: Arguments) -> None:
    from mmlm.evaluation import presence

    a = arguments
    _show(a, presence(a.captions, a.out, words=a.words, limit=a.limit, each=a.each, least=a.least, seed=a.seed))


def _check_part(arguments: Arguments) -> int:
    from mmlm.conformance import check

    result = check(arguments.kind, arguments.target, arguments.weights)
    _show(arguments, result)
    return 0 if result.passed else 2


def _quickstart(arguments: Arguments) -> None:
    from mmlm import quickstart

    a = arguments
    if len(a.seed) == 1:
        _show(a, quickstart.quickstart(a.config, a.out, a.weights, a.seed[0]))
    else:
        _show(a, quickstart.quickstarts(a.config, a.out, a.weights, a.seed))


def _config_schema(arguments: Arguments) -> None:
    import json

    from mmlm.config import json_schema

    print(json.dumps(json_schema(), indent=2))


def _config_show(arguments: Arguments) -> None:
    config = _load(arguments)
    from mmlm.config import dump, tree

    _print(arguments, lambda: tree(config), lambda: dump(config).rstrip("\n"))


def _config_options(arguments: Arguments) -> None:
    from mmlm.config.describing import part_signature

    signed = part_signature(arguments.kind, arguments.name)
    handed = {k: ("needed" if signed.handed[k] else "optional") for k in ("weights", "encoder") if k in signed.handed}
    options = [
        {"name": o.name, "type": o.annotation, "default": None if o.required else o.default, "required": o.required}
        | {"about": o.about}
        for o in signed.options.values()
    ]

    def table() -> str:
        told = [f"{arguments.name} ({signed.target}): {signed.about}", *(f"{k}: {v}" for k, v in handed.items())]
        rows = [(o.name, o.annotation, "" if o.required else repr(o.default), o.about) for o in signed.options.values()]
        return "\n".join([*told, "", _table(("option", "type", "default", "about"), rows) if rows else "no options"])

    about = {"kind": arguments.kind, "name": arguments.name, "target": signed.target, "about": signed.about}
    _print(arguments, lambda: about | {"handed": handed, "options": options}, table)


@contextmanager
def _bars() -> Iterator[Callable[[int, int, str], None]]:
    """Progress bars on stderr, one for each thing that is counted: called with how many of how many are done."""
    from tqdm import tqdm

    bars: dict[str, Any] = {}

    def show(done: int, total: int, what: str) -> None:
        if what not in bars:
            bars[what] = tqdm(total=total, desc=what, file=sys.stderr)
        bars[what].update(done - bars[what].n)

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.close()


COMMANDS: dict[str, Callable[[Arguments], int | None]] = {
    "list": _list,
    "plan": _plan,
    "train": _train,
    "eval": _eval,
    "compare": _compare,
    "reply": _reply,
    "chat": _chat,
    "demo": _demo,
    "serve": _serve,
    "inspect": _inspect,
    "import": _import,
    "export": _export,
    "data check": _data_check,
    "data stamps": _data_stamps,
    "data scenes": _data_scenes,
    "data overlap": _data_overlap,
    "data presence": _data_presence,
    "check-part": _check_part,
    "quickstart": _quickstart,
    "config schema": _config_schema,
    "config show": _config_show,
    "config options": _config_options,
}
