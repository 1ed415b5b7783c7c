"""A graft that reads memory, which only its base says."""

from shelf.base import Memory

raise RuntimeError("a config check must not import a part")


class Gated(Memory):
    """Cross-attention behind a gate."""

    def __init__(self, backbone, memory_width: int, *, every: int = 4, offset: int = 0) -> None:
        pass
