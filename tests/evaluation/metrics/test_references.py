"""Every metric against the numbers of reference programs: the golden ones, and 200 generated cases each."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmlm.evaluation.metrics import (
    anls,
    asr,
    calibration,
    captions,
    chair,
    chartqa,
    exact,
    frechet,
    gqa,
    letters,
    mmbench,
    mme,
    mmmu,
)
from mmlm.evaluation.metrics.tokens import tokenise
from mmlm.evaluation.statistics import Measure, point

DATA = Path(__file__).parent / "data"
ANLS = {"paper": "anls_0.0.2_paper", "stvqa": "llava_stvqa", "raw": "lmms_eval_vlmevalkit"}


def stored(name: str, *lists: str) -> dict[str, Any]:
    """A file of cases, whose lists hold 200 each."""
    found: dict[str, Any] = json.loads((DATA / f"{name}.json").read_text(encoding="utf-8"))
    assert all(len(found[k]) == 200 for k in lists)
    return found


GOLDENS = stored("goldens")


def lettered(index: int | None) -> str:
    return "" if index is None else letters.LETTERS[index]


def test_every_file_of_cases_is_small_and_says_where_it_is_from() -> None:
    files = sorted(DATA.glob("*.json"))
    assert len(files) == 12
    for path in files:
        assert path.stat().st_size < 200_000
        assert json.loads(path.read_text(encoding="utf-8"))["_how"]


@pytest.mark.parametrize("rule", anls.RULES)
def test_anls_goldens(rule: anls.Rule) -> None:
    for case in GOLDENS["anls"]:
        assert anls.score(case["pred"], case["gold"], rule) == pytest.approx(case[ANLS[rule]], abs=1e-9), case


def test_anls_cases() -> None:
    for said, golds, *expected in stored("anls", "cases")["cases"]:
        assert [anls.score(said, golds, r) for r in anls.RULES] == pytest.approx(expected, abs=1e-9), (said, golds)


def test_chartqa_goldens_and_cases() -> None:
    told = [(c["pred"], c["gold"], c["ok"]) for c in GOLDENS["chartqa_relaxed"]]
    for said, gold, right in [*told, *stored("chartqa", "cases")["cases"]]:
        assert chartqa.relaxed(said, gold) == right, (said, gold)


@pytest.mark.parametrize("rule", ["vlmevalkit", "mmmu"])
def test_letter_goldens(rule: letters.Rule) -> None:
    """Where the published parse draws a letter at random there is none here."""
    for case in GOLDENS["mcq_parse_options_a_cat_a_dog_a_bird_a_fish"]:
        found = lettered(letters.parse(case["text"], ["a cat", "a dog", "a bird", "a fish"], rule))
        assert found == (case[rule] if case[rule] not in (False, "random") else ""), case


def test_letter_cases() -> None:
    file = stored("letters", "cases")
    for which, text, *expected in file["cases"]:
        rules: tuple[letters.Rule, ...] = ("mmmu", "vlmevalkit", "first")
        assert [lettered(letters.parse(text, file["options"][which], r)) for r in rules] == expected, text


def test_mmmu_open_cases() -> None:
    for said, golds, right in stored("mmmu", "cases")["cases"]:
        assert mmmu.correct(mmmu.candidates(said), golds) == right, (said, golds)


def mme_of(rows: list[tuple[str, int, list[int]]]) -> dict[str, float]:
    each = [(bool(c), (s, i), s) for s, i, both in rows for c in both]
    among = sorted({s for s, _, _ in rows})
    correct, pictures, subtasks = map(list, zip(*each, strict=True))
    return point(mme.values(correct, pictures, subtasks, among), mme.measures(among))


def test_mme_goldens() -> None:
    golden = GOLDENS["mme"]
    for subtask in golden["pairs"]:
        found = mme_of([(subtask, i, both) for i, both in enumerate(golden["pairs"][subtask])])
        expected = [x / 100 for x in golden[subtask][:2]] + [golden[subtask][2]]
        assert [found["accuracy"], found["accuracy+"], found["MME score"]] == pytest.approx(expected, abs=1e-9)
    found = mme_of([(s, i, both) for s, pairs in golden["pairs"].items() for i, both in enumerate(pairs)])
    assert found["MME score"] == pytest.approx(golden["total"], abs=1e-9)


def test_mme_cases() -> None:
    file = stored("mme", "texts", "sets")
    for text, expected in file["texts"]:
        assert mme.parse(text) == expected, text
    for rows, total in file["sets"]:
        assert mme_of(rows)["MME score"] == pytest.approx(total, abs=1e-9)


def test_mmbench_cases() -> None:
    for questions, expected in stored("mmbench", "cases")["cases"]:
        each = [(bool(c), q, k) for q, rights in enumerate(questions) for k, c in enumerate(rights)]
        correct, numbers, rotations = map(list, zip(*each, strict=True))
        found = point(mmbench.values(correct, numbers, rotations), mmbench.MEASURES)
        assert found["circular accuracy"] == pytest.approx(expected, abs=1e-9)
        assert found["vanilla accuracy"] == pytest.approx(sum(q[0] for q in questions) / len(questions), abs=1e-9)


def test_asr_goldens() -> None:
    golden = GOLDENS["asr"]
    rows = [asr.counts(h, r, "none") for h, r in zip(golden["hyps"], golden["refs"], strict=True)]
    expected = {k.upper(): golden[k] for k in ("wer", "cer", "mer", "wil")}
    assert point(rows, asr.MEASURES) == pytest.approx(expected, abs=1e-9)
    assert [r["utterance_wer"] for r in rows] == pytest.approx(golden["per_pair_wer"], abs=1e-9)


def test_asr_cases() -> None:
    file = stored("asr", "cases", "texts")
    for pairs, (s, d, i, h), *rates, each in file["cases"]:
        rows = [asr.counts(said, reference, "none") for said, reference in pairs]
        assert sum(r["hits"] for r in rows) == h
        assert sum(r["edits"] for r in rows) == s + d + i
        assert list(point(rows, asr.MEASURES).values()) == pytest.approx(rates, abs=1e-9)
        assert [r["utterance_wer"] for r in rows] == pytest.approx(each, abs=1e-9)
    for text, expected in file["texts"]:
        assert asr.normalise(text) == expected, text


def calibrated(sure: list[float], right: list[int], bins: int, edge: calibration.Edge = "upper") -> dict[str, float]:
    rows = [calibration.values(c, bool(r), bins, edge) for c, r in zip(sure, right, strict=True)]
    return point(rows, calibration.measures(bins))


def test_calibration_goldens() -> None:
    golden = GOLDENS["calibration"]
    for bins in (5, 10, 15):
        found = calibrated(golden["conf"], golden["correct"], bins)
        assert found["ECE"] == pytest.approx(golden[f"ECE{bins}"], abs=1e-9)
        assert found["MCE"] == pytest.approx(golden.get(f"MCE{bins}", found["MCE"]), abs=1e-9)
        assert found["Brier"] == pytest.approx(golden["brier"], abs=1e-9)


def test_calibration_cases() -> None:
    file = stored("calibration", "cases", "edges")
    for sure, right, bins, ece, mce, brier, curve in file["cases"]:
        for edge in calibration.EDGES:
            found = calibrated(sure, right, bins, edge)
            assert [found["ECE"], found["MCE"], found["Brier"]] == pytest.approx([ece, mce, brier], abs=1e-9)
        points = calibration.curve(sure, list(map(bool, right)), bins)
        assert [p.confidence for p in points] == pytest.approx(curve[0], abs=1e-9)
        assert [p.accuracy for p in points] == pytest.approx(curve[1], abs=1e-9)


def test_calibration_on_edges() -> None:
    for sure, right, bins, curve, lower in stored("calibration", "edges")["edges"]:
        points = calibration.curve(sure, list(map(bool, right)), bins, "upper")
        assert [p.confidence for p in points] == pytest.approx(curve[0], abs=1e-9)
        assert [p.accuracy for p in points] == pytest.approx(curve[1], abs=1e-9)
        assert calibrated(sure, right, bins, "lower")["ECE"] == pytest.approx(lower, abs=1e-6)


def test_frechet_goldens() -> None:
    golden = GOLDENS["fid"]
    means = np.array(golden["mu1"]), np.array(golden["mu2"])
    for case in (golden, golden["diag_case"]):
        pair = [frechet.of_moments(m, np.array(case[s])) for m, s in zip(means, ("S1", "S2"), strict=True)]
        assert frechet.distance(*pair) == pytest.approx(case["fid"], abs=1e-9)


def test_frechet_cases() -> None:
    """Where a covariance lacks full rank the reference programs take roots of rounding, and are off by about 1e-7."""
    for one, two, full, scipy, torchmetrics in stored("frechet", "cases")["cases"]:
        sets = np.array(one), np.array(two)
        moments = [frechet.of_moments(s.mean(0), np.atleast_2d(np.cov(s, rowvar=False))) for s in sets]
        found = frechet.distance(*(frechet.of_features(s) for s in sets))
        assert found == pytest.approx(frechet.distance(*moments), abs=1e-9)
        assert [found] * 2 == pytest.approx([scipy, torchmetrics], abs=1e-9 if full else 1e-6, rel=1e-9)


def test_chair_goldens_and_cases() -> None:
    golden = GOLDENS["chair"]
    whole = [
        list(zip(golden["mentioned"], golden["gt"], strict=True)),
        golden["CHAIRi"],
        golden["CHAIRs"],
        golden["recall"],
    ]
    for rows, *expected in [whole, *stored("chair", "cases")["cases"]]:
        found = point([chair.counts(m, p) for m, p in rows], chair.MEASURES)
        assert list(found.values()) == pytest.approx(expected, abs=1e-9)


def test_exact_cases() -> None:
    file = stored("exact", "cases", "gqa")
    rules: tuple[exact.Rule, ...] = ("verbatim", "case", "case-punctuation")
    for said, gold, *expected in file["cases"]:
        assert [int(exact.score(said, [gold], r)) for r in rules] == expected, (said, gold)
    for said, gold, right in file["gqa"]:
        assert int(gqa.exact(said, gold)) == right, (said, gold)


def test_a_subset_scores_as_in_the_whole_set_with_the_stored_table(generated: dict[str, Any], tmp_path: Path) -> None:
    """CIDEr-D of any one picture out of 200 is what the reference program gives it among all of them."""
    golden = generated["captions"]
    tokens = [[tokenise(c) for c in picture] for picture in golden["pictures"]]
    captions.Frequencies.of([t[1:] for t in tokens]).save(tmp_path / "df.json")
    table = captions.Frequencies.load(tmp_path / "df.json")
    for (said, *references), expected in zip(tokens, golden["CIDEr-D per picture"], strict=True):
        assert captions.cider_d(said, references, table) == pytest.approx(expected, abs=1e-9)


def test_a_score_of_one_question_is_the_measure_of_its_values() -> None:
    """Per-question values are enough: no measure knows more than their sums."""
    row = asr.counts("a b", "a c", "none")
    assert point([row], [Measure("x", lambda s: s["edits"] / s["words"])]) == {"x": row["utterance_wer"]}
