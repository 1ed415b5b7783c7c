"""The page of a run: the tables, and how often a model is right over how sure it is."""

import re
from pathlib import Path

from mmlm.evaluation import Result
from mmlm.evaluation.calibrating import calibrate
from mmlm.evaluation.result import Row
from mmlm.evaluation.statistics import Estimate
from mmlm.evaluation.tasks.task import Scored
from mmlm.report import write


def result() -> Result:
    """Four answers at 0.25, of which one is right, and one at 1 that is right."""
    pairs = [(0.25, 1.0), (0.25, 0.0), (0.25, 0.0), (0.25, 0.0), (1.0, 1.0)]
    scored = [Scored({"accuracy": right}, True, "<b>", {"reply": sure}) for sure, right in pairs]
    found = calibrate(scored, {}, list("abcde"), lambda values: values["accuracy"], 0)
    return Result("vqa", "m-1", {}, [Row("accuracy", "all", 5, Estimate(0.4), 0.0)], calibration=found)


def test_the_reliability_stands_below_the_table_of_its_task(tmp_path: Path) -> None:
    page = write(tmp_path, {"vqa": result()}).read_text(encoding="utf-8")
    (drawn,) = re.findall(r"<svg class=small .*?</svg>", page)
    dots = re.findall(r"<circle cx=([\d.]+) cy=([\d.]+) r=([\d.]+) .*?<title>(.*?)</title>", drawn)
    assert [d[3] for d in dots] == ["4 answers, confidence 0.25, right 0.25", "1 answers, confidence 1.00, right 1.00"]
    assert [float(d[0]) + float(d[1]) for d in dots] == [296.0, 296.0], "right as often as sure: on the line"
    assert float(dots[0][2]) > float(dots[1][2]), "a dot is as large as it holds many"
    assert page.index("<svg class=small") > page.index("calibration of the probability of the reply: ECE 0.0000")


def test_a_task_without_confidence_has_none(tmp_path: Path) -> None:
    bare = Result("caption", "m-1", {}, [Row("ROUGE-L", "all", 5, Estimate(0.4), 0.0)])
    assert "<svg class=small" not in write(tmp_path, {"caption": bare}).read_text(encoding="utf-8")
