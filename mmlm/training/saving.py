"""What a checkpoint of a stage holds, so that training goes on as if nothing had happened, and the way back."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from torch import Tensor

from mmlm.assemble import Assembly
from mmlm.config import SystemConfig
from mmlm.errors import InputError
from mmlm.training import checkpoint, ranks, run
from mmlm.training.checkpoint import Checkpoint
from mmlm.training.manifest import FORMAT

log = logging.getLogger(__name__)
KEEP = 2


def _none() -> dict[str, int]:
    return {"samples": 0, "tokens": 0, "bad": 0, "dropped": 0}


@dataclass(slots=True)
class Standing:
    """What a stage knows of itself and is no tensor: what it has seen, and whether its policy was verified."""

    counts: dict[str, int] = field(default_factory=_none)
    verified: bool = False


@dataclass(frozen=True, slots=True)
class Saving:
    """The checkpoints of one stage."""

    folder: Path
    accelerator: Accelerator
    assembly: Assembly
    config: SystemConfig
    index: int  # of the stage
    total: int  # steps of the stage
    trained: set[str]  # part ids that this stage or one before it trains
    lent: Mapping[str, str]  # hashes of the parts that are not in the checkpoint; empty on ranks other than the first
    groups: Sequence[Mapping[str, Any]]  # of the optimiser, with the `names` of their parameters
    optimizer: Any

    def save(self, step: int, standing: Standing, files: Mapping[str, int] | None) -> None:
        """Write the checkpoint of `step`; `files` says how long the record's files are now (None on ranks that keep none).
        All ranks call it."""
        model, borrowed = self.assembly.model, self.assembly.borrowed
        weights = {n: ranks.whole(t) for n, t in run.carried(model, borrowed, self.trained).items()}
        moments = {f"{n}/{k}": ranks.whole(v) for n, p in self._optimised() for k, v in self.optimizer.state[p].items()}
        rng = ranks.everyone(self.accelerator, checkpoint.rng_state())
        if files is not None:
            stage = self.config.stages[self.index]
            state = {
                "format": FORMAT,
                "stage": stage.name,
                "stage_index": self.index,
                "step": step,
                "total": self.total,
                "cursor": step * stage.batch,
                "counts": standing.counts,
                "trained": sorted(self.trained),
                "whole": sorted(run.whole(borrowed, self.trained)),
                "lent": self.lent,
                "verified": standing.verified,
                "rng": [rest for _, rest in rng],
                "files": files,
                "vocabulary": self.assembly.vocabulary.fingerprint(),
                "config": self.config.model_dump(mode="json"),
            }
            generators = {f"{i}.{k}": v for i, (tensors, _) in enumerate(rng) for k, v in tensors.items()}
            tensors = {"weights": weights, "optimizer": moments, "rng": generators}
            checkpoint.write(self.folder, f"{self.index:02d}-{stage.name}-{step:08d}", tensors, state)
            checkpoint.prune(self.folder, KEEP)
        self.accelerator.wait_for_everyone()

    def resume(self, found: Checkpoint) -> tuple[int, Standing]:
        """Take optimiser and RNGs from a checkpoint, whose weights are in the model already; gives the steps that are done
        and the standing then."""
        state = found.state
        if state["total"] != self.total:
            raise InputError(
                f"{found.path} was made for a stage of {state['total']} steps, but the data now give {self.total}; put the "
                f"data back as they were"
            )
        parameters = dict(self._optimised())
        for key, value in found.tensors("optimizer").items():
            name, _, moment = key.rpartition("/")
            self.optimizer.state[parameters[name]][moment] = ranks.like(value, parameters[name])
        then, now = len(state["rng"]), self.accelerator.num_processes
        if then != now:
            log.warning("%s was written by %d processes and %d go on: dropout will differ", found.path, then, now)
        at = min(self.accelerator.process_index, then - 1)
        mine = {k.partition(".")[2]: v for k, v in found.tensors("rng").items() if k.startswith(f"{at}.")}
        checkpoint.set_rng_state(mine, state["rng"][at])
        return int(state["step"]), Standing(dict(state["counts"]), bool(state["verified"]))

    def _optimised(self) -> list[tuple[str, Tensor]]:
        """The optimiser's parameters by name; a wrapper may have put others in place of the model's."""
        pairs = zip(self.groups, self.optimizer.param_groups, strict=True)
        return [(n, p) for ours, theirs in pairs for n, p in zip(ours["names"], theirs["params"], strict=True)]
