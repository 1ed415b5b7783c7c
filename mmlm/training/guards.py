"""What must hold while a stage trains: finite numbers, few unusable samples, and frozen parts that stay as they are."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from mmlm.batch import Batch
from mmlm.config import StageConfig
from mmlm.errors import InputError
from mmlm.training.data import Bad


def finite(value: Tensor, stage: StageConfig, step: int, batch: Batch) -> None:
    """A loss or the norm of a gradient is a number. InputError that names the samples of `batch` where it is not."""
    if not bool(torch.isfinite(value)):
        names = ", ".join(batch.samples[:8])
        raise InputError(
            f"stage {stage.name!r}, step {step}: the loss or its gradient is {float(value.detach())}, "
            f"in the samples {names}. No weight was touched in this step. Lower the learning rate, use precision "
            f"fp32, or look at those samples"
        )


def few_bad(stage: StageConfig, step: int, counts: Mapping[str, int], bad: Sequence[Bad], listed: Path) -> None:
    """No more samples are unusable than the stage allows: `max_bad` of all so far, and of ten batches at the start."""
    seen = counts["samples"] + counts["bad"]
    if counts["bad"] > max(stage.max_bad * seen, stage.max_bad * stage.batch * 10):
        first = bad[0].reason if bad else "see the list"
        raise InputError(
            f"stage {stage.name!r}, step {step}: {counts['bad']} of {seen} samples cannot be used, more than max_bad "
            f"({stage.max_bad:g}) allows. The last: {first}. All of them: {listed}. "
            f"Mend the data (`mmlm data check` lists every fault), or raise max_bad"
        )


def unchanged(stage: StageConfig, before: Mapping[str, str], after: Mapping[str, str]) -> None:
    """The hashes of what is frozen are those of the stage's start. RuntimeError where they are not: a fault of the code."""
    if moved := [p for p in before if after.get(p) != before[p]]:
        raise RuntimeError(f"stage {stage.name!r} changed what it declares frozen: {', '.join(moved)}")
