"""Evaluation room: BLEU, ROUGE-L and CIDEr-D of captions, each as sums over pictures.

All functions take tokens (`mmlm.evaluation.metrics.tokens`). Papineni et al., "BLEU" (2002); Lin, "ROUGE" (2004);
Vedantam et al., "CIDEr" (2015). The small constants and the choice of reference length are those of the COCO
evaluation, so that published numbers can be compared.
"""

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mmlm.errors import InputError
from mmlm.evaluation.statistics import Array, Measure, Sums, mean

VERSION = "coco-captions-1"
ORDERS = (1, 2, 3, 4)
_ABOVE, _BELOW = 1e-15, 1e-9  # BLEU's guards in the COCO evaluation: a caption of three words has a BLEU-4 of 0.03
_BETA = 1.2
_SIGMA = 6.0

Tokens = Sequence[str]
Gram = tuple[str, ...]


def grams(tokens: Tokens, order: int) -> Counter[Gram]:
    """How often each run of `order` tokens stands in `tokens`."""
    return Counter(zip(*(tokens[i:] for i in range(order)), strict=False))


def bleu_counts(said: Tokens, references: Sequence[Tokens]) -> dict[str, float]:
    """What BLEU sums over pictures: clipped matches and runs per order, the length and the closest reference length."""
    counts = {
        "bleu_length": float(len(said)),
        "bleu_reference": float(min((abs(len(r) - len(said)), len(r)) for r in references)[1]),
    }
    for order in ORDERS:
        most: Counter[Gram] = Counter()
        for reference in references:
            most |= grams(reference, order)
        counts[f"bleu_match_{order}"] = float(sum((grams(said, order) & most).values()))
        counts[f"bleu_runs_{order}"] = float(max(0, len(said) - order + 1))
    return counts


def bleu(sums: Sums, order: int) -> Array:
    """BLEU-`order` from sums: the geometric mean of clipped precisions times min(1, exp(1 - r / c)); no smoothing."""
    product = np.ones_like(sums["n"])
    for k in range(1, order + 1):
        product = product * (sums[f"bleu_match_{k}"] + _ABOVE) / (sums[f"bleu_runs_{k}"] + _BELOW)
    ratio = (sums["bleu_length"] + _ABOVE) / (sums["bleu_reference"] + _BELOW)
    return np.asarray(product ** (1 / order) * np.exp(np.minimum(0.0, 1 - 1 / ratio)))


def rouge_l(said: Tokens, references: Sequence[Tokens]) -> float:
    """F with beta 1.2 of the longest common subsequence; best precision and best recall are taken separately."""
    if not said:
        return 0.0
    common = [_subsequence(said, r) for r in references]
    precision = max(c / len(said) for c in common)
    recall = max((c / len(r) for c, r in zip(common, references, strict=True) if r), default=0.0)
    if not precision or not recall:
        return 0.0
    return (1 + _BETA**2) * precision * recall / (recall + _BETA**2 * precision)


def _subsequence(a: Tokens, b: Tokens) -> int:
    """Length of the longest common subsequence: one row of the usual table as the bits of a number.

    A zero bit is a step up in the row. H. Hyyro, "Bit-parallel LCS-length computation revisited" (2004).
    """
    places: dict[str, int] = {}
    for i, word in enumerate(a):
        places[word] = places.get(word, 0) | 1 << i
    full = (1 << len(a)) - 1
    row = full
    for word in b:
        matched = row & places.get(word, 0)
        row = ((row + matched) | (row - matched)) & full
    return len(a) - row.bit_count()


@dataclass(frozen=True, slots=True)
class Frequencies:
    """In how many of `pictures` pictures the references hold each run of one to four tokens."""

    pictures: int
    counts: Mapping[Gram, int]

    @classmethod
    def of(cls, references: Sequence[Sequence[Tokens]]) -> "Frequencies":
        """Counted from the references of each picture."""
        counts: Counter[Gram] = Counter()
        for picture in references:
            counts.update({g for tokens in picture for order in ORDERS for g in grams(tokens, order)})
        return cls(len(references), counts)

    def save(self, path: Path) -> None:
        """Write the table as JSON."""
        table = {" ".join(g): c for g, c in sorted(self.counts.items())}
        path.write_text(json.dumps({"pictures": self.pictures, "counts": table}, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> "Frequencies":
        """Read a table that `save` wrote; InputError where the file is something else."""
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
            pictures, counts = int(raw["pictures"]), {tuple(g.split(" ")): int(c) for g, c in raw["counts"].items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
            raise InputError(
                f"{path} is not a table of document frequencies ({type(e).__name__}: {e}); expected JSON with "
                "'pictures' and 'counts', as the task option save_frequencies writes it"
            ) from e
        return cls(pictures, counts)


def cider_d(said: Tokens, references: Sequence[Tokens], frequencies: Frequencies) -> float:
    """CIDEr-D of one picture: 10 times the mean over orders and references of

        sum_g min(h_g, r_g) r_g / (|h| |r|) * exp(-(len h - len r)^2 / (2 * 6^2))

    with h, r the counts of runs weighted by log(pictures) - log(max(1, frequency)). 0 where the table has one picture.
    """
    total = 0.0
    for order in ORDERS:
        h = _weighted(said, order, frequencies)
        for reference in references:
            r = _weighted(reference, order, frequencies)
            norms = math.sqrt(sum(x * x for x in h.values())) * math.sqrt(sum(x * x for x in r.values()))
            dot = sum(min(x, r[g]) * r[g] for g, x in h.items() if g in r)
            apart = max(0, len(said) - 1) - max(0, len(reference) - 1)
            total += dot / norms * math.exp(-(apart**2) / (2 * _SIGMA**2)) if norms else 0.0
    return 10 * total / (len(ORDERS) * len(references))


def _weighted(tokens: Tokens, order: int, frequencies: Frequencies) -> dict[Gram, float]:
    rare = math.log(frequencies.pictures)
    return {g: c * (rare - math.log(max(1, frequencies.counts.get(g, 0)))) for g, c in grams(tokens, order).items()}


def measures(cider: bool) -> tuple[Measure, ...]:
    """BLEU-1 to 4, ROUGE-L and, with `cider`, CIDEr-D."""

    def of(order: int) -> Measure:
        return Measure(f"BLEU-{order}", lambda sums: bleu(sums, order))

    return (*(of(k) for k in ORDERS), mean("ROUGE-L"), *((mean("CIDEr-D"),) if cider else ()))
