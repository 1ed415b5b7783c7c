"""Evaluation room: GQA's exact match of the whole short answer (Hudson, Manning, "GQA", 2019)."""

from mmlm.evaluation.metrics.text import clip

VERSION = "gqa-exact-1"


def parse(text: str) -> str:
    """The answer in lower case, without space around it and without points at its end."""
    return clip(text).strip().rstrip(".").lower()


def exact(text: str, reference: str) -> bool:
    """Whether the answer is the reference, both read by `parse`."""
    return parse(text) == parse(reference)
