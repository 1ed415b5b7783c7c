"""Learned queries."""

from collections.abc import Mapping, Sequence
from typing import Literal, Optional, Union

raise RuntimeError("a config check must not import a part")


class Resampler:
    """Queries that attend to features."""

    def __init__(
        self,
        shape,
        width: int,
        *,
        queries: int = 64,
        depth: int = 6,
        heads: int = 8,
        norm: Union[bool, Literal["pre", "post"]] = "pre",  # noqa: UP007
        scale: Optional[float] = None,  # noqa: UP045
        gates: Mapping[str, float] = {},
        stages: Sequence[int] = (1, 2),
        window: tuple[int, ...] = (),
        hook: "Callable[..., int] | None" = None,
        plain=3,
    ) -> None:
        pass


class QFormer(Resampler):
    """A Q-Former; its values may come from a checkpoint."""

    def __init__(
        self, weights: "Weights | None", shape, width: int, *, queries: int = 32, instruction: bool = False, **more
    ) -> None:
        pass
