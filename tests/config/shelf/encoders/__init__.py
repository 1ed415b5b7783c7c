"""The encoders of the shelf."""

PARTS = {
    "clip": "clip:Clip",
    "siglip": "clip:Siglip",
    "frames": "frames:Frames",
    "whisper": "whisper:Whisper",
    "eva": "eva:Eva",
}
