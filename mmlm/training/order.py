"""Which sample comes when: a pure function of (seed, epoch, index), so that resuming is arithmetic, not skipping."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from mmlm.errors import InputError


@lru_cache(maxsize=8)
def permutation(n: int, *key: int) -> NDArray[np.int64]:
    """A permutation of 0..n-1, the same for the same key everywhere and always."""
    return np.random.Generator(np.random.PCG64(list(key))).permutation(n)


@dataclass(frozen=True, slots=True)
class Mixture:
    """Several data sets drawn from by ratio: a set of n records gives round(ratio * n) samples per epoch.

    A set with ratio 0.5 gives its other half in the next epoch; one with ratio 2 gives each record twice. Over time every
    record of a set is drawn equally often, whatever the ratio.
    """

    sizes: tuple[int, ...]
    ratios: tuple[float, ...]
    seed: int

    def __post_init__(self) -> None:
        if not len(self):
            raise InputError(f"the data of this stage hold no sample (sizes {self.sizes}, ratios {self.ratios})")

    @property
    def shares(self) -> tuple[int, ...]:
        """Samples per epoch from each set."""
        return tuple(round(n * r) for n, r in zip(self.sizes, self.ratios, strict=True))

    def __len__(self) -> int:
        return sum(self.shares)

    def place(self, index: int) -> tuple[int, int]:
        """The set and the record of the `index`-th sample, counted from the beginning of the stage."""
        epoch, i = divmod(index, len(self))
        at = int(permutation(len(self), self.seed, epoch)[i])
        for d, share in enumerate(self.shares):
            if at < share:
                turn, k = divmod(epoch * share + at, self.sizes[d])
                return d, int(permutation(self.sizes[d], self.seed, 1 + d, turn)[k])
            at -= share
        raise IndexError(index)


def pack(lengths: Sequence[int], room: int) -> list[list[int]]:
    """Lay pieces into rows of at most `room`: longest first, each into the fullest row where it fits (best fit decreasing)."""
    rows: list[list[int]] = []
    left: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        fits = [r for r in range(len(rows)) if left[r] >= lengths[i]]
        if fits:
            r = min(fits, key=lambda r: (left[r], r))
        else:
            r = len(rows)
            rows.append([])
            left.append(room)
        rows[r].append(i)
        left[r] -= lengths[i]
    return rows
