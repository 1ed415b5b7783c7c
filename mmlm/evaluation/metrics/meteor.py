"""Evaluation room: METEOR 1.5 through its own Java program, where Java and that program are installed.

The alignment (stems, synonyms, paraphrases) is the program's; its counts are added up here, because METEOR of a set is
the formula on summed counts, not the mean over captions. M. Denkowski, A. Lavie, "Meteor Universal" (2014).
"""

import shutil
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from mmlm.errors import InputError
from mmlm.evaluation.statistics import Array, Measure, Sums, ratio

VERSION = "meteor-1.5-en"
_ALPHA, _BETA, _GAMMA, _DELTA = 0.85, 0.2, 0.6, 0.75
_WEIGHTS = (1.0, 0.6, 0.8, 0.6)  # exact, stem, synonym, paraphrase
_COUNTS = 23
KEYS = tuple(f"meteor_{i}" for i in range(_COUNTS))


def missing() -> str:
    """Why METEOR cannot be had on this machine, or nothing."""
    if shutil.which("java") is None:
        return "METEOR is absent: there is no java on the path"
    if _program() is None:
        return "METEOR is absent: the package pycocoevalcap, which carries meteor-1.5.jar, is not installed"
    return ""


def counts(said: Sequence[str], references: Sequence[Sequence[str]]) -> list[dict[str, float]]:
    """The program's counts for each caption; captions are tokens joined by a space.

    Raises InputError where the program fails.
    """
    program = _program()
    if program is None:
        raise InputError(missing())
    lines = [" ||| ".join(["SCORE", *map(_field, rs), _field(s)]) for s, rs in zip(said, references, strict=True)]
    command = ["java", "-Xmx2G", "-jar", program.name, "-", "-", "-stdio", "-l", "en", "-norm"]
    done = subprocess.run(
        command, cwd=program.parent, input="\n".join(lines) + "\n", capture_output=True, encoding="utf-8", check=False
    )
    rows = [[float(x) for x in line.split()] for line in done.stdout.splitlines()] if done.returncode == 0 else []
    if len(rows) != len(lines) or any(len(row) != _COUNTS for row in rows):
        raise InputError(
            f"{program} gave {len(rows)} rows for {len(lines)} captions: {done.stderr.strip()[-300:] or 'no message'}"
        )
    return [dict(zip(KEYS, _whole(row), strict=True)) for row in rows]


def meteor(sums: Sums) -> Array:
    """F = PR / (alpha P + (1 - alpha) R) of weighted matches, times 1 - gamma (chunks / matches)^beta."""
    length, reference, length_function, reference_function = (sums[k] for k in KEYS[:4])
    matched, found = np.zeros_like(length), np.zeros_like(length)
    for i, weight in enumerate(_WEIGHTS):
        content, content_reference, function, function_reference = (sums[k] for k in KEYS[4 + 4 * i : 8 + 4 * i])
        matched = matched + weight * (_DELTA * content + (1 - _DELTA) * function)
        found = found + weight * (_DELTA * content_reference + (1 - _DELTA) * function_reference)
    precision = ratio(matched, _DELTA * (length - length_function) + (1 - _DELTA) * length_function)
    recall = ratio(found, _DELTA * (reference - reference_function) + (1 - _DELTA) * reference_function)
    chunks, words, words_reference = (sums[k] for k in KEYS[20:])
    apart = ratio(2 * chunks, words + words_reference)
    f = ratio(precision * recall, _ALPHA * precision + (1 - _ALPHA) * recall)
    return np.asarray(f * (1 - _GAMMA * apart**_BETA))


def _whole(row: list[float]) -> list[float]:
    """The row, with no chunk where one chunk covers both captions: the program adds them up so, and nothing is apart."""
    length, reference, chunks, words, words_reference = row[0], row[1], *row[20:]
    covered = words == length and words_reference == reference and chunks == 1
    return [*row[:20], 0.0 if covered else chunks, words, words_reference]


MEASURE = Measure("METEOR", meteor)


def _program() -> Path | None:
    found = find_spec("pycocoevalcap")
    places = [Path(p) / "meteor" / "meteor-1.5.jar" for p in (found.submodule_search_locations or [])] if found else []
    return next((p for p in places if p.is_file()), None)


def _field(text: str) -> str:
    return " ".join(text.replace("|||", " ").split())
