"""The training loop: stages in order, one optimiser step at a time."""

import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from tqdm import tqdm

from mmlm.assemble import Assembly, assemble
from mmlm.batch import Batch
from mmlm.caches import FeatureCache, GoalCache, StateCache
from mmlm.config import DataConfig, SystemConfig
from mmlm.data.opening import open_reader
from mmlm.errors import InputError
from mmlm.objectives import MEDIA
from mmlm.templates import find
from mmlm.training import checkpoint, guards, policy, ranks, run
from mmlm.training.checkpoint import Checkpoint
from mmlm.training.data import Step, Steps
from mmlm.training.order import Mixture
from mmlm.training.record import Record
from mmlm.training.saving import Saving, Standing
from mmlm.training.schedule import schedule

log = logging.getLogger(__name__)


class Trainer:
    """Trains one system into one run folder. What it knows between two steps is what a checkpoint holds."""

    def __init__(self, config: SystemConfig, out: Path) -> None:
        if not config.stages:
            raise InputError(
                f"config {config.name!r} has no stages; add `stages`, or use `mmlm reply` on an imported run"
            )
        self.config, self.out = config, out
        self.accelerator = ranks.accelerator_for(config)
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
        self.plain = assembly.model
        self.plain.cache = (
            FeatureCache(self.stage.cache_features << 20, alone=True) if self.stage.cache_features else None
        )
        self.plain.thoughts = StateCache(self.stage.cache_states << 20) if self.stage.cache_states else None
        self.plain.anchored = self.accelerator.num_processes > 1
        self.weights = {name: weight for name, weight in self.stage.objectives.items() if weight}
        self.counted = list(dict.fromkeys(n.partition(".")[0] for n in self.weights))
        groups = policy.apply(self.plain, self.stage)
        self.frozen = policy.frozen(self.plain)
        self._aim()
        trained = trained_before | set(self.stage.train)
        # Lent parts are frozen: their hashes were just made, and are the same at every save.
        lent = run.lent(self.plain, assembly.borrowed, trained, self.frozen) if self.main else {}
        self.plain.backbone.recompute(self.stage.gradient_checkpointing)
        self.data = self._data(self.stage.data)
        self.total = self.data.total
        fused = self.accelerator.device.type in ("cpu", "cuda")
        unnamed = [{k: v for k, v in g.items() if k != "names"} for g in groups]
        optimizer = torch.optim.AdamW(unnamed, betas=self.stage.betas, eps=self.stage.eps, fused=fused)
        self.model, self.optimizer = self.accelerator.prepare(self.plain, optimizer)
        if any(isinstance(p, DTensor) for p in self.plain.parameters()):
            self.frozen = policy.frozen(self.plain)  # each rank holds a shard now, and will compare that
        self.saving = Saving(
            *(self.out / "checkpoints", self.accelerator, assembly, self.config, index, self.total),
            *(trained, lent, groups, self.optimizer),
        )
        self.standing = Standing()

    def _aim(self) -> None:
        """Tell the model what to compute beside the loss of text, and where goals of frozen decoders are kept."""
        ways = self.plain.ways_out
        named = [n.split(".", 1) for n in self.weights if n != "text"]
        self.plain.objectives = {w: [kind for way, kind in named if way == w] for w in ways}
        self.plain.spoken = "text" in self.weights
        made = {n: h for n in ways if (h := self.frozen.get(f"outputs.{n}.decoder"))}
        self.plain.goals = GoalCache(self.out / "goals", made) if named else None

    def _data(self, entries: Sequence[DataConfig]) -> Steps:
        stage, assembly = self.stage, self.assembly
        readers = [open_reader(d) for d in entries]
        mixture = Mixture(
            tuple(len(r) for r in readers), tuple(d.ratio for d in entries), self.config.seed + 1000 * self.index
        )
        total = stage.steps or max(1, math.ceil(len(mixture) * stage.epochs / stage.batch))
        template = find(stage.template) if stage.template else None
        rank, world = self.accelerator.process_index, self.accelerator.num_processes
        media = frozenset(w for w, kinds in self.plain.objectives.items() if any(k in MEDIA for k in kinds))
        processor = replace(assembly.processor, media=media)
        return Steps(readers, mixture, processor, stage, template, total, rank, world)

    def run(self, found: Checkpoint | None) -> None:
        """Train to the stage's end, from `found` where the stage was interrupted."""
        checkpoint.seed_everything(self.config.seed, self.index, self.accelerator.process_index)
        start, offsets = 0, None
        if found:
            (start, self.standing), offsets = self.saving.resume(found), found.state["files"]
        elif self.index:
            before, _ = checkpoint.newest(self.out / "checkpoints")
            offsets = before.state["files"] if before else None
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
                guards.few_bad(self.stage, step, self.standing.counts, share.bad, self.out / "quarantine.jsonl")
                self._after(step, last, record)
                bar.set_postfix({"loss": f"{line['loss']:.3f}"}, refresh=False)
                bar.update()
        if bad := self.standing.counts["bad"]:
            where = self.out / "quarantine.jsonl"
            log.warning("stage %s: %d samples were quarantined; see %s", self.stage.name, bad, where)

    def _after(self, step: int, last: bool, record: Record | None) -> None:
        """What follows a step now and then: validation, the check of what is frozen, a checkpoint."""
        every = self.stage.save_every or max(1, math.ceil(self.total / 10))
        validate = self.stage.validate_every
        if self.stage.validation and (last or (validate and (step + 1) % validate == 0)):
            value = self._validate()
            if record:
                record.validation(self.stage.name, step, value)
        if last:
            guards.unchanged(self.stage, self.frozen, policy.frozen(self.plain))
        if last or (step + 1) % every == 0:
            self.saving.save(step + 1, self.standing, record.offsets() if record else None)

    def _step(self, step: int, share: Step) -> dict[str, Any]:
        """One optimiser step: the sum of each loss over the count of what it is about (supervised tokens, or runs of an output
        stream) in all ranks and micro-batches."""
        began = time.perf_counter()
        for group in self.optimizer.param_groups:
            group["lr"] = group["base_lr"] * schedule(self.stage, step, self.total)
        numbers = [share.samples, share.count("text"), len(share.bad), share.dropped, *map(share.count, self.counted)]
        samples, tokens, bad, dropped, *found = ranks.counts(self.accelerator, numbers)
        for key, number in (("samples", samples), ("tokens", tokens), ("bad", bad), ("dropped", dropped)):
            self.standing.counts[key] += number
        rate = self.optimizer.param_groups[0]["lr"]
        line = {"loss": 0.0, "tokens": tokens, "samples": samples, "lr": rate, "grad_norm": 0.0}
        count = {name: number for name, number in zip(self.counted, found, strict=True) if number}
        if not count:
            return line
        batches = self._in_step(share.batches)
        sums: dict[str, Tensor] = {}
        for i, batch in enumerate(batches):
            with self.accelerator.no_sync(self.model) if i + 1 < len(batches) else nullcontext():
                with self.accelerator.autocast():
                    losses = self.model(batch.to(self.accelerator.device))
                loss = torch.zeros((), device=self.accelerator.device)
                for name, total in losses.total.items():
                    if name not in self.weights or not (runs := count.get(name.partition(".")[0])):
                        continue
                    guards.finite(total, self.stage, step, batch)
                    # DDP and FSDP average over ranks; the sum is wanted.
                    loss = loss + total.float() * (self.weights[name] * self.accelerator.num_processes / runs)
                    sums[name] = sums.get(name, torch.zeros_like(loss)) + total.detach().float()
                if loss.requires_grad:  # text that a frozen LLM says teaches nobody anything
                    self.accelerator.backward(loss)
        self._verify(batches)
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), self.stage.clip or float("inf"))
        guards.finite(norm, self.stage, step, batches[-1])
        self.optimizer.step()
        self.optimizer.zero_grad()
        means = self._means(sums, count)
        shown = means if len(self.weights) > 1 else {}
        whole = sum(self.weights[n] * v for n, v in means.items())
        return line | {"loss": whole, **shown, "grad_norm": float(norm), "seconds": time.perf_counter() - began}

    def _means(self, sums: Mapping[str, Tensor], count: Mapping[str, int]) -> dict[str, float]:
        """The mean of each objective that has something to be about, over all ranks."""
        zero = torch.zeros((), device=self.accelerator.device)
        names = [n for n in self.weights if n.partition(".")[0] in count]
        return {n: ranks.total(self.accelerator, sums.get(n, zero)) / count[n.partition(".")[0]] for n in names}

    def _in_step(self, batches: list[Batch]) -> list[Batch]:
        """As many batches as the busiest rank has, so that every collective finds all ranks there."""
        return batches + [self.data.blank()] * (ranks.most(self.accelerator, len(batches)) - len(batches))

    def _verify(self, batches: list[Batch]) -> None:
        """Check the policy against the gradients once a step has used every stream in, and every stream out that has an
        objective."""
        used = {("in", n) for b in batches for n in b.streams} | {("out", n) for b in batches for n in b.targets}
        ways = [n for n, kinds in self.plain.objectives.items() if kinds]
        if not self.standing.verified and used >= {("in", n) for n in self.plain.inputs} | {("out", n) for n in ways}:
            policy.verify(self.plain, self.stage.name)
            self.standing.verified = True

    @torch.no_grad()
    def _validate(self) -> float:
        """The held-out loss, weighted as in training; leaves every RNG as it was."""
        tensors, rest = checkpoint.rng_state()
        self.model.eval()
        data = self._data(self.stage.validation)
        data.total = math.ceil(len(data.mixture) / self.stage.batch)
        data.stage = self.stage.model_copy(update={"data": self.stage.validation})
        sums: dict[str, Tensor] = {}
        counts = [0] * len(self.counted)
        for share in data.loader(0):
            for batch in self._in_step(share.batches):
                with self.accelerator.autocast():
                    losses = self.model(batch.to(self.accelerator.device))
                for name, total in losses.total.items():
                    sums[name] = sums.get(name, torch.zeros_like(total)) + total.float()
            counts = [a + share.count(n) for a, n in zip(counts, self.counted, strict=True)]
        self.model.train()
        checkpoint.set_rng_state(tensors, rest)
        found = zip(self.counted, ranks.counts(self.accelerator, counts), strict=True)
        means = self._means(sums, {n: max(number, 1) for n, number in found})
        return sum(self.weights[n] * v for n, v in means.items())
