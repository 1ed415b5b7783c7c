"""Evaluation room: the metrics - pure functions of strings with a version each, and no dependency but numpy.

A metric gives values per question; a `Measure` makes a score of their sums, so that a subset, a resample and the whole
set are scored by the same lines.
"""

from mmlm.evaluation.metrics import captions, choice, gqa, letters, meteor, pope, tokens, vqa

# name -> the version strings that results carry, for `mmlm list metrics`
METRICS: dict[str, tuple[str, ...]] = {
    "vqa": tuple(vqa.version(n) for n in vqa.NORMALISERS),
    "captions": (captions.VERSION, tokens.VERSION),
    "meteor": (meteor.VERSION,),
    "gqa": (gqa.VERSION,),
    "letters": (letters.version("mmlm"), letters.version("llava")),
    "pope": (pope.version("mmlm"), pope.version("llava")),
    "choice": (choice.VERSION,),
}
