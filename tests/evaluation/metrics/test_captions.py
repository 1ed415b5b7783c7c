"""BLEU, ROUGE-L and CIDEr-D against golden numbers and against slow programs written from the definitions."""

import math
import random
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mmlm.errors import InputError
from mmlm.evaluation.metrics import captions
from mmlm.evaluation.metrics.captions import Frequencies, cider_d, rouge_l
from mmlm.evaluation.metrics.tokens import tokenise
from mmlm.evaluation.statistics import Measure, point

Words = list[list[str]]


def evaluate(said: Words, references: list[Words]) -> tuple[dict[str, float], list[dict[str, float]]]:
    frequencies = Frequencies.of(references)
    values = []
    for s, rs in zip(said, references, strict=True):
        row = captions.bleu_counts(s, rs)
        row |= {"ROUGE-L": rouge_l(s, rs), "CIDEr-D": cider_d(s, rs, frequencies)}
        values.append(row)
    return point(values, captions.measures(True)), values


def bleu_of(values: list[dict[str, float]], order: int) -> float:
    return point(values, [Measure("b", lambda s: captions.bleu(s, order))])["b"]


def test_golden_captions(goldens: dict[str, Any]) -> None:
    golden = goldens["captions"]
    said = [tokenise(t) for t in golden["raw_hyps"].values()]
    found, values = evaluate(said, [[tokenise(r) for r in rs] for rs in golden["raw_refs"].values()])
    for order, expected in enumerate(golden["Bleu"], start=1):
        assert found[f"BLEU-{order}"] == pytest.approx(expected, abs=1e-9)
        for row, alone in zip(values, golden["Bleu_per_image"][order - 1], strict=True):
            assert bleu_of([row], order) == pytest.approx(alone, abs=1e-9)
    assert found["ROUGE-L"] == pytest.approx(golden["ROUGE_L"], abs=1e-9)
    assert found["CIDEr-D"] == pytest.approx(golden["CIDEr"], abs=1e-9)
    assert [v["ROUGE-L"] for v in values] == pytest.approx(golden["ROUGE_L_per_image"], abs=1e-9)
    assert [v["CIDEr-D"] for v in values] == pytest.approx(golden["CIDEr_per_image"], abs=1e-9)


def test_golden_edges(goldens: dict[str, Any]) -> None:
    for name, case in goldens["captions_edge"].items():
        said = [hyps[0].split() for hyps in case["hyps"].values()]
        found, _ = evaluate(said, [[r.split() for r in rs] for rs in case["refs"].values()])
        for order, expected in enumerate(case["scores"]["Bleu"], start=1):
            assert found[f"BLEU-{order}"] == pytest.approx(expected, abs=1e-9), name
        assert found["ROUGE-L"] == pytest.approx(case["scores"]["Rouge"], abs=1e-9), name
        assert found["CIDEr-D"] == pytest.approx(case["scores"]["CIDEr"], abs=1e-9), name


def test_200_generated_pictures(generated: dict[str, Any]) -> None:
    golden = generated["captions"]
    tokens = [[tokenise(c) for c in picture] for picture in golden["pictures"]]
    found, values = evaluate([t[0] for t in tokens], [t[1:] for t in tokens])
    assert len(values) >= 200
    assert [found[f"BLEU-{k}"] for k in captions.ORDERS] == pytest.approx(golden["BLEU"], abs=1e-9)
    assert [v["CIDEr-D"] for v in values] == pytest.approx(golden["CIDEr-D per picture"], abs=1e-9)
    assert [v["ROUGE-L"] for v in values] == pytest.approx(golden["ROUGE-L per picture"], abs=1e-9)
    assert found["CIDEr-D"] == pytest.approx(golden["CIDEr-D"], abs=1e-9)


def random_set(seed: int, pictures: int) -> tuple[Words, list[Words]]:
    rng = random.Random(seed)
    words = ["a", "b", "c", "d", "e", "f"]

    def caption() -> list[str]:
        return rng.choices(words, k=rng.randint(1, 9))

    return [caption() for _ in range(pictures)], [
        [caption() for _ in range(rng.randint(1, 4))] for _ in range(pictures)
    ]


def slow_cider(said: Words, references: list[Words]) -> list[float]:
    """From the definition, with dense vectors over every run that occurs anywhere."""
    pictures = len(references)
    scores = []
    for s, rs in zip(said, references, strict=True):
        total = 0.0
        for n in (1, 2, 3, 4):

            def runs(tokens: list[str], n: int = n) -> list[str]:
                return [" ".join(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]

            every = sorted({g for caption in [*said, *(c for p in references for c in p)] for g in runs(caption)})
            held = [sum(any(g in runs(c) for c in p) for p in references) for g in every]
            idf = np.array([math.log(pictures / max(1, h)) for h in held])
            h = np.array([runs(s).count(g) for g in every]) * idf if every else np.zeros(0)
            for r in rs:
                v = np.array([runs(r).count(g) for g in every]) * idf if every else np.zeros(0)
                norms = np.linalg.norm(h) * np.linalg.norm(v)
                apart = max(len(s) - 1, 0) - max(len(r) - 1, 0)
                if norms > 0:
                    total += float(np.minimum(h, v) @ v / norms * np.exp(-(apart**2) / 72)) / len(rs)
        scores.append(10 * total / 4)
    return scores


@pytest.mark.parametrize("seed", range(8))
def test_cider_is_its_definition(seed: int) -> None:
    said, references = random_set(seed, 5 + seed)
    _, values = evaluate(said, references)
    assert [v["CIDEr-D"] for v in values] == pytest.approx(slow_cider(said, references), abs=1e-9)


@pytest.mark.parametrize("seed", range(8))
def test_rouge_and_bleu_are_their_definitions(seed: int) -> None:
    said, references = random_set(100 + seed, 6)
    found, values = evaluate(said, references)
    for s, rs, row in zip(said, references, values, strict=True):
        common = [longest(tuple(s), tuple(r)) for r in rs]
        p = max(c / len(s) for c in common)
        q = max(c / len(r) for c, r in zip(common, rs, strict=True))
        expected = (1 + 1.44) * p * q / (q + 1.44 * p) if p and q else 0.0
        assert row["ROUGE-L"] == pytest.approx(expected, abs=1e-12)
    precisions = []
    for n in (1, 2):
        right = whole = 0
        for s, rs in zip(said, references, strict=True):
            mine = [tuple(s[i : i + n]) for i in range(len(s) - n + 1)]
            whole += len(mine)
            for g in set(mine):
                most = max(sum(tuple(r[i : i + n]) == g for i in range(len(r) - n + 1)) for r in rs)
                right += min(mine.count(g), most)
        precisions.append(right / whole)
    c = sum(map(len, said))
    r = sum(min((abs(len(x) - len(s)), len(x)) for x in rs)[1] for s, rs in zip(said, references, strict=True))
    brevity = min(1.0, math.exp(1 - r / c))
    assert found["BLEU-1"] == pytest.approx(precisions[0] * brevity, abs=1e-6)
    assert found["BLEU-2"] == pytest.approx(math.sqrt(precisions[0] * precisions[1]) * brevity, abs=1e-6)


@cache
def longest(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    if not a or not b:
        return 0
    if a[0] == b[0]:
        return 1 + longest(a[1:], b[1:])
    return max(longest(a[1:], b), longest(a, b[1:]))


def test_a_stored_table_gives_the_same_scores(tmp_path: Path) -> None:
    said, references = random_set(7, 6)
    table = Frequencies.of(references)
    table.save(tmp_path / "df.json")
    again = Frequencies.load(tmp_path / "df.json")
    assert again.pictures == 6
    assert dict(again.counts) == dict(table.counts)
    assert cider_d(said[0], references[0], again) == cider_d(said[0], references[0], table)


@pytest.mark.parametrize(
    "text", ["", "[]", '{"pictures": 3}', '{"pictures": "x", "counts": {}}', '{"pictures": 1, "counts": []}']
)
def test_another_file_is_no_table(tmp_path: Path, text: str) -> None:
    (tmp_path / "df.json").write_text(text)
    with pytest.raises(InputError, match="not a table of document frequencies"):
        Frequencies.load(tmp_path / "df.json")
