"""What a run writes down while it trains: metrics.jsonl (the source of every plot), quarantine.jsonl, TensorBoard.

metrics.jsonl and quarantine.jsonl hold nothing that depends on the clock, so that an interrupted run and an
uninterrupted one end with the same bytes; times go to timings.jsonl.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from torch.utils.tensorboard.writer import SummaryWriter

from mmlm.training.data import Bad

_FILES = ("metrics", "quarantine", "timings")


class Record:
    """Append-only files of a run. `offsets` (from the checkpoint) says how long each was then; what came after is cut off."""

    def __init__(self, out: Path, offsets: Mapping[str, int], step: int) -> None:
        self.files: dict[str, TextIO] = {}
        for name in _FILES:
            path = out / f"{name}.jsonl"
            path.touch()
            with path.open("r+b") as f:
                f.truncate(offsets.get(name, 0))
            self.files[name] = path.open("a", encoding="utf-8")
        self.board = SummaryWriter(str(out / "tensorboard"), purge_step=step or None)

    def _line(self, name: str, value: Mapping[str, Any]) -> None:
        self.files[name].write(json.dumps(value) + "\n")
        self.files[name].flush()

    def step(self, stage: str, step: int, line: Mapping[str, Any], bad: Sequence[Bad], shown: bool) -> None:
        """One optimiser step: its numbers where `shown`, and always the samples it could not use."""
        for b in bad:
            self._line("quarantine", {"stage": stage, "step": step, **asdict(b)})
        if not shown:
            return
        seconds = line.get("seconds", 0.0)
        numbers = {k: v for k, v in line.items() if k != "seconds"}
        self._line("metrics", {"stage": stage, "step": step, **numbers})
        self._line("timings", {"stage": stage, "step": step, "seconds": seconds, "tokens": line["tokens"]})
        for key, value in numbers.items():
            self.board.add_scalar(f"{stage}/{key}", value, step)
        if seconds:
            self.board.add_scalar(f"{stage}/supervised_tokens_per_second", line["tokens"] / seconds, step)

    def validation(self, stage: str, step: int, loss: float) -> None:
        """A held-out loss."""
        self._line("metrics", {"stage": stage, "step": step, "validation_loss": loss})
        self.board.add_scalar(f"{stage}/validation_loss", loss, step)

    def offsets(self) -> dict[str, int]:
        """How long each file is now, flushed."""
        return {name: f.tell() for name, f in self.files.items()}

    def close(self) -> None:
        """Close all files."""
        for f in self.files.values():
            f.close()
        self.board.close()
