"""Part of the conformance room: the contract of grafts, held on a tiny causal backbone."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from mmlm.backbones.backbone import Backbone
from mmlm.batch import Batch, Memory
from mmlm.conformance.backbones import laid, said
from mmlm.conformance.building import Maker, tiny_backbone
from mmlm.conformance.modules import again, check_variants, on_meta, reached, shaken, weigh
from mmlm.conformance.report import Sheet, equal, need
from mmlm.interfaces import Graft

CHANNELS = 24
NAME = "probe"
# Two rows of seven positions: one sample, and two samples of three and four.
IDS = [[[5, 17, 9, 30, 2, 41, 7]], [[8, 25, 12], [3, 44, 6, 19]]]
# Two items of two memory rows each; from where on each is seen. The second sample of row 2 never sees the first item.
ITEMS = [[1, 1, 2, 2], [1, 1, 2, 2]]
LATEST = [[0, 1, 1, 1, 2, 2, 2], [0, 1, 1, 0, 2, 2, 2]]


def batch() -> Batch:
    """The rows of text."""
    return laid(IDS)


def memory(dtype: torch.dtype = torch.float32) -> Memory:
    """The rows of memory."""
    values = torch.randn(2, 4, CHANNELS, generator=torch.Generator().manual_seed(13))
    return Memory(values.to(dtype), torch.tensor(ITEMS), torch.tensor(LATEST))


def states(backbone: Any, text: Batch, remembered: Memory | None, reads: bool) -> Tensor:
    """What a causal backbone thinks of the rows."""
    if reads:
        backbone.remember(remembered)
    out: Tensor = backbone.think(backbone.embed(text.ids), text.segments, text.positions)
    return out


def check_graft(maker: Maker, sheet: Sheet) -> None:
    """Attaching, with and without memory, samples apart, token by token, and the module's own rows."""

    def grafted(seed: int = 0, maker: Maker = maker) -> Backbone:
        backbone = tiny_backbone()
        graft = maker(seed, backbone=backbone, memory_width=CHANNELS)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            backbone.add_graft(NAME, graft)
        return backbone.eval()

    if not sheet.row("attaches", "hangs into a small causal backbone", lambda: type(grafted().grafts[NAME]).__name__):
        return
    reads = bool(maker.cls.reads_memory)
    sheet.row("parameters", "those of the LLM stay, and new ones inside it are owned", lambda: _owned(maker))
    part = shaken(grafted())
    with torch.no_grad():
        if reads:
            sheet.row(
                "with memory", "a position sees the rows of its own item only, and does see them", lambda: _seen(part)
            )
        sheet.row(
            "without memory",
            "text alone is thought about, with nothing left of an earlier memory",
            lambda: _text(part, reads),
        )
        sheet.row("samples apart", "a packed sample does not see the one before it", lambda: _apart(part, reads))
        sheet.row("token by token", "a reply reads the states that training reads", lambda: _said(part, reads))
        sheet.row("dtype", "bf16 in gives bf16 out, after .to(bf16)", lambda: _bf16(shaken(grafted()), reads))
        sheet.row(
            "state",
            "its state dict makes another instance think the same, to the bit",
            lambda: _restored(part, grafted(1), reads),
        )
        check_variants(sheet, maker, lambda other: _bf16(shaken(grafted(0, other)), reads))
    sheet.row(
        "gradients", "every parameter of the graft is reached when it is unfrozen", lambda: _gradients(grafted(), reads)
    )
    sheet.row("pickles", "the graft pickles before it is attached", lambda: _pickled(maker))
    sheet.row("meta device", "can be built and attached without allocating anything", lambda: on_meta(grafted))


def _own(backbone: Backbone) -> list[tuple[str, Any]]:
    """The parameters of the graft, inside it and inside the LLM."""
    graft: Graft = backbone.grafts[NAME]  # type: ignore[assignment]
    inside = [(n, p) for n, p in backbone.llm.named_parameters() if graft.owns(n)]
    return [*graft.named_parameters(), *inside]


def _owned(maker: Maker) -> str:
    backbone = tiny_backbone()
    before = {id(p) for p in backbone.llm.parameters()}
    backbone.add_graft(NAME, maker(backbone=backbone, memory_width=CHANNELS))
    graft: Graft = backbone.grafts[NAME]  # type: ignore[assignment]
    after = {id(p): n for n, p in backbone.llm.named_parameters()}
    need(before <= after.keys(), f"{len(before - after.keys())} parameters of the LLM are gone")
    strange = [n for i, n in after.items() if i not in before and not graft.owns(n)]
    need(not strange, f"new in the LLM, but not owned: {', '.join(strange[:4])}")
    taken = [n for i, n in after.items() if i in before and graft.owns(n)]
    need(not taken, f"the LLM's own, but claimed: {', '.join(taken[:4])}")
    return f"{len(_own(backbone))} of its own"


def _seen(backbone: Backbone) -> str:
    """Another content of one item changes the positions that see it, and beside them only what comes after them."""
    text, whole = batch(), memory()
    before = states(backbone, text, whole, True)
    worst = ""
    for item in (1, 2):
        chosen = (whole.items == item)[..., None]
        altered = replace(whole, values=torch.where(chosen, -3 * whole.values, whole.values))
        changed = states(backbone, text, altered, True)
        sees = whole.latest == item
        earlier = (text.segments[:, :, None] == text.segments[:, None]) & torch.ones(7, 7, dtype=torch.bool).tril()
        after = (earlier & sees[:, None]).any(2)
        worst = equal(changed[~after], before[~after])
        differs = (changed - before).abs().amax(-1) > 1e-4
        need(bool(differs[sees].all()), f"positions that see item {item} do not change with it")
    return worst


def _text(backbone: Backbone, reads: bool) -> str:
    before = states(backbone, batch(), None, reads)
    need(bool(torch.isfinite(before).all()), "values that are not finite")
    if reads:
        states(backbone, batch(), memory(), True)
    return equal(states(backbone, batch(), None, reads), before)


def _apart(backbone: Backbone, reads: bool) -> str:
    text, remembered = batch(), memory() if reads else None
    before = states(backbone, text, remembered, reads)
    text.ids[1, :3] = 50
    return equal(states(backbone, text, remembered, reads)[1, 3:], before[1, 3:])


def _said(backbone: Backbone, reads: bool) -> str:
    if not reads:
        return said(backbone)
    text = laid([IDS[0]])
    remembered = Memory(memory().values[:1], memory().items[:1], memory().latest[:1])
    whole = states(backbone, text, remembered, True)
    start = Batch(*(getattr(text, n)[:, :5] for n in ("ids", "positions", "segments", "labels")))
    session = backbone.start(backbone.embed(start.ids), start, replace(remembered, latest=remembered.latest[:, :5]))
    worst = equal(session.states, whole[:, 4], 1e-4)
    for k in (5, 6):
        session.advance(text.ids[:, k])
        worst = equal(session.states, whole[:, k], 1e-4)
    return worst


def _bf16(backbone: Backbone, reads: bool) -> str:
    backbone.to(torch.bfloat16)
    out = states(backbone, batch(), memory(torch.bfloat16) if reads else None, reads)
    need(out.dtype is torch.bfloat16, f"{out.dtype}")
    need(bool(torch.isfinite(out).all()), "values that are not finite")
    return "torch.bfloat16"


def _restored(part: Backbone, other: Backbone, reads: bool) -> str:
    remembered = memory() if reads else None
    other.load_state_dict(part.state_dict(), strict=True)
    same = torch.equal(states(other, batch(), remembered, reads), states(part, batch(), remembered, reads))
    need(same, "other states afterwards")
    return f"{len(part.state_dict())} tensors with the LLM's, the same states"


def _gradients(backbone: Backbone, reads: bool) -> str:
    backbone.requires_grad_(False)
    for _, parameter in _own(backbone):
        parameter.requires_grad_(True)
    weigh(states(backbone, batch(), memory() if reads else None, reads)).backward()
    return reached(_own(backbone))


def _pickled(maker: Maker) -> str:
    graft = maker(backbone=tiny_backbone(), memory_width=CHANNELS)
    before, after = graft.state_dict(), again(graft).state_dict()
    need(
        before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before),
        "another state afterwards",
    )
    return f"{len(before)} tensors"
