"""Part of the plan: numbers as people read them."""

_COUNTS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_FLOPS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def count(value: float | None) -> str:
    """Parameters with four digits and a letter: 7.063 B, 20.98 M; "-" for none."""
    return _short(value, _COUNTS)


def flops(value: float | None) -> str:
    """FLOPs with four digits and a letter: 56.26 T, 705.4 G; "-" for none."""
    return _short(value, _FLOPS)


def _short(value: float | None, steps: tuple[tuple[float, str], ...]) -> str:
    if not value:
        return "-"
    for size, letter in steps:
        if value >= size:
            return f"{value / size:#.4g}".rstrip(".") + f" {letter}"
    return f"{value:g}"


def gibibytes(value: float) -> str:
    """Bytes as GiB."""
    return f"{value / 2**30:.1f}" if value >= 2**29 else f"{value / 2**30:.2f}"


def ratio(counted: float, published: float | None) -> str:
    """What was counted, as a share of what was published."""
    return f"{counted / published:.3f}" if published else "-"
