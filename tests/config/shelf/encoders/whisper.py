"""An encoder of sound."""

raise RuntimeError("a config check must not import a part")


class Whisper:
    """Whisper's encoder."""

    modality = "audio"

    def __init__(self, weights: "Weights", *, seconds: float = 30.0, pool: int = 1) -> None:
        pass
