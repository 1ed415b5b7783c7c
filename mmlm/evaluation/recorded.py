"""Evaluation room: an evaluation as it was written - its folder found, its scores read again, nothing asked anew."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmlm.errors import InputError
from mmlm.evaluation.result import RESULTS, SCORES
from mmlm.evaluation.tasks.task import Scored
from mmlm.jsonfile import read_json


@dataclass(frozen=True, slots=True)
class Recorded:
    """What results.json says, and the scores and pictures of the questions by id."""

    folder: Path
    about: Mapping[str, Any]
    scored: Mapping[str, Scored]
    pictures: Mapping[str, str]

    @property
    def task(self) -> str:
        return str(self.about["task"])

    @property
    def metric(self) -> str:
        return str(self.about["metric"])

    @property
    def scores(self) -> dict[str, float]:
        """The measures over all questions, by name."""
        return {r["metric"]: float(r["score"]["value"]) for r in self.about["rows"] if r["group"] == "all"}


def folders(path: Path, task: str | None, data: Path | None) -> dict[str, Path]:
    """The evaluations in `path`, by the names of their folders: of a run those of `task` on `data`, where these are
    given; of a folder that is an evaluation itself, that one. Raises InputError where there is none."""
    if not path.is_dir():
        state = "is a file" if path.exists() else "does not exist"
        raise InputError(f"{path} {state}; expected a run, or a folder that `mmlm eval` wrote")
    if (path / RESULTS).is_file():
        return {path.name: path}
    every = {f.parent.name: f.parent for f in sorted(path.glob(f"evaluations/*/{RESULTS}"))}
    found = {n: f for n, f in every.items() if task is None or read_json(f / RESULTS).get("task") == task}
    found = {n: f for n, f in found.items() if data is None or n.endswith(f"-{data.stem}")}
    if not found:
        wanted = f" of {task or 'any task'}" + (f" on {data}" if data is not None else "")
        held = f"it holds {', '.join(every)}" if every else f"it holds no evaluations/*/{RESULTS}"
        command = f"mmlm eval {path} --task {task or 'TASK'} --data {data or 'DATA'}"
        raise InputError(f"{path}: expected an evaluation{wanted}, and {held}; make one with `{command}`")
    return found


def read(folder: Path) -> Recorded:
    """The evaluation in a folder. Raises InputError where its files do not say what was found, or not the same."""
    about = read_json(folder / RESULTS)
    scored, pictures = {}, {}
    try:
        _ = about["data"]["sha256"], about["data"]["limit"], about["answers"]["decoding"], about["prompts"]["sha256"]
        text = (folder / SCORES).read_text(encoding="utf-8")
        for line in text.splitlines():
            row = json.loads(line)
            values = {str(k): float(v) for k, v in row["values"].items()}
            sure = {str(k): _share(v) for k, v in row.get("confidence", {}).items()}
            scored[str(row["id"])] = Scored(values, bool(row["parsed"]), str(row["answer"]), sure)
            pictures[str(row["id"])] = str(row["picture"])
        found = Recorded(folder, about, scored, pictures)
        n = next(r["n"] for r in about["rows"] if r["group"] == "all" and found.scores)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, StopIteration, RecursionError) as e:
        raise InputError(
            f"{folder} does not hold a whole evaluation ({type(e).__name__}: {e}); {_again(about, folder)}"
        ) from e
    if n != len(scored):
        raise InputError(
            f"{folder}: {RESULTS} speaks of {n} questions, {SCORES} of {len(scored)}; {_again(about, folder)}"
        )
    return found


def _share(value: object) -> float:
    """A recorded confidence, which is a number in 0..1."""
    if isinstance(value, bool) or not isinstance(value, float | int) or not 0 <= value <= 1:
        raise ValueError(f"confidence: expected a number in 0..1, got {value!r:.60}")
    return float(value)


def _again(about: Mapping[str, Any], folder: Path) -> str:
    """How to make the files of an evaluation anew."""
    task = about.get("task", "TASK")
    return f"score its answers again with `mmlm eval RUN --task {task} --data DATA --out {folder} --rescore`"
