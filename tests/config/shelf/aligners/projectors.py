"""Layer by layer."""

raise RuntimeError("a config check must not import a part")


class Linear:
    """One matrix."""


class Mlp(Linear):
    """Matrices with a nonlinearity between."""

    def __init__(self, shape, width: int, *, depth: int = 2, norm: bool = False, pool: int | None = None) -> None:
        pass
