"""Who sees whom in an attention: by segments, which any implementation can use, or as a dense mask."""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from mmlm.errors import InputError


@dataclass(frozen=True, eq=False)
class Dense:
    """A mask in which every query sees something: rows that saw nothing are opened, and are listed in `empty`.

    A softmax over nothing is NaN, forward and backward. So an empty row is computed as if it saw every key, and its
    output is then set to zero, which gives it zero gradient as well.
    """

    seen: Bool[Tensor, "b h t S"]
    empty: Bool[Tensor, "b h t 1"]

    @classmethod
    def of(cls, seen: Bool[Tensor, "b h t S"]) -> "Dense":
        """From a mask that is True where a query (row) sees a key (column); dimensions of 1 broadcast."""
        empty = ~seen.any(dim=-1, keepdim=True)
        return cls(seen | empty, empty)


@dataclass(frozen=True, eq=False)
class Groups:
    """The same relation for kernels over packed sequences: flat indices of the positions that take part, sorted by
    group (one segment of one row), and where each group begins."""

    queries: Int[Tensor, " q"]
    keys: Int[Tensor, " k"]
    query_starts: Int[Tensor, " n"]
    key_starts: Int[Tensor, " n"]
    longest_query: int
    longest_key: int


@dataclass(frozen=True, eq=False)
class Segments:
    """Query t sees key s iff both belong to the same segment, 0 being padding that neither sees nor is seen.

    In a causal attention the queries are the last T of the S keys, so a query sees no key that stands behind it. For
    self-attention give the same tensor twice. Make one object for a forward and hand it to every layer: what is derived
    from it is computed once.
    """

    queries: Int[Tensor, "B T"]
    keys: Int[Tensor, "B S"]
    _dense: dict[tuple[bool, int | None], Dense] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.queries.shape[0] != self.keys.shape[0]:
            raise InputError(
                f"the segments of queries have {self.queries.shape[0]} rows and those of keys {self.keys.shape[0]}; "
                f"expected the same number"
            )

    @cached_property
    def whole(self) -> bool:
        """Whether every query may see every key: one segment to each row, and no padding. Shapes alone cannot tell: False."""
        if self.keys.is_meta:
            return False
        first = self.keys[:, :1]
        return bool((first != 0).all() and (self.keys == first).all() and (self.queries == first).all())

    def dense(self, causal: bool, window: int | None = None) -> Dense:
        """The same relation as a mask."""
        if (causal, window) not in self._dense:
            seen = (self.queries[:, :, None] == self.keys[:, None, :]) & (self.queries != 0)[:, :, None]
            if causal:
                seen &= band(self.queries.shape[1], self.keys.shape[1], window, self.keys.device)
            self._dense[causal, window] = Dense.of(seen[:, None])
        return self._dense[causal, window]

    @cached_property
    def groups(self) -> Groups:
        """The same relation for kernels over packed sequences; queries whose segment has no key are left out."""
        rows = torch.arange(self.keys.shape[0], device=self.keys.device)[:, None]
        most = int(torch.maximum(self.queries.max(), self.keys.max())) + 1 if self.keys.numel() else 1
        key_group = torch.where(self.keys != 0, rows * most + self.keys, -1).flatten()
        query_group = torch.where(self.queries != 0, rows * most + self.queries, -1).flatten()
        keys, key_counts = _sorted_members(key_group, most * len(rows))
        if self.queries is self.keys:
            queries, query_counts = keys, key_counts
        else:
            query_group = torch.where(key_counts[query_group.clamp(min=0)] > 0, query_group, -1)
            queries, query_counts = _sorted_members(query_group, most * len(rows))
        used = (query_counts > 0).nonzero().flatten()
        key_starts = _starts(key_counts[used])
        # Kernels may need to see by identity that queries and keys are the same sequences.
        same = self.queries is self.keys
        keys = keys if same else keys[torch.isin(key_group[keys], used)]
        return Groups(
            queries,
            keys,
            key_starts if same else _starts(query_counts[used]),
            key_starts,
            int(query_counts.max()) if len(used) else 0,
            int(key_counts[used].max()) if len(used) else 0,
        )


def band(queries: int, keys: int, window: int | None, device: torch.device) -> Bool[Tensor, "T S"]:
    """The causal mask of `queries` that are the last of `keys`; each sees itself and the `window` - 1 keys before it."""
    ahead = torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)
    seen = ahead >= 0
    return seen if window is None else seen & (ahead < window)


def _sorted_members(group: Int[Tensor, " n"], groups: int) -> tuple[Int[Tensor, " m"], Int[Tensor, " g"]]:
    """Indices of what is in a group (not -1), group after group and in order within it; and the size of each group."""
    order = torch.argsort(group, stable=True)
    members = order[group[order] >= 0]
    return members, torch.bincount(group[members], minlength=groups)


def _starts(counts: Int[Tensor, " n"]) -> Int[Tensor, " m"]:
    """0, then the running sum of counts, in the 32-bit integers that the kernels take."""
    return torch.nn.functional.pad(counts.cumsum(0), (1, 0)).int()
