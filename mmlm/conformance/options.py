"""Part of the conformance room: what a config may say of a part."""

from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import ValidationError

from mmlm.config import Signature, signature
from mmlm.conformance.report import Sheet, need


def check_options(sheet: Sheet, cls: type[Any], target: str) -> bool:
    """The options can be read from the source and checked, and `tiny` gives values they allow; gives whether so."""

    def readable() -> str:
        found = signature(target)
        unread = [f"{o.name}: {o.annotation}" for o in found.options.values() if o.type is Any]
        need(not unread, f"annotations that cannot be checked: {', '.join(unread)}")
        return ", ".join(found.options) or "no options"

    def told() -> str:
        about = signature(target).about
        need(bool(about), "a class without a docstring")
        return about if len(about) < 60 else about[:57] + "..."

    simple = "keyword-only parameters of simple types (int, float, bool, str, Literal, X | None, list, tuple, dict)"
    if not sheet.row("options", simple, readable):
        return False
    sheet.row("docstring", "a sentence that `mmlm config options` can show", told)
    return sheet.row("tiny", "`tiny` names options and gives values they allow", lambda: _tiny(cls, signature(target)))


def _tiny(cls: type[Any], found: Signature) -> str:
    tiny = dict(getattr(cls, "tiny", {}))
    strangers = sorted(set(tiny) - set(found.options))
    need(not strangers, f"values for {', '.join(strangers)}, which are no options")
    for name, value in tiny.items():
        try:
            found.options[name].check(list(value) if isinstance(value, tuple) else value)
        except ValidationError as e:
            need(
                False,
                f"{name}: {value!r}, but the option is {found.options[name].annotation} ({e.error_count()} faults)",
            )
    without = sorted(o.name for o in found.options.values() if o.required and o.name not in tiny)
    need(not without, f"no value for {', '.join(without)}, without which the part cannot be built")
    return ", ".join(f"{k}={v!r}" for k, v in tiny.items()) or "nothing to shrink"


def switches(found: Signature) -> Iterator[dict[str, Any]]:
    """Every value of every switch (bool) and choice (Literal) that is not the default, one at a time."""
    for option in found.options.values():
        kinds = [option.type, *get_args(option.type)] if get_origin(option.type) is not Literal else [option.type]
        choices = [v for kind in kinds if get_origin(kind) is Literal for v in get_args(kind)]
        for value in [*choices, *((False, True) if bool in kinds else ())]:
            if value != option.default:
                yield {option.name: value}
