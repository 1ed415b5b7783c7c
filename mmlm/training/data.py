"""From data sets to the micro-batches of an optimiser step; runs in data workers."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch.utils.data import DataLoader, Dataset

from mmlm.batch import IGNORE, Batch
from mmlm.config import StageConfig
from mmlm.errors import InputError
from mmlm.interfaces import Reader
from mmlm.processor import Example, Processor
from mmlm.templates import Template
from mmlm.training.order import Mixture, pack


@dataclass(frozen=True, slots=True)
class Bad:
    """A sample that could not be used: where it stands, and why."""

    origin: str
    reason: str


@dataclass(slots=True)
class Step:
    """One rank's share of an optimiser step."""

    batches: list[Batch]
    bad: list[Bad] = field(default_factory=list)
    samples: int = 0
    dropped: int = 0

    def count(self, name: str) -> int:
        """Supervised tokens ("text"), or runs of an output stream."""
        return sum(b.counts.get(name, 0) for b in self.batches)


@dataclass(slots=True)
class Steps(Dataset[Step]):
    """Step s of a stage holds the samples s * batch ... (s + 1) * batch - 1 of its mixture; rank r takes every world-th.

    A sample that cannot be used leaves its step one smaller; nothing takes its place.
    """

    readers: Sequence[Reader]
    mixture: Mixture
    processor: Processor
    stage: StageConfig
    template: Template | None
    total: int
    rank: int = 0
    world: int = 1

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, step: int) -> Step:
        first = step * self.stage.batch
        examples, bad = [], []
        for index in range(first + self.rank, first + self.stage.batch, self.world):
            d, record = self.mixture.place(index)
            try:
                sample = self.readers[d][record]
                examples.append(self.processor(sample, template=self.template, length=self.stage.length))
            except InputError as e:
                bad.append(Bad(self.readers[d].where(record), str(e)))
        batches = self.lay(examples)
        return Step(batches, bad, len(examples), sum(e.dropped for e in examples))

    def lay(self, examples: Sequence[Example]) -> list[Batch]:
        """Micro-batches: rows packed to the stage's length, or one sample a row with like lengths together."""
        if self.stage.pack:
            rows = pack([len(e) for e in examples], self.stage.length or self.processor.length)
        else:
            rows = [[i] for i in sorted(range(len(examples)), key=lambda i: (-len(examples[i]), i))]
        size = self.stage.micro_batch or max(len(rows), 1)
        groups = [rows[i : i + size] for i in range(0, len(rows), size)]
        return [self.processor.collate([[examples[i] for i in row] for row in group]) for group in groups]

    def blank(self) -> Batch:
        """A batch with nothing to learn, for a rank that must keep step with the others."""
        return self.processor.collate([[Example([self.processor.vocabulary.pad], [IGNORE], [], "blank")]])

    def loader(self, start: int) -> Iterable[Step]:
        """Steps start ... total - 1, prepared ahead by the stage's workers."""
        return DataLoader(
            self,
            sampler=range(start, self.total),
            batch_size=None,
            generator=torch.Generator(),  # its own, so that making a loader draws nothing from the global one
            num_workers=self.stage.workers,
            prefetch_factor=2 if self.stage.workers else None,
        )
