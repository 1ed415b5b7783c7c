"""Overrides from the command line: `key.path=value` sets, `~key.path` deletes."""

from collections.abc import Sequence

from mmlm.config.problems import COMMAND_LINE, Path, Problem, Spot, dotted, got, hint, one_of
from mmlm.config.reading import Node, plain, read_text
from mmlm.errors import InputError

_SPOT = Spot(COMMAND_LINE)
# Entries of these mappings have names of one's own, so a path never makes one on the way: it would hide a typing slip.
_NAMED: tuple[Path, ...] = (("inputs",), ("backbone", "grafts"))
_TRAIN_KEYS = ("lr", "weight_decay")


def apply(root: Node, overrides: Sequence[str], problems: list[Problem]) -> None:
    """Change the tree in place, one override after the other. What cannot be followed goes to `problems`.

    A path names keys and list entries: by index (stages.0.batch) or by their `name` (stages.align.batch).
    """
    for text in overrides:
        try:
            _delete(root, text[1:]) if text.startswith("~") else _set(root, text, problems)
        except _Lost as e:
            problems.append(Problem(_SPOT, e.path, str(e)))


class _Lost(InputError):
    """A path that leads nowhere; `path` is how far it was followed, and the step that failed."""

    def __init__(self, path: Path, text: str) -> None:
        super().__init__(text)
        self.path = path


def _set(root: Node, text: str, problems: list[Problem]) -> None:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise _Lost((), f"expected key.path=value or ~key.path, got {text!r}")
    place, last = _follow(root, key.strip(), make=True)
    try:
        node = read_text(value, COMMAND_LINE, problems, lines=False)
    except InputError as e:
        raise _Lost((), f"expected a YAML value in {text!r}; {str(e).rpartition('not YAML: ')[2]}") from e
    place.value[last] = node


def _delete(root: Node, key: str) -> None:
    place, last = _follow(root, key.strip(), make=False)
    del place.value[last]


def _follow(root: Node, key: str, make: bool) -> tuple[Node, str | int]:
    """The mapping or list that holds what `key` names, and its key there. Blocks on the way may be made."""
    node, rest = root, key.split(".")
    trail: Path = ()
    if not all(rest):
        raise _Lost((), f"expected key.path with a word between the dots, got {key!r}")
    while True:
        step, rest = _step(node, trail, rest, make)
        if not rest:
            return node, step
        if isinstance(node.value, dict) and step not in node.value:
            if not make or trail in _NAMED:
                whole = f"; to add one, give it whole: {dotted((*trail, step))}={{...}}" if make else ""
                raise _Lost((*trail, step), f"there is no `{step}` here{hint(str(step), node.value)}{whole}")
            node.value[step] = Node({}, _SPOT)
        node, trail = node.value[step], (*trail, step)


def _step(node: Node, trail: Path, rest: list[str], make: bool) -> tuple[str | int, list[str]]:
    """The next step of a path, and what is left of it then."""
    match node.value:
        case list():
            return _entry(node.value, trail, rest[0]), rest[1:]
        case dict():
            for n in range(len(rest), 0, -1):  # a key may hold dots itself: the part ids under `train`
                if (key := ".".join(rest[:n])) in node.value:
                    return key, rest[n:]
            if make and len(trail) == 3 and trail[0] == "stages" and trail[2] == "train":
                n = len(rest) - (rest[-1] in _TRAIN_KEYS and len(rest) > 1)
                return ".".join(rest[:n]), rest[n:]
            if make:
                return rest[0], rest[1:]
            known = hint(rest[0], node.value) or f"; expected {one_of(list(node.value))}"
            raise _Lost((*trail, rest[0]), f"there is no `{rest[0]}` to delete{known}")
    raise _Lost((*trail, rest[0]), f"there is no `{rest[0]}`: {dotted(trail)} is {got(plain(node))}, which has no keys")


def _entry(entries: list[Node], trail: Path, step: str) -> int:
    """The index of a list entry that `step` names, by number or by the entry's `name`."""
    if step.removeprefix("-").isdecimal():
        if -len(entries) <= (index := int(step)) < len(entries):
            return index % len(entries)
        raise _Lost((*trail, step), f"expected an index below {len(entries)}, the length of the list, got {step}")
    names = [e.value["name"].value if isinstance(e.value, dict) and "name" in e.value else None for e in entries]
    if step not in names:
        words = [n for n in names if isinstance(n, str)]
        choices = f"an index or {one_of(words)}" if words else "an index"
        raise _Lost((*trail, step), f"expected {choices}, got {step!r}{hint(step, words)}")
    return names.index(step)
