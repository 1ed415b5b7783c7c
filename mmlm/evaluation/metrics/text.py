"""Evaluation room: how much of an answer is read; answers are data of any size and content."""

LONGEST = 2048


def clip(text: str) -> str:
    """The first 2048 characters: no reference is as long, and a scorer's time stays bounded whatever a model says."""
    return text[:LONGEST]
