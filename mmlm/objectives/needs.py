"""The objectives room: what an objective asks of a decoder, known before anything is trained."""

from collections.abc import Sequence

from mmlm.interfaces import Decoder
from mmlm.objectives import COMPARES, MAKES, MEDIA, PARTS


def unmet(kind: str, beside: Sequence[str], decoder: Decoder, feeds: bool) -> str:
    """What of its decoder an objective lacks; "" where nothing. `beside` are all objectives of the output stream in its stage,
    of which some read the items; a stream that `feeds` has goals of its own, the vectors that the LLM reads."""
    if kind in MAKES and type(decoder).denoise is Decoder.denoise:
        return "a decoder that learns by making items, which this one does not"
    if kind not in COMPARES or feeds or decoder.encodes == "captions":
        return ""
    if decoder.encodes == "none":
        return "a decoder with an encoding of its own, of the caption or the item, which this one has none of"
    if not any(k in MEDIA for k in beside):
        return f"one of {', '.join(MEDIA)} beside it, as this decoder encodes items, which only these read"
    return ""


def instead(beside: Sequence[str], decoder: Decoder, feeds: bool) -> list[str]:
    """The objectives that the decoder can learn by."""
    return [kind for kind in PARTS if not unmet(kind, [*beside, kind], decoder, feeds)]
