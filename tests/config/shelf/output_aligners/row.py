"""An output aligner."""


class Row:
    """One vector of each state."""

    def __init__(self, width: int, length: int, condition: object, *, bias: bool = True) -> None:
        """`bias`: whether there is one."""
