"""The training loop: stages in order, one optimiser step at a time, and the way back after any interruption."""

import logging
import math
import os
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from tqdm import tqdm

from mmlm.assemble import Assembly, assemble
from mmlm.batch import Batch
from mmlm.config import StageConfig, SystemConfig
from mmlm.errors import InputError
from mmlm.model import FeatureCache
from mmlm.templates import find
from mmlm.training import checkpoint, policy, run
from mmlm.training.checkpoint import Checkpoint
from mmlm.training.data import Step, Steps, open_reader
from mmlm.training.manifest import FORMAT
from mmlm.training.order import Mixture
from mmlm.training.record import Record

log = logging.getLogger(__name__)
KEEP = 2


def schedule(stage: StageConfig, step: int, total: int) -> float:
    """What the learning rates are multiplied with in `step` (from 0): a linear warm-up to 1, then the stage's curve to
    `floor` at the last step."""
    warm = int(stage.warmup) if stage.warmup >= 1 else math.ceil(stage.warmup * total)
    if step < warm:
        return (step + 1) / warm
    done = (step - warm) / max(total - warm, 1)
    curve = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2}[stage.schedule]
    return stage.floor + (1 - stage.floor) * curve


class Trainer:
    """Trains one system into one run folder. What it knows between two steps is what a checkpoint holds."""

    def __init__(self, config: SystemConfig, out: Path) -> None:
        if not config.stages:
            raise InputError(
                f"config {config.name!r} has no stages; add `stages`, or use `mmlm reply` on an imported run"
            )
        self.config, self.out = config, out
        self.accelerator = _accelerator(config)
        self.main = self.accelerator.is_main_process

    def run(self, only: str | None = None) -> None:
        """Run all stages that are not done, or the one named."""
        names = [s.name for s in self.config.stages]
        if only is not None and only not in names:
            raise InputError(f"there is no stage {only!r}; the config has {', '.join(names)}")
        if self.main:
            with run.open_run(self.out, self.config):
                self._run(names, only)
        else:
            self._run(names, only)

    def _run(self, names: list[str], only: str | None) -> None:
        found, passed = checkpoint.newest(self.out / "checkpoints")
        for reason in passed:
            log.warning("passed over a checkpoint that is not whole: %s", reason)
        state = found.state if found else None
        done = names[: state["stage_index"] + (state["step"] == state["total"])] if state else []
        todo = [n for n in ([only] if only else names) if n not in done]
        if only and todo and names.index(only) != len(done):
            raise InputError(f"stage {only!r} needs the stages before it; done so far: {', '.join(done) or 'none'}")
        if not todo:
            log.info("%s: nothing left to train (done: %s)", self.out, ", ".join(done))
            return
        device = self.accelerator.device
        assembly = (
            run.load_checkpoint(self.out, self.config, found, device) if found else assemble(self.config, device=device)
        )
        if self.main and not (self.out / "vocabulary").is_dir():
            assembly.vocabulary.save(self.out / "vocabulary")
        ever = set(state["trained"]) if state else set()
        for name in todo:
            index = names.index(name)
            going_on = found if state and state["stage_index"] == index and state["step"] < state["total"] else None
            StageRun(self, assembly, index, ever).run(going_on)
            ever |= set(self.config.stages[index].train)


class StageRun:
    """One stage under way."""

    def __init__(self, trainer: Trainer, assembly: Assembly, index: int, trained_before: set[str]) -> None:
        self.out, self.accelerator, self.main = trainer.out, trainer.accelerator, trainer.main
        self.assembly, self.index = assembly, index
        self.config, self.stage = trainer.config, trainer.config.stages[index]
        self.trained = trained_before | set(self.stage.train)
        self.plain = assembly.model
        self.plain.cache = (
            FeatureCache(self.stage.cache_features << 20, alone=True) if self.stage.cache_features else None
        )
        self.plain.anchored = self.accelerator.num_processes > 1
        self.groups = policy.apply(self.plain, self.stage)
        # Lent parts are frozen, so that their hash is the same at every save; a 7B LLM is not read anew for each.
        self.lent = run.lent(self.plain, self.assembly.borrowed, self.trained) if self.main else {}
        self.plain.backbone.recompute(self.stage.gradient_checkpointing)
        self.opened = {id(p) for g in self.groups for p in g["params"]}
        self.data = self._data(self.stage.data)
        self.total = self.data.total
        fused = self.accelerator.device.type in ("cpu", "cuda")
        groups = [{k: v for k, v in g.items() if k != "names"} for g in self.groups]
        optimizer = torch.optim.AdamW(groups, betas=self.stage.betas, eps=self.stage.eps, fused=fused)
        self.model, self.optimizer = self.accelerator.prepare(self.plain, optimizer)
        self.verified = False
        self.counts = {"samples": 0, "tokens": 0, "bad": 0, "dropped": 0}

    def _data(self, entries: Any) -> Steps:
        stage, assembly = self.stage, self.assembly
        readers = [open_reader(d) for d in entries]
        mixture = Mixture(
            tuple(len(r) for r in readers), tuple(d.ratio for d in entries), self.config.seed + 1000 * self.index
        )
        total = stage.steps or max(1, math.ceil(len(mixture) * stage.epochs / stage.batch))
        template = find(stage.template) if stage.template else None
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        return Steps(readers, mixture, assembly.processor, stage, template, total, rank, world)

    def run(self, found: Checkpoint | None) -> None:
        """Train to the stage's end, from `found` where the stage was interrupted."""
        checkpoint.seed_everything(self.config.seed, self.index, self.accelerator.process_index)
        start, offsets = 0, None
        if found:
            start, offsets = self._resume(found), found.state["files"]
        elif self.index:
            before, _ = checkpoint.newest(self.out / "checkpoints")
            offsets = before.state["files"] if before else None
        frozen = policy.frozen(self.plain)
        self.model.train()
        with ExitStack() as stack:
            record = stack.enter_context(closing(Record(self.out, offsets or {}, start))) if self.main else None
            shown = self.main and sys.stderr.isatty()
            about = {"desc": self.stage.name, "unit": "step", "disable": not shown, "file": sys.stderr}
            bar = stack.enter_context(tqdm(total=self.total, initial=start, **about))
            for step, share in enumerate(self.data.loader(start), start=start):
                line = self._step(step, share)
                last = step + 1 == self.total
                if record:
                    record.step(self.stage.name, step, line, share.bad, last or step % self.stage.log_every == 0)
                self._limit_bad(share, step)
                self._after(step, last, record, frozen)
                bar.set_postfix({"loss": f"{line['loss']:.3f}"}, refresh=False)
                bar.update()
        if self.counts["bad"]:
            bad, where = self.counts["bad"], self.out / "quarantine.jsonl"
            log.warning("stage %s: %d samples were quarantined; see %s", self.stage.name, bad, where)

    def _after(self, step: int, last: bool, record: Record | None, frozen: Mapping[str, str]) -> None:
        """What follows a step now and then: validation, the check of what is frozen, a checkpoint."""
        every = self.stage.save_every or max(1, math.ceil(self.total / 10))
        validate = self.stage.validate_every
        if self.stage.validation and (last or (validate and (step + 1) % validate == 0)):
            value = self._validate()
            if record:
                record.validation(self.stage.name, step, value)
        if last:
            self._unchanged(frozen)
        if last or (step + 1) % every == 0:
            self._save(step + 1, record)

    def _step(self, step: int, share: Step) -> dict[str, Any]:
        """One optimiser step: the sum of the losses over the count of supervised tokens of all ranks and micro-batches."""
        began = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * schedule(self.stage, step, self.total)
        count, samples, bad, dropped = self._across([share.learned, share.samples, len(share.bad), share.dropped])
        self._count(samples, count, bad, dropped)
        line: dict[str, Any] = {
            "loss": 0.0,
            "tokens": count,
            "samples": samples,
            "lr": self.optimizer.param_groups[0]["lr"],
            "grad_norm": 0.0,
        }
        if not count:
            return line
        batches = self._in_step(share.batches)
        total = torch.zeros((), device=self.accelerator.device)
        for i, batch in enumerate(batches):
            with self.accelerator.no_sync(self.model) if i + 1 < len(batches) else nullcontext():
                with self.accelerator.autocast():
                    losses = self.model(batch.to(self.accelerator.device))
                loss = losses.total["text"].float()
                self._finite(loss, step, batch)
                # DDP and FSDP average over ranks; the sum is wanted. Text that a frozen LLM says teaches nobody anything.
                if loss.requires_grad:
                    self.accelerator.backward(loss * (self.accelerator.num_processes / count))
            total += loss.detach()
        self._verify(batches)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.stage.clip or float("inf"))
        self._finite(norm, step, batches[-1])
        self.optimizer.step()
        self.optimizer.zero_grad()
        line |= {"loss": self._sum(total) / count, "grad_norm": float(norm), "seconds": time.perf_counter() - began}
        return line

    def _across(self, numbers: list[int]) -> list[int]:
        """Sums over ranks."""
        if self.accelerator.num_processes == 1:
            return numbers
        summed = self.accelerator.reduce(torch.tensor(numbers, device=self.accelerator.device), "sum")
        return [int(n) for n in summed.tolist()]  # type: ignore[union-attr]

    def _sum(self, value: Tensor) -> float:
        return float(self.accelerator.reduce(value, "sum"))  # type: ignore[arg-type]

    def _count(self, samples: int, tokens: int, bad: int, dropped: int) -> None:
        for key, value in zip(("samples", "tokens", "bad", "dropped"), (samples, tokens, bad, dropped), strict=True):
            self.counts[key] += value

    def _in_step(self, batches: list[Batch]) -> list[Batch]:
        """As many batches as the busiest rank has, so that every collective finds all ranks there."""
        if self.accelerator.num_processes == 1:
            return batches
        most = int(self.accelerator.gather(torch.tensor([len(batches)], device=self.accelerator.device)).max())  # type: ignore[union-attr]
        return batches + [self.data.blank()] * (most - len(batches))

    def _verify(self, batches: list[Batch]) -> None:
        """Check the policy against the gradients once a step has used every stream."""
        streams = {n for b in batches for n in b.streams}
        if not self.verified and streams == set(self.plain.inputs):
            policy.verify(self.plain, self.stage.name)
            self.verified = True

    def _finite(self, value: Tensor, step: int, batch: Batch) -> None:
        if not bool(torch.isfinite(value)):
            names = ", ".join(batch.samples[:8])
            raise InputError(
                f"stage {self.stage.name!r}, step {step}: the loss or its gradient is {float(value.detach())}, "
                f"in the samples {names}. No weight was touched in this step. Lower the learning rate, use precision "
                f"fp32, or look at those samples"
            )

    def _limit_bad(self, share: Step, step: int) -> None:
        """Stop when more samples are unusable than the stage allows."""
        seen = self.counts["samples"] + self.counts["bad"]
        allowed = max(self.stage.max_bad * seen, self.stage.max_bad * self.stage.batch * 10)
        if self.counts["bad"] > allowed:
            first = share.bad[0].reason if share.bad else "see the list"
            raise InputError(
                f"stage {self.stage.name!r}, step {step}: {self.counts['bad']} of {seen} samples cannot be used, more than max_bad "
                f"({self.stage.max_bad:g}) allows. The last: {first}. All of them: {self.out / 'quarantine.jsonl'}. "
                f"Mend the data (`mmlm data check` lists every fault), or raise max_bad"
            )

    def _unchanged(self, before: Mapping[str, str]) -> None:
        after = policy.frozen(self.plain)
        if moved := [p for p in before if after.get(p) != before[p]]:
            raise RuntimeError(f"stage {self.stage.name!r} changed what it declares frozen: {', '.join(moved)}")

    @torch.no_grad()
    def _validate(self) -> float:
        """The held-out loss per supervised token; leaves every RNG as it was."""
        tensors, rest = checkpoint.rng_state()
        self.model.eval()
        data = self._data(self.stage.validation)
        data.total = math.ceil(len(data.mixture) / self.stage.batch)
        data.stage = self.stage.model_copy(update={"data": self.stage.validation})
        total, count = torch.zeros((), device=self.accelerator.device), 0
        for share in data.loader(0):
            for batch in self._in_step(share.batches):
                with self.accelerator.autocast():
                    total += self.model(batch.to(self.accelerator.device)).total["text"].float()
            count += share.learned
        self.model.train()
        checkpoint.set_rng_state(tensors, rest)
        return self._sum(total) / max(self._across([count])[0], 1)

    def _save(self, step: int, record: Record | None) -> None:
        """Write the checkpoint of `step`: what it needs to go on as if nothing had happened."""
        carried = run.carried(self.plain, self.assembly.borrowed, self.trained)
        weights = {n: whole(t) for n, t in carried.items()}
        moments = {f"{n}/{k}": whole(v) for n, p in self._optimised() for k, v in self.optimizer.state[p].items()}
        tensors, rest = checkpoint.rng_state()
        ranks = self._every_rank((tensors, rest))
        if not self.main or record is None:
            self.accelerator.wait_for_everyone()
            return
        state = {
            "format": FORMAT,
            "stage": self.stage.name,
            "stage_index": self.index,
            "step": step,
            "total": self.total,
            "cursor": step * self.stage.batch,
            "counts": self.counts,
            "trained": sorted(self.trained),
            "whole": sorted(run.whole(self.assembly.borrowed, self.trained)),
            "lent": self.lent,
            "verified": self.verified,
            "rng": [r for _, r in ranks],
            "files": record.offsets(),
            "vocabulary": self.assembly.vocabulary.fingerprint(),
            "config": self.config.model_dump(mode="json"),
        }
        rng = {f"{i}.{k}": v for i, (t, _) in enumerate(ranks) for k, v in t.items()}
        name = f"{self.index:02d}-{self.stage.name}-{step:08d}"
        folder = self.out / "checkpoints"
        checkpoint.write(folder, name, {"weights": weights, "optimizer": moments, "rng": rng}, state)
        checkpoint.prune(folder, KEEP)
        self.accelerator.wait_for_everyone()

    def _optimised(self) -> list[tuple[str, Tensor]]:
        """The optimiser's parameters by name; a wrapper may have put others in place of the model's."""
        pairs = zip(self.groups, self.optimizer.param_groups, strict=True)
        return [(n, p) for ours, theirs in pairs for n, p in zip(ours["names"], theirs["params"], strict=True)]

    def _every_rank(self, mine: Any) -> list[Any]:
        if self.accelerator.num_processes == 1:
            return [mine]
        everyone: list[Any] = [None] * self.accelerator.num_processes
        torch.distributed.all_gather_object(everyone, mine)
        return everyone

    def _resume(self, found: Checkpoint) -> int:
        """Take optimiser, RNGs and counts from a checkpoint; the weights are in the model already."""
        state = found.state
        if state["total"] != self.total:
            raise InputError(
                f"{found.path} was made for a stage of {state['total']} steps, but the data now give {self.total}; put the "
                f"data back as they were"
            )
        parameters = dict(self._optimised())
        for key, value in found.tensors("optimizer").items():
            name, _, moment = key.rpartition("/")
            self.optimizer.state[parameters[name]][moment] = like(value, parameters[name])
        rng, rank = found.tensors("rng"), self.accelerator.process_index
        if len(state["rng"]) != self.accelerator.num_processes:
            log.warning(
                "%s was written by %d processes and %d go on: dropout will differ",
                found.path,
                len(state["rng"]),
                self.accelerator.num_processes,
            )
        at = min(rank, len(state["rng"]) - 1)
        checkpoint.set_rng_state(
            {k.partition(".")[2]: v for k, v in rng.items() if k.startswith(f"{at}.")}, state["rng"][at]
        )
        self.counts, self.verified = dict(state["counts"]), bool(state["verified"])
        return int(state["step"])


def whole(tensor: Tensor) -> Tensor:
    """A tensor in full on the CPU, gathered from all ranks where FSDP has spread it (a collective: all ranks call it)."""
    return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()


def like(value: Tensor, parameter: Tensor) -> Tensor:
    """A whole tensor as the optimiser keeps it: a step count as it is, a moment where and how its parameter is."""
    if value.shape != parameter.shape:
        return value.clone()
    if isinstance(parameter, DTensor):
        return distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
    return value.to(parameter.device, copy=True)


def _accelerator(config: SystemConfig) -> Accelerator:
    precisions = {s.precision for s in config.stages}
    if len(precisions) > 1:
        raise InputError(f"all stages must use one precision; the config has {', '.join(sorted(precisions))}")
    mixed = "bf16" if precisions == {"bf16"} else "no"
    os.environ.setdefault("ACCELERATE_USE_CPU", "false" if torch.cuda.is_available() else "true")
    return Accelerator(mixed_precision=mixed, cpu=not torch.cuda.is_available())
