"""Two encoders that share most of a constructor."""

from typing import Annotated, ClassVar, Literal

from shelf.base import ClassToken, Vision

raise RuntimeError("a config check must not import a part")

LAYER = -2


class Clip(Vision):
    """A vision transformer of CLIP.

    More words on it.
    """

    tiny: ClassVar[dict[str, object]] = {"layer": -1}

    def __init__(
        self,
        weights: "Weights",
        *,
        layer: int = LAYER,
        class_token: ClassToken = "drop",
        fit: Literal["crop", "pad", "stretch"] = "crop",  # how a picture that is not square becomes square
        resolution: int | None = None,
        dropout: float = 0.0,
        flip: bool = False,
        mean: tuple[float, float, float] = (0.5, 0.5, 0.5),
        taps: list[int] | None = None,
        registers: "Registers" = None,
    ) -> None:
        """`layer`: which layer speaks; -1 is the last. The values come from `weights`.

        Args:
            class_token (str): what becomes of the class token: dropped,
                kept, or the only one.
        """


class Siglip(Clip):
    """SigLIP: everything of CLIP, and a temperature."""

    def __init__(
        self, weights: "Weights", *, temperature: Annotated[float, "positive"] = 1.0, **options: object
    ) -> None:
        pass
