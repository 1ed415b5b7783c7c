"""What parts of the shelf inherit."""

from typing import Literal

from nowhere import Stranger

raise RuntimeError("a config check must not import a part")

ClassToken = Literal["drop", "keep", "only"]


class Vision(Stranger):
    modality = "image"
    reads_memory = False


class Memory(Stranger):
    reads_memory = True
