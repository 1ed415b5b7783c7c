"""Part of the plan: numbers as people read them."""

_STEPS = ((1e18, "E"), (1e15, "P"), (1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))


def amount(value: float | None) -> str:
    """Four digits and a letter: 7.063 B, 20.98 M; "-" for nothing. Above 1000 B it goes on with T, P and E."""
    if not value:
        return "-"
    for size, letter in _STEPS:
        if value >= size:
            return f"{value / size:#.4g}".rstrip(".") + f" {letter}"
    return f"{value:g}"


def gibibytes(value: float) -> str:
    """Bytes as GiB."""
    return f"{value / 2**30:.1f}" if value >= 2**29 else f"{value / 2**30:.2f}"


def ratio(counted: float, published: float | None) -> str:
    """What was counted, as a share of what was published."""
    return f"{counted / published:.3f}" if published else "-"
