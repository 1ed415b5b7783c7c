"""Readers of files."""

raise RuntimeError("a config check must not import a part")


class Llava:
    """Conversations."""

    def __init__(self, path: "Path", *, images: str | None = None, items_first: bool = False) -> None:
        pass


class Captions:
    """Captions."""

    def __init__(self, path: "Path", *, prompt: str = "", field: str = "caption") -> None:
        pass
