"""Evaluation room: items made on request, each kept as a file as soon as it is made, and the conditions they are made from."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mmlm.assemble import Assembly
from mmlm.batch import Targets
from mmlm.errors import InputError
from mmlm.evaluation.asking import Progress
from mmlm.evaluation.predictions import key, prompt_of
from mmlm.evaluation.result import replace_text
from mmlm.evaluation.wanted import Request
from mmlm.interfaces import Condition, Cut, Decoder, Features, joined
from mmlm.jsonfile import read_json
from mmlm.media import digest
from mmlm.media.saving import save_item
from mmlm.model import Output
from mmlm.objectives.losses import objective
from mmlm.reply import Decoding, Reply, reply
from mmlm.sample import Item

MADE = "made"
DISTANCES = ("l2", "cosine")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a system said to a request: the text, the first item of each output stream by the name of its file in the folder,
    and what went wrong. With an `error` the request could not be put."""

    text: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    error: str = ""


def answers(
    assembly: Assembly,
    requests: Sequence[Request],
    decoding: Decoding,
    folder: Path,
    *,
    fingerprint: str,
    index: Sequence[str],
    batch: int,
    progress: Progress,
) -> list[Answer]:
    """The answer to each request. Those that `folder` holds from the same system, with all their files, are not made again.
    What an item is drawn from depends on the seed and on its request's id alone. `fingerprint` names the system, and `index`
    holds the digests of what it can find. Where a batch is refused its requests are put one by one."""
    how = {**asdict(decoding), "index": list(index)}
    names = [
        key(fingerprint, "generation", r.id, prompt_of(r.sample), [digest(i) for i in r.sample.items], how)[:24]
        for r in requests
    ]
    kept = {n: found for n in names if (found := _kept(assembly, folder, n)) is not None}
    order = sorted(range(len(requests)), key=lambda i: (-len(prompt_of(requests[i].sample)), requests[i].id))
    todo = [i for i in order if names[i] not in kept]
    done = len(requests) - len(todo)
    progress(done, len(requests), MADE)
    for at in range(0, len(todo), batch):
        some = todo[at : at + batch]
        said = _several(assembly, [requests[i] for i in some], decoding)
        for i, one in zip(some, said, strict=True):
            kept[names[i]] = one if isinstance(one, Answer) else _keep(assembly, folder, names[i], one)
        done += len(some)
        progress(done, len(requests), MADE)
    return [kept[n] for n in names]


def fill(assembly: Assembly, requests: Sequence[Request]) -> list[str]:
    """Give the decoders that find items those of the requests to find among, each once, in an order that is not that of the
    requests; gives their digests."""
    every: dict[str, None] = {}
    for way in assembly.model.ways_out.values():
        if way.decoder.eyes is not None:
            mine = [r.items[way.decoder.modality] for r in requests if way.decoder.modality in r.items]
            known = {digest(i): i for i in mine}
            way.decoder.fill([known[d] for d in sorted(known)])
            every |= dict.fromkeys(sorted(known))
    return list(every)


def _several(assembly: Assembly, requests: Sequence[Request], decoding: Decoding) -> list[Reply | Answer]:
    seeds = [int.from_bytes(hashlib.sha256(f"{decoding.seed} {r.id}".encode()).digest()[:6], "big") for r in requests]
    try:
        return [*reply(assembly, [r.sample for r in requests], decoding, seeds)]
    except InputError as e:
        if len(requests) == 1:
            return [Answer(error=str(e))]
    return [said for r in requests for said in _several(assembly, [r], decoding)]


def _keep(assembly: Assembly, folder: Path, name: str, said: Reply) -> Answer:
    """Write the first item of each stream, and last what was said, which holds their names."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    for stream, item in zip(said.streams, said.items, strict=True):
        if stream not in files:
            files[stream] = save_item(item, folder / _stem(assembly, name, stream)).name
    whole = Answer(said.text, files, said.notes)
    replace_text(folder / f"{name}.json", json.dumps(asdict(whole), indent=1) + "\n")
    return whole


def _kept(assembly: Assembly, folder: Path, name: str) -> Answer | None:
    """What was made before; None where it is not whole."""
    if not (folder / f"{name}.json").is_file():
        return None
    try:
        raw: dict[str, Any] = read_json(folder / f"{name}.json")
    except InputError:
        return None
    files, notes = raw.get("files"), raw.get("notes")
    if not (isinstance(raw.get("text"), str) and isinstance(files, dict) and isinstance(notes, list)):
        return None
    for stream, file in files.items():  # nothing but what `_keep` writes is taken for a file
        if stream not in assembly.model.ways_out or Path(str(file)).stem != _stem(assembly, name, stream):
            return None
        if Path(file).name != file or not (folder / file).is_file():
            return None
    return Answer(raw["text"], files, tuple(map(str, notes)))


def _stem(assembly: Assembly, name: str, stream: str) -> str:
    """How the file of a stream's item is called; a stream by its number, for its name may hold anything."""
    return f"{name}-{list(assembly.model.ways_out).index(stream)}"


@dataclass(frozen=True, slots=True)
class Error:
    """How far a condition is from the goal of its own caption, and from that of another, by each of DISTANCES."""

    own: Mapping[str, float]
    other: Mapping[str, float]


def errors(
    assembly: Assembly,
    stream: str,
    requests: Sequence[Request],
    others: Sequence[Request],
    *,
    batch: int,
    progress: Progress,
) -> list[Error | str]:
    """For each request the condition of `stream`, read behind what the assistant says in the data as in training, beside the
    goals of its own item and of that of another request; in place of it why it cannot be had. Raises InputError where the
    decoder has no goals, or is steered by words."""
    way = assembly.model.ways_out[stream]
    if way.aligner is None:
        raise InputError("its decoder is steered by words that the model writes, and by no condition that is read")
    found: dict[int, Error | str] = {}
    ready: list[tuple[int, Any, int]] = []
    for i, r in enumerate(requests):
        try:
            example = assembly.processor(r.whole)
        except InputError as e:
            found[i] = str(e)
            continue
        if example.dropped:
            found[i] = "the conversation is too long for the context, so that its last exchange was left out"
            continue
        here = sum(i.modality == way.decoder.modality and not i.beside for i in r.whole.turns[-1].items)
        ready.append((i, example, sum(m.stream == stream for m in example.meant) - here))
    seen: dict[str, Condition] = {}
    ready.sort(key=lambda one: (-len(one[1]), requests[one[0]].id))
    for at in range(0, len(ready), batch):
        some = ready[at : at + batch]
        with torch.inference_mode():
            laid = assembly.processor.collate([[e] for _, e, _ in some]).to(assembly.model.device)
            whole = assembly.model.conditions(laid)[stream]
            begins, rows = 0, []
            for _, example, first in some:
                rows.append(begins + first)
                begins += sum(m.stream == stream for m in example.meant)
            condition = whole.rows(rows)
            told = []
            for of in (requests, others):
                goal = _goal(assembly, stream, [of[i] for i, _, _ in some], seen)
                told.append(_distances(way.decoder, condition, laid.targets[stream], goal))
        for n, (i, _, _) in enumerate(some):
            own, other = ({k: float(v[n]) for k, v in each.items()} for each in told)
            found[i] = Error(own, other)
        progress(min(at + batch, len(ready)), len(ready), f"conditions of {stream}")
    return [found[i] for i in range(len(requests))]


def _goal(assembly: Assembly, stream: str, requests: Sequence[Request], seen: dict[str, Condition]) -> Condition:
    """What the condition should be for what the requests mean. Where that is made of items it is kept in `seen`, by item."""
    way = assembly.model.ways_out[stream]
    items = [r.items[way.decoder.modality] for r in requests]
    if not way.feeds and way.decoder.encodes != "items":
        return way.decoder.goal([i.caption for i in items], None)
    keys = [digest(i) for i in items]
    fresh = {key: item for key, item in zip(keys, items, strict=True) if key not in seen}
    if fresh:
        goals = (
            _fed(assembly, way, [*fresh.values()]) if way.feeds else _looked(assembly, way.decoder, [*fresh.values()])
        )
        seen |= {key: goals.rows([n]) for n, key in enumerate(fresh)}
    return joined([seen[k] for k in keys])


def _looked(assembly: Assembly, decoder: Decoder, items: Sequence[Item]) -> Condition:
    """The decoder's own encoding of items."""
    transform = decoder.transform if decoder.eyes is None else decoder.eyes.transform
    if transform is None:
        raise InputError(f"{type(decoder).__name__} encodes items, and says of none how they are read")
    units = torch.cat([Cut.of(transform(i)).units for i in items]).to(assembly.model.device)
    return decoder.goal([i.caption for i in items], units if decoder.eyes is None else decoder.eyes(units))


def _fed(assembly: Assembly, way: Output, items: Sequence[Item]) -> Condition:
    """The vectors as which the LLM reads items that it says: what it should have predicted of them."""
    fed, plan = assembly.model.streams[way.feeds], assembly.processor.streams[way.feeds]
    cuts = [plan.cut(i, alone=True)[0] for i in items]
    values = fed.eyes(torch.cat([c.units for c in cuts]).to(assembly.model.device))
    extents = tuple(c.extent for c in cuts) if any(c.extent for c in cuts) else ()
    inside = fed.aligner.inside(Features(values, tuple(len(c.units) for c in cuts), None, extents))
    return way.whole(inside.unflatten(0, (len(items), -1)))


def _distances(
    decoder: Decoder, condition: Condition, targets: Targets, goal: Condition
) -> dict[str, Float[Tensor, " R"]]:
    """What the objectives of these names, which read conditions and goals alone, say of each pair."""
    return {kind: objective(kind)(decoder, condition, targets, lambda: goal) for kind in DISTANCES}
