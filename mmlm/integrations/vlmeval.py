"""Integrations room: `python -m mmlm.integrations.vlmeval` puts a run into VLMEvalKit and starts the suite's own runner."""

import argparse
import runpy
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mmlm.errors import InputError, reason
from mmlm.integrations.asking import Asked
from mmlm.reply import Decoding


def main(argv: Sequence[str] | None = None) -> int:
    """Ask the data sets of the command line; gives the exit code, 2 for bad input."""
    parser = argparse.ArgumentParser(
        "python -m mmlm.integrations.vlmeval",
        description="Evaluate a run with VLMEvalKit. Other options (--judge exact_matching, --mode infer, --reuse ...) are "
        "handed to the suite's run.py.",
        allow_abbrev=False,
    )
    parser.add_argument("--run", type=Path, required=True, metavar="RUN", help="folder of the run")
    parser.add_argument("--data", nargs="+", required=True, metavar="DATASET", help="data sets by VLMEvalKit's names")
    parser.add_argument("--work-dir", type=Path, default=Path("outputs"), metavar="DIR", help="default: %(default)s")
    parser.add_argument(
        "--limit", type=int, default=512, metavar="N", help="most tokens of a reply (default: %(default)s)"
    )
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda or cuda:0; cuda where there is one")
    arguments, rest = parser.parse_known_args(argv)
    try:
        runner = _runner()
        asked = Asked(arguments.run, arguments.device)
        decoding = Decoding(min(arguments.limit, asked.room))
        name = f"mmlm-{arguments.run.resolve().name}"
        told = ["--model", name, "--data", *arguments.data, "--work-dir", str(arguments.work_dir), *rest]
        _start(runner, name, asked, decoding, told)
    except InputError as e:
        sys.stderr.write(f"{e}\n")
        return 2
    return 0


def _runner() -> Path:
    """The suite's run.py, which lies beside the package in its checkout and is no part of the package."""
    found = find_spec("vlmeval")
    if found is None or found.origin is None:
        raise InputError(
            "this needs VLMEvalKit (the package 'vlmeval'), which is not installed: `pip install -e .` in a checkout of "
            "open-compass/VLMEvalKit"
        )
    runner = Path(found.origin).parents[1] / "run.py"
    if not runner.is_file():
        raise InputError(
            f"{runner}: expected VLMEvalKit's runner; install the suite from its checkout, `pip install -e .`"
        )
    return runner


def _start(runner: Path, name: str, asked: Asked, decoding: Decoding, arguments: Sequence[str]) -> None:
    """Run the suite as its own command line does, with one model more. Raises InputError where it cannot be imported, and
    where no question at all could be asked."""
    try:
        from vlmeval.config import supported_VLM

        from mmlm.integrations.vlmeval_model import Model
    except ImportError as e:
        raise InputError(f"VLMEvalKit ({runner.parent}) cannot be imported: {reason(e)}") from e
    model = Model(asked, decoding)
    # The suite gives a keyword of vLLM's to models whose names hold those of others.
    supported_VLM[name] = lambda **_: model
    before = sys.argv
    sys.argv = [str(runner), *arguments]
    try:
        runpy.run_path(str(runner), run_name="__main__")
    finally:
        sys.argv = before
    if asked.refused and len(asked.refused) == model.questions:
        raise InputError(f"none of {model.questions} questions could be asked: {asked.refused[0]}")


if __name__ == "__main__":
    sys.exit(main())
