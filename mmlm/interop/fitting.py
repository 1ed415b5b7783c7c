"""Which published class computes what a system does: every family is asked, and says what is in the way."""

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmlm.config import SystemConfig
from mmlm.interop.families import EXPORTS
from mmlm.interop.families.publisher import Misfit, Publisher
from mmlm.model import MultimodalModel


@dataclass(frozen=True, slots=True)
class Exportable:
    """The class of transformers that a system can be written as; or, where there is none, the nearest one and what keeps the
    system from being it."""

    kind: str
    architecture: str
    misfits: Sequence[Misfit] = ()

    def __bool__(self) -> bool:
        return not self.misfits

    @property
    def why(self) -> str:
        """What is in the way; empty where nothing is."""
        return "; ".join(m.why for m in self.misfits)

    @property
    def change(self) -> str:
        """The nearest change that would make it exportable."""
        return "; ".join(m.change for m in self.misfits)

    def line(self) -> str:
        """The same as a sentence."""
        if self:
            return f"exportable as: {self.architecture} (mmlm export RUN OUT --to huggingface)"
        return f"not exportable: {self.why}. Nearest change, for {self.architecture}: {self.change}"

    def as_json(self) -> Mapping[str, Any]:
        """The same as plain values."""
        named = {"class": self.architecture, "model_type": self.kind}
        return {"exportable": bool(self), **named, "why": self.why, "change": self.change}


def publishers() -> Iterator[Publisher]:
    """One publisher for each family that can be written."""
    for kind in EXPORTS:
        yield publisher(kind)


def publisher(kind: str) -> Publisher:
    """The publisher of a family."""
    module, _, name = EXPORTS[kind].partition(":")
    made: Publisher = getattr(importlib.import_module(f"mmlm.interop.families.{module}"), name)()
    return made


def exportable(config: SystemConfig, model: MultimodalModel) -> Exportable:
    """The family that the system fits, or else the one that asks for the fewest changes. `model` may be on the meta device."""
    ways = ", ".join(config.outputs)
    mute = [Misfit(f"no class of these families makes items (outputs: {ways})", "no `outputs`")] if ways else []
    asked = [Exportable(p.kind, p.architecture, (*mute, *p.fits(config, model))) for p in publishers()]
    return min(asked, key=lambda found: sum(m.far for m in found.misfits))
