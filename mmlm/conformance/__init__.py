"""The conformance room: holds a part against its contract. Every listed part is tested by it, and parts of others can be."""

from collections.abc import Callable
from dataclasses import replace

from mmlm.backbones.backbone import Backbone
from mmlm.config import signature
from mmlm.config.parts import MODELS
from mmlm.config.problems import hint, one_of
from mmlm.conformance.aligners import check_aligner
from mmlm.conformance.backbones import check_backbone
from mmlm.conformance.building import Maker, maker
from mmlm.conformance.data import check_reader, check_task
from mmlm.conformance.encoders import check_encoder
from mmlm.conformance.grafts import check_graft
from mmlm.conformance.options import check_options, switches
from mmlm.conformance.outputs import check_decoder, check_output_aligner
from mmlm.conformance.report import Report, Row, Sheet
from mmlm.errors import InputError
from mmlm.interfaces import Decoder, Encoder, Graft, InputAligner, OutputAligner
from mmlm.registry import KINDS, component, locate

_BASES: dict[str, type] = {
    "encoders": Encoder,
    "aligners": InputAligner,
    "output_aligners": OutputAligner,
    "decoders": Decoder,
    "grafts": Graft,
    "backbones": Backbone,
}
_CHECKS: dict[str, Callable[[Maker, Sheet], None]] = {
    "encoders": check_encoder,
    "aligners": check_aligner,
    "grafts": check_graft,
    "backbones": check_backbone,
    "output_aligners": check_output_aligner,
    "decoders": check_decoder,
    "readers": check_reader,
    "tasks": check_task,
}


def check(kind: str | None, target: str, weights: str | None = None) -> Report:
    """Build the part `target` (module:Class, or a listed name) small and hold it against the contract of its kind.

    `kind` is found out from the class where it is None. `weights` names the checkpoint whose shape a part takes; nothing
    is downloaded. Raises InputError where there is no such class, or its kind cannot be told.
    """
    if kind is not None and kind not in _CHECKS:
        raise InputError(f"--kind: expected {one_of(list(_CHECKS))}, got {kind!r}{hint(kind, list(KINDS))}")
    if kind is None and ":" not in target:
        raise InputError(f"expected module:Class, or a name together with its kind, got {target!r} alone")
    cls = component(kind or "encoders", target)
    kind = kind or kind_of(cls)
    sheet = Sheet()
    made = maker(kind, cls, weights)
    if made.weights and not weights:
        chosen = f"none are named; it takes the shape of {made.weights.name} (--weights NAME: of others)"
        sheet.row("weights", "a checkpoint whose shape is known without a download", lambda: chosen)
    if kind in MODELS:
        full = locate(kind, target).target
        if check_options(sheet, cls, full):
            made = replace(made, variants=tuple(switches(signature(full))))
    _CHECKS[kind](made, sheet)
    return Report(kind, target, tuple(sheet.rows))


def kind_of(cls: type) -> str:
    """The kind of a class by its base, or by its shape where the contract is one of shape."""
    for kind, base in _BASES.items():
        if issubclass(cls, base):
            return kind
    for kind, methods in (("tasks", ("questions", "score")), ("readers", ("__len__", "__getitem__", "where"))):
        if all(callable(getattr(cls, m, None)) for m in methods):
            return kind
    bases = ", ".join(b.__name__ for b in _BASES.values())
    raise InputError(
        f"{cls.__module__}:{cls.__qualname__} is no part: expected a subclass of {bases}, or a reader or task; "
        f"say with --kind what it is meant to be"
    )


__all__ = ["Report", "Row", "check", "kind_of"]
