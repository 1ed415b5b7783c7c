"""Part of the readers: from a record's turns to Turns, with every item at the place where the text wants it."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from mmlm.errors import InputError
from mmlm.sample import Item, Modality, Part, Role, Turn
from mmlm.training.readers.field import Field
from mmlm.training.readers.source import MODALITIES, Folders, embedded, encoded

ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
MARKS: dict[str, Modality] = {f"<{m}>": m for m in MODALITIES}
_MARK = re.compile("(" + "|".join(MARKS) + ")")
_KINDS: dict[str, tuple[str, Modality]] = {
    "text": ("text", "image"),
    **{m: (m, m) for m in MODALITIES},
    **{f"{m}_url": (f"{m}_url", m) for m in MODALITIES},
    "input_audio": ("input_audio", "audio"),
}


@dataclass(slots=True)
class Supply:
    """The items of one record, handed out in order, and how often they were asked for.

    With `loose` a mark of a modality that the record has no item of is ordinary text (pages of code that say <video>).
    `folders` opens paths that stand in the turns themselves; without it such paths are passed over. `linked` opens what
    stands in the place of an address.
    """

    items: Mapping[Modality, Sequence[Item]]
    folders: Folders | None = None
    loose: bool = False
    linked: Callable[[Field, Modality], Item] = embedded
    asked: dict[Modality, int] = field(default_factory=lambda: dict.fromkeys(MODALITIES, 0))

    def take(self, modality: Modality) -> tuple[Item, ...]:
        """The next item; nothing where there is none left, which `settle` will say."""
        i = self.asked[modality]
        self.asked[modality] += 1
        return tuple(self.items.get(modality, ()))[i : i + 1]

    def settle(self, where: str, field_name: str) -> None:
        """Raise InputError where marks and items differ in number."""
        for modality in MODALITIES:
            have, want = len(self.items.get(modality, ())), self.asked[modality]
            if have != want:
                raise InputError(
                    f"{where}: {field_name}: expected one <{modality}> mark per item, "
                    f"got {_count(want, 'mark')} and {_count(have, f'{modality} item')}"
                )


def read_turns(turns: Field, role: str, content: str, supply: Supply, *, unanswered: bool = False) -> tuple[Turn, ...]:
    """The turns of a record: objects with the keys `role` and `content` (text with marks, or a list of typed parts).

    A system turn may come first; then user and assistant alternate, and the assistant has the last word unless
    `unanswered`.
    """
    found: list[Turn] = []
    for entry in turns.elements():
        who, said = entry[role].one_of(ROLES), entry[content]
        parts = _listed(said, supply) if isinstance(said.value, list) else _marked(said, who, supply)
        _follow(entry[role], who, found)
        found.append(Turn(who, parts))
    if not any(t.role == "user" for t in found):
        raise turns.refuse("at least one turn of the user")
    if found[-1].role != "assistant" and not unanswered:
        raise turns.refuse(f"an answer at the end (the last turn is {found[-1].role}'s; `unanswered: true` allows it)")
    supply.settle(turns.where, turns.name)
    return tuple(found)


def _follow(field: Field, who: Role, before: Sequence[Turn]) -> None:
    """Raise InputError where `who` may not speak next."""
    last = before[-1].role if before else None
    allowed = {None: ("system", "user"), "system": ("user",), "user": ("assistant",), "assistant": ("user",)}[last]
    if who not in allowed:
        raise field.refuse(f"{' or '.join(allowed)} {f'after {last}' if last else 'first'}")


def _marked(said: Field, who: Role, supply: Supply) -> tuple[Part, ...]:
    """Text cut at its marks, with an item in the place of each."""
    parts: list[Part] = []
    for piece in _MARK.split(said.text()):
        if piece not in MARKS or (supply.loose and not supply.items.get(MARKS[piece])):
            parts.append(piece)
        elif who != "user":
            raise said.refuse(
                f"{piece} only where the user speaks (`loose_marks: true` takes it as text if there is no such item)"
            )
        else:
            parts.extend(supply.take(MARKS[piece]))
    return joined(parts)


def _listed(said: Field, supply: Supply) -> tuple[Part, ...]:
    """A list of typed parts, at least one of which says or shows something."""
    entries = said.elements()
    parts = joined([p for part in entries for p in _typed(part, supply)])
    if not entries or (parts and all(isinstance(p, str) and not p.strip() for p in parts)):
        raise said.refuse("a part that says or shows something")
    return parts


def _typed(part: Field, supply: Supply) -> tuple[Part, ...]:
    """One entry of a list of typed parts."""
    kind, modality = part["type"].one_of(_KINDS)
    if kind == "text":
        return (part["text"].text(blank=True),)
    found = _item(part, kind, modality, supply)
    if part["caption"].present:
        found = tuple(replace(item, caption=part["caption"].text()) for item in found)
    if part["beside"].value is True:
        found = tuple(replace(item, beside=True) for item in found)
    return found


def _item(part: Field, kind: str, modality: Modality, supply: Supply) -> tuple[Item, ...]:
    """The item of a typed part: in it (base64, a data URI), at the path it names, or the record's next one."""
    if kind == "input_audio":
        return (encoded(part[kind]["data"], modality),)
    if part["base64"].present:
        return (encoded(part["base64"], modality),)
    given = next((f for f in (part["path"], part[kind], part["url"]) if f.present), None)
    if given is not None and isinstance(given.value, dict):
        given = given["url"]
    if given is not None and (kind != modality or str(given.value).startswith("data:")):
        return (supply.linked(given, modality),)
    if given is None or supply.folders is None:
        return supply.take(modality)
    return (supply.folders.item(given, modality),)


def joined(parts: Sequence[Part]) -> tuple[Part, ...]:
    """The parts with neighbouring text joined and empty text left out."""
    out: list[Part] = []
    for part in parts:
        if isinstance(part, str) and out and isinstance(last := out[-1], str):
            out[-1] = last + part
        elif part != "":
            out.append(part)
    return tuple(out)


def _count(n: int, noun: str) -> str:
    return f"{n} {noun}{'' if n == 1 else 's'}"
