"""Training: stages in order, each with its policy, its data and its checkpoints."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmlm.config import SystemConfig


def train(config: "SystemConfig", out: Path, stage: str | None = None) -> None:
    """Run the stages of `config` in order into the folder `out`, going on where an interrupted run stopped."""
    from mmlm.training.loop import Trainer

    Trainer(config, out).run(stage)
