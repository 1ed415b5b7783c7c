"""An encoder that moved."""

from .clip import Clip as Eva  # noqa: F401

raise RuntimeError("a config check must not import a part")
