"""The objectives and their names: what an output stream is trained by, beside the loss of text."""

from collections.abc import Iterable

PARTS: dict[str, str] = {
    "contrast": "losses:contrast",
    "cosine": "losses:cosine",
    "denoise": "losses:denoise",
    "l2": "losses:l2",
    "mse": "losses:mse",
    "reconstruct": "losses:reconstruct",
}
MEDIA = ("contrast", "denoise", "reconstruct")  # these read the target items, the others only their captions
COMPARES = ("contrast", "cosine", "l2", "mse", "reconstruct")  # these need what a condition should be
MAKES = ("denoise", "reconstruct")  # these need a decoder that learns by making items
_BLIND = ("reconstruct",)  # these look at no condition


def looks(kinds: Iterable[str]) -> bool:
    """Whether any of the objectives of an output stream looks at its condition; for the others the LLM need not think."""
    return any(k not in _BLIND for k in kinds)
