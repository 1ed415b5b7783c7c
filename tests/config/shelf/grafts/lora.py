"""A graft that reads no memory."""

from typing import Literal

raise RuntimeError("a config check must not import a part")


class Lora:
    """Low-rank adapters."""

    def __init__(
        self, backbone, *, rank: int = 16, alpha: float = 32, targets: list[str] | Literal["all-linear"] = "all-linear"
    ) -> None:
        pass
