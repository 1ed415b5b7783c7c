"""The objectives and their names: what an output stream is trained by, beside the loss of text."""

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
BLIND = ("reconstruct",)  # these look at no condition, so that nothing need be thought for them alone
