"""The decoders and their names: the sign on the door of this folder."""

if __name__ != "mmlm.decoders":
    raise ImportError("this folder is the package mmlm.decoders; import it by that name")

PARTS: dict[str, str] = {
    "pixel_diffusion": "pixel_diffusion:PixelDiffusion",
    "retrieval": "retrieval:Retrieval",
}
