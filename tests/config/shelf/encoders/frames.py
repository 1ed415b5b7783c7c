"""An encoder around another one."""

import shelf.base as base

raise RuntimeError("a config check must not import a part")


class Frames(base.Vision):
    """Frames of a clip, each through an image encoder."""

    def __init__(self, encoder: "Encoder", *, frames: int, every: float = 1.0) -> None:
        pass
