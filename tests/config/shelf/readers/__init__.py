"""The readers of the shelf."""

PARTS = {"llava": "files:Llava", "captions": "files:Captions"}
