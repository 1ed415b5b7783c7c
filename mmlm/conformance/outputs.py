"""Part of the conformance room: the contracts of output aligners and of decoders."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmlm.conformance.building import WIDTH, Maker
from mmlm.conformance.encoders import items
from mmlm.conformance.modules import again, alone, burden, check_module, check_variants
from mmlm.conformance.report import Sheet, equal, need
from mmlm.errors import InputError
from mmlm.interfaces import Condition, ConditionShape, Cut, Decoder
from mmlm.sample import ITEMS

LENGTH, CONDITION = 6, ConditionShape(4, 12)
LENGTHS = (1, 9, 4)  # of runs of any length
SEEDS = (3, 1, 2)


def check_output_aligner(maker: Maker, sheet: Sheet) -> None:
    """The condition that it promises, independence of runs, and what holds for every module."""

    def build(seed: int = 0, condition: ConditionShape = CONDITION) -> Any:
        return maker(seed, width=WIDTH, length=LENGTH, condition=condition)

    if not sheet.row("builds", "a small instance, as the assembler builds it", lambda: type(build()).__name__):
        return
    states = torch.randn(3, LENGTH, WIDTH, generator=torch.Generator().manual_seed(7))

    def promised(part: Any, condition: ConditionShape = CONDITION) -> str:
        out = part(states)
        need(list(out.values.shape) == [3, condition.length, condition.width], f"{list(out.values.shape)}")
        need(
            (out.pooled is None) == (not condition.pooled),
            "a pooled vector where none is asked for, or none where one is",
        )
        if out.pooled is not None:
            need(list(out.pooled.shape) == [3, condition.pooled], f"pooled {list(out.pooled.shape)}")
        return f"{list(out.values.shape)}"

    def apart() -> str:
        part = build()
        return alone(part(states).values, [part(s[None]).values for s in states])

    def uneven() -> str:
        try:
            part = maker(0, width=WIDTH, length=0, condition=pooled)
        except InputError as e:
            need("fixed number" in str(e), f"{e}")
            return "refused: it reads runs of a fixed number of states"
        several = torch.randn(len(LENGTHS), max(LENGTHS), WIDTH, generator=torch.Generator().manual_seed(6))
        seen = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
        together, apart = part(several, seen), [part(s[None, :n]) for s, n in zip(several, LENGTHS, strict=True)]
        alone(together.pooled, [one.pooled for one in apart])
        return alone(together.values, [one.values for one in apart])

    pooled = ConditionShape(CONDITION.length, CONDITION.width, 7)
    with torch.no_grad():
        sheet.row("condition", "forward gives [R, K, E] as the decoder asks", lambda: promised(build()))
        sheet.row("pooled", "and a pooled vector where it asks for one", lambda: promised(build(0, pooled), pooled))
        sheet.row("runs apart", "a batch of 3 equals 3 batches of 1, to 1e-5", apart)
        sheet.row("any length", f"runs of {LENGTHS} states together equal each alone, or are refused", uneven)
    check_variants(sheet, maker, lambda other: promised(other(width=WIDTH, length=LENGTH, condition=CONDITION)))
    check_module(sheet, build, lambda p, dtype: p(states.to(dtype)).values)


def check_decoder(maker: Maker, sheet: Sheet) -> None:
    """What it makes and learns from, and what holds for every module."""
    if not sheet.row("builds", "a small instance, as the assembler builds it", lambda: type(maker()).__name__):
        return
    part: Decoder = maker()
    if not sheet.row("modality", "image, audio or video", lambda: _one_of(part.modality)):
        return
    units = None
    if part.transform is not None:
        _check_transform(sheet, part)
        units = torch.cat([Cut.of(part.transform(i)).units[:1] for i in items(part.modality)])
    shape = part.condition
    told = Condition(
        torch.randn(3, shape.length, shape.width, generator=torch.Generator().manual_seed(9)),
        torch.randn(3, shape.pooled, generator=torch.Generator().manual_seed(8)) if shape.pooled else None,
    )
    sheet.row(
        "decodes", "items of its modality, the same ones for the same condition and seed", lambda: _decodes(part, told)
    )
    sheet.row("encodes", "what it says that its goals are made of is so", lambda: _goals(part, told, units))
    ways = [way for way in ("goal", "denoise") if _learns(part, way, told, units)]
    if not sheet.row("learns", "by goals for its condition, or by making items", lambda: _some(ways)):
        return

    def run(p: Any, dtype: torch.dtype) -> Tensor:
        torch.manual_seed(5)
        given = None if units is None else units.to(dtype)
        many = Condition(told.values.to(dtype), None if told.pooled is None else told.pooled.to(dtype))
        out = [p.goal(("a", "b", "c"), _seen(p, given)).values.flatten() * p.scale] if "goal" in ways else []
        out += [p.denoise(given, many)] if "denoise" in ways else []
        return torch.cat([o.to(dtype) for o in out])

    check_module(sheet, maker, run)


def _one_of(modality: Any) -> str:
    need(modality in ITEMS, f"{modality!r}")
    return str(modality)


def _some(ways: list[str]) -> str:
    need(bool(ways), "neither goal nor denoise")
    return " and ".join(ways)


def _goals(part: Decoder, told: Condition, units: Tensor | None) -> str:
    """What `encodes` says against what `goal` can be made of."""
    alone, seen = _learns(part, "goal", told, None), _learns(part, "goal", told, units)
    need(
        alone == (part.encodes == "captions"),
        f"{part.encodes!r}, but of captions alone there are {'some' if alone else 'none'}",
    )
    need(seen or part.encodes != "items", "'items', but of items there are none")
    return part.encodes


def _learns(part: Decoder, way: str, told: Condition, units: Tensor | None) -> bool:
    try:
        with torch.no_grad():
            if way == "goal":
                part.goal(("a", "b", "c"), _seen(part, units))
            elif units is None:
                return False
            else:
                part.denoise(units, told)
    except InputError:
        return False
    return True


def _seen(part: Decoder, units: Tensor | None) -> Tensor | None:
    """What a goal is made of: the units, or what the decoder's eyes say of them."""
    return units if units is None or part.eyes is None else part.eyes(units)


def _decodes(part: Decoder, told: Condition) -> str:
    """Items, or the sentence by which it refuses to make any."""
    with torch.no_grad():
        try:
            made = part.decode(told, SEEDS)
        except InputError as e:
            return f"refuses: {e}"
        again_made, last = part.decode(told, SEEDS), part.decode(told.rows([2]), SEEDS[2:])
    need(len(made) == 3 and all(i.modality == part.modality for i in made), f"{[i.modality for i in made]}")
    values = [np.asarray(i.source, dtype=np.float32) for i in (*made, *again_made, *last)]
    need(all(np.array_equal(a, b) for a, b in zip(values[:3], values[3:6], strict=True)), "other items the second time")
    scale = 255 if part.modality != "audio" else 1
    equal(torch.from_numpy(values[6]) / scale, torch.from_numpy(values[2]) / scale, 1 / 200)
    return f"3 items, {list(values[0].shape)}"


def _check_transform(sheet: Sheet, part: Decoder) -> None:
    given = items(part.modality)
    transform: Any = part.transform

    def same() -> str:
        other = again(transform)
        need(
            all(torch.equal(Cut.of(other(i)).units, Cut.of(transform(i)).units) for i in given),
            "other units afterwards",
        )
        need(not (found := burden(transform)), f"it carries {', '.join(found[:4])}")
        return "the same units, no weights"

    def refuses() -> str:
        try:
            transform(type(given[0])(b"no such thing"))
        except InputError as e:
            return str(e)
        need(False, "a damaged item was taken")
        return ""

    sheet.row("transform", "pickles, carries no weights, gives the same units again", same)
    sheet.row("transform refuses", "InputError for what cannot be read", refuses)
