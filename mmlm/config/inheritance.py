"""Where a config file comes from and what it inherits: shipped configs by name, and `base:`."""

from importlib import import_module
from pathlib import Path

from mmlm.config.problems import Problem, fail, got, hint
from mmlm.config.reading import Node, plain, read_file
from mmlm.errors import InputError

SHELVES = ("systems", "quickstart")
_DEEPEST = 16


def shipped() -> dict[str, Path]:
    """The configs that come with the package, by name: the files under mmlm.configs' systems/ and quickstart/."""
    places = [Path(place) / shelf for shelf in SHELVES for place in import_module("mmlm.configs").__path__]
    found: dict[str, Path] = {}
    for file in (f for place in places for f in sorted(place.glob("*.yaml"))):
        found.setdefault(file.stem, file)
    return found


def find(name: Path | str) -> Path:
    """The file that `name` means: a path, or a shipped config (llava-1.5-7b, or with its folder quickstart/llava).

    Raises InputError with the nearest name.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    known = shipped()
    for short, file in known.items():
        if str(name).removesuffix(".yaml") in (short, f"{file.parent.name}/{short}"):
            return file
    state = "is a folder" if path.is_dir() else "does not exist"
    raise InputError(
        f"expected a config file or the name of a shipped config, got {str(name)!r}, which {state}{hint(str(name), known)}"
        f" (`mmlm list systems` names the shipped ones)"
    )


def gather(path: Path, problems: list[Problem], inside: tuple[Path, ...] = ()) -> Node:
    """The tree of a config file, merged over the tree of its `base`.

    Mappings merge key by key, lists and scalars replace, and a null takes an inherited value away.
    """
    root = read_file(path, problems)
    base = root.value.pop("base", None)
    if base is None:
        return root
    if not isinstance(base.value, str):
        problems.append(Problem(base.spot, ("base",), f"expected a file or a shipped config, got {got(plain(base))}"))
        return root
    try:
        beside = path.parent / base.value
        parent = beside if beside.is_file() else find(base.value)
    except InputError as e:
        fail([*problems, Problem(base.spot, ("base",), str(e))])
    chain = (*inside, path.resolve())
    if parent.resolve() in chain or len(chain) > _DEEPEST:
        told = " -> ".join(p.name for p in (*chain, parent))
        fail([*problems, Problem(base.spot, ("base",), f"expected bases that end, got {told}")])
    return _merge(gather(parent, problems, chain), root)


def _merge(old: Node, new: Node) -> Node:
    if not (isinstance(old.value, dict) and isinstance(new.value, dict)):
        return Node(new.value, new.spot, erases=new.value is None)
    merged = dict(old.value)
    for key, node in new.value.items():
        merged[key] = _merge(old.value[key], node) if key in old.value else node
    return Node(merged, new.spot)
