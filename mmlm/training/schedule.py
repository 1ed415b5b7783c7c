"""How the learning rates of a stage rise and fall."""

import math

from mmlm.config import StageConfig


def schedule(stage: StageConfig, step: int, total: int) -> float:
    """What the learning rates are multiplied with in `step` (from 0): a linear warm-up to 1, then the stage's curve to
    `floor` at the last step."""
    warm = int(stage.warmup) if stage.warmup >= 1 else math.ceil(stage.warmup * total)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(total - warm, 1)
    curve = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[stage.schedule]
    return stage.floor + (1 - stage.floor) * curve
