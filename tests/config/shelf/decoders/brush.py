"""A decoder."""


class Brush:
    """It draws."""

    def __init__(self, *, steps: int = 3) -> None:
        """`steps`: how often it dips."""
