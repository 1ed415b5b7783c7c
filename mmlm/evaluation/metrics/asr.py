"""Evaluation room: word and character error rates of speech that was written down.

WER = (S + D + I) / (H + S + D), over the words of all references together; CER the same over characters; MER = (S + D +
I) / (H + S + D + I) and WIL = 1 - H / (H + S + D) * H / (H + S + I): A. C. Morris et al., "From WER and RIL to MER and
WIL" (2004).
"""

import re
import unicodedata
from typing import Literal, get_args

import numpy as np

from mmlm.evaluation.metrics.edits import distance, edits
from mmlm.evaluation.metrics.text import LONGEST
from mmlm.evaluation.statistics import Array, Measure, Sums, ratio

Normaliser = Literal["none", "basic"]
NORMALISERS: tuple[Normaliser, ...] = get_args(Normaliser)
_BRACKETED = re.compile(r"[<\[][^>\]]*+[>\]]")
_ASIDE = re.compile(r"\([^)]++\)")


def version(normaliser: Normaliser) -> str:
    """What a result says of this metric."""
    return f"error-rates/{normaliser}-1"


def normalise(text: str, normaliser: Normaliser = "basic") -> str:
    """`none`: words as they stand, one space between them. `basic`, the steps that speech models are commonly compared
    by in any language: lower case, what stands in <>, [] or () away, marks, punctuation and symbols to a space."""
    if normaliser == "basic":
        text = unicodedata.normalize("NFKC", _ASIDE.sub("", _BRACKETED.sub("", text.lower())))
        text = "".join(" " if unicodedata.category(c)[0] in "MSP" else c for c in text).lower()
    return " ".join(text.split())


def counts(said: str, reference: str, normaliser: Normaliser = "basic") -> dict[str, float]:
    """One utterance's part of the rates, and its own WER and CER. Of `said` at most 2048 characters or twice as many as
    the reference has are read."""
    said = normalise(said[: max(LONGEST, 2 * len(reference))], normaliser)
    reference = normalise(reference, normaliser)
    words, spoken = reference.split(), said.split()
    found = edits(words, spoken)
    apart = distance(reference, said)
    return {
        "hits": float(found.hits),
        "edits": float(found.distance),
        "words": float(len(words)),
        "words_said": float(len(spoken)),
        "character_edits": float(apart),
        "characters": float(len(reference)),
        "utterance_wer": found.distance / max(1, len(words)),
        "utterance_cer": apart / max(1, len(reference)),
    }


def _lost(sums: Sums) -> Array:
    """Nothing is lost where there was nothing."""
    kept = ratio(sums["hits"] * sums["hits"], sums["words"] * sums["words_said"])
    return np.where(sums["words"] + sums["words_said"] > 0, 1 - kept, 0.0)


# Without a word in any reference every word said is an error: the number of words said, rather than a division by 0.
MEASURES = (
    Measure("WER", lambda s: np.asarray(s["edits"] / np.maximum(1, s["words"]))),
    Measure("CER", lambda s: np.asarray(s["character_edits"] / np.maximum(1, s["characters"]))),
    Measure("MER", lambda s: ratio(s["edits"], s["hits"] + s["edits"])),
    Measure("WIL", _lost),
)
