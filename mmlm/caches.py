"""What frozen parts said, kept by content: features of encoders, states of the LLM, goals of decoders. Each is made once."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Generic, TypeVar
from uuid import uuid4

import torch
from jaxtyping import Float, Int
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmlm.backbones.backbone import Backbone
from mmlm.batch import IGNORE, Batch, Targets, Units
from mmlm.interfaces import Condition, Decoder, Encoder, joined

K = TypeVar("K")
V = TypeVar("V")


class Kept(Generic[K, V]):
    """Values by key; the oldest are forgotten once they hold more than `limit` bytes, by `size`."""

    def __init__(self, limit: int, size: Callable[[V], int]) -> None:
        self.limit, self.size, self.held = limit, size, 0
        self._values: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value, where there still is one."""
        return self._values.get(key)

    def put(self, key: K, value: V) -> None:
        """Keep `value`."""
        self._values[key] = value
        self.held += self.size(value)
        while self.held > self.limit:
            self.held -= self.size(self._values.popitem(last=False)[1])


class FeatureCache:
    """Features by content: a frozen encoder sees each item once.

    With `alone` each item is encoded by itself: its features are then the same to the last bit whatever it came with, so
    that an interrupted training, whose cache is empty, goes on exactly as it would have.
    """

    def __init__(self, limit: int = 1 << 30, alone: bool = False) -> None:
        self.alone, self.encoded = alone, 0
        self.kept: Kept[tuple[int, str], Tensor] = Kept(limit, lambda value: value.nbytes)

    def features(self, encoder: Encoder, units: Units) -> Float[Tensor, "U L C"]:
        """The features of all items, encoding only those not seen before."""
        cuts = list(units.values.split(units.counts))
        found = {key: self.kept.get((id(encoder), key)) for key in units.keys}
        fresh = {key: cut for key, cut in zip(units.keys, cuts, strict=True) if found[key] is None}
        if fresh:
            pieces = list(fresh.values())
            made = map(encoder, pieces) if self.alone else encoder(torch.cat(pieces)).split([len(p) for p in pieces])
            for key, value in zip(fresh, made, strict=True):
                found[key] = value
                self.kept.put((id(encoder), key), value)
            self.encoded += len(fresh)
        return torch.cat([found[key] for key in units.keys])  # type: ignore[misc]


class StateCache:
    """States of layers of an LLM that learns nothing, by the input of a sample: the LLM thinks about each once, by itself, so
    that its states are the same to the last bit whatever it came with."""

    def __init__(self, limit: int = 1 << 30) -> None:
        self.thought = 0
        self.kept: Kept[tuple[str, frozenset[int]], dict[int, Tensor]] = Kept(
            limit, lambda states: sum(s.nbytes for s in states.values())
        )

    def states(
        self, backbone: Backbone, x: Float[Tensor, "B T D"], batch: Batch, layers: Collection[int]
    ) -> dict[int, Float[Tensor, "B T D"]]:
        """As `Backbone.peek`; zeros where a row holds no sample."""
        out: dict[int, Tensor] = {}
        for row, segments in enumerate(batch.segments):
            for segment in segments.unique().tolist():
                if segment:
                    here = (segments == segment).nonzero().flatten()
                    for layer, states in self._one(backbone, x, batch, layers, row, here).items():
                        whole = out.setdefault(layer, states.new_zeros(*x.shape[:2], states.shape[-1]))
                        whole[row, here] = states
        return out

    def _one(
        self,
        backbone: Backbone,
        x: Float[Tensor, "B T D"],
        batch: Batch,
        layers: Collection[int],
        row: int,
        here: Int[Tensor, " t"],
    ) -> dict[int, Float[Tensor, "t D"]]:
        """The states of the sample at the positions `here` of a row."""
        alone = x[row, here].detach()
        content = hashlib.blake2b(alone.contiguous().cpu().view(torch.uint8).numpy().data, digest_size=16)
        content.update(f"{alone.dtype}{torch.is_autocast_enabled(alone.device.type)}".encode())
        key = (content.hexdigest(), frozenset(layers))
        if (found := self.kept.get(key)) is None:
            ids, positions = batch.ids[row, here][None], batch.positions[row, here][None]
            single = Batch(ids, positions, torch.ones_like(ids), torch.full_like(ids, IGNORE))
            with torch.no_grad():
                found = {n: s[0] for n, s in backbone.peek(alone[None], single, layers).items()}
            self.thought += 1
            self.kept.put(key, found)
        return found


class GoalCache:
    """Goals of output streams by the content of what is meant; the oldest are forgotten once `limit` bytes are held. Those of
    the streams in `fingerprints` (stream to hash of its frozen decoder) are kept as files in `folder` too, where another
    process finds them."""

    def __init__(
        self, folder: Path | None = None, fingerprints: Mapping[str, str] | None = None, limit: int = 1 << 30
    ) -> None:
        self.folders = {n: folder / f for n, f in (fingerprints or {}).items()} if folder else {}
        self.made = 0
        self.kept: Kept[tuple[str, str], Condition] = Kept(limit, _bytes)

    def of(self, stream: str, decoder: Decoder, target: Targets) -> Condition:
        """The goals of all runs. Those of a decoder that is being trained are made anew each time."""
        if any(p.requires_grad for p in decoder.parameters()):
            return decoder.goal(target.captions, target.units)
        return joined([self._one(stream, decoder, target, i) for i in range(len(target.keys))])

    def _one(self, stream: str, decoder: Decoder, target: Targets, i: int) -> Condition:
        """The goal of run i, made by itself, so that it does not depend on what stands beside it."""
        key = (stream, target.keys[i])
        if (found := self.kept.get(key)) is None:
            file = self.folders[stream] / f"{target.keys[i]}.safetensors" if stream in self.folders else None
            found = _read(file) if file else None
            if found is None:
                with torch.no_grad():
                    found = decoder.goal(
                        target.captions[i : i + 1], None if target.units is None else target.units[i : i + 1]
                    )
                self.made += 1
                if file:
                    _write(file, found)
            self.kept.put(key, found)
        device = target.where.device
        return Condition(found.values.to(device), None if found.pooled is None else found.pooled.to(device))


def _bytes(goal: Condition) -> int:
    return goal.values.nbytes + (0 if goal.pooled is None else goal.pooled.nbytes)


def _read(file: Path) -> Condition | None:
    """A goal from a file; None where there is none that is whole."""
    try:
        held = load_file(file)
    except (OSError, SafetensorError):
        return None
    return Condition(held["values"], held.get("pooled")) if "values" in held else None


def _write(file: Path, goal: Condition) -> None:
    """Write a goal so that the file is there whole or not at all, also where several processes write it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    held = {"values": goal.values.cpu().contiguous()}
    if goal.pooled is not None:
        held["pooled"] = goal.pooled.cpu().contiguous()
    draft = file.with_suffix(f".{uuid4().hex}")
    save_file(held, draft)
    draft.rename(file)
