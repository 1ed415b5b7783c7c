"""The output aligners of the shelf."""

PARTS = {"row": "row:Row"}
