"""The decoders of the shelf."""

PARTS = {"brush": "brush:Brush"}
