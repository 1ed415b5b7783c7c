"""Language models."""

raise RuntimeError("a config check must not import a part")


class Causal:
    """A decoder."""

    def __init__(
        self, weights: "Weights", vocabulary: int | None, *, quantize: bool = False, dtype: str = "fp32"
    ) -> None:
        pass


class Seq2Seq:
    """An encoder and a decoder."""

    def __init__(self, weights: "Weights", vocabulary: int | None) -> None:
        pass
