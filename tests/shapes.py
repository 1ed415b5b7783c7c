"""Shapes in signatures hold while the tests run: a function of mmlm that says one is checked from its module's import on.

jaxtyping's own import hook is not used, nor its pytest option, which sets it. It changes how caches are named while a hooked
module runs, so that torch and transformers, imported from there, are compiled anew; it wraps functions that say no shape
too, which costs as much again; and it takes methods out of their class, where beartype does not know what `Self` is.
"""

import sys
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from inspect import isclass, isfunction
from types import ModuleType
from typing import Any, get_args

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray, jaxtyped

checked: set[str] = set()  # the functions under check, as "module:Class.name"
_check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int will do for a float, as type checkers say


def install() -> None:
    """Check what is imported from now on. Raises RuntimeError where a module of mmlm was imported before."""
    if early := sorted(n for n in sys.modules if _ours(n)):
        raise RuntimeError(f"imported before their shapes could be checked: {', '.join(early)}")
    sys.meta_path.insert(0, _Finder())


def _members(module: ModuleType) -> Iterator[tuple[Any, str, Any]]:
    """Functions, methods and properties that `module` defines: who holds them, their name, and what they are."""
    for name, value in list(vars(module).items()):
        if getattr(value, "__module__", None) == module.__name__:
            if isclass(value):
                yield from ((value, n, v) for n, v in list(vars(value).items()))
            else:
                yield module, name, value


def _says_shape(member: Any) -> bool:
    """Whether a function, or what a property or a class method is made of, has a shape in its signature."""
    function = getattr(member, "fget", None) or getattr(member, "__func__", member)
    return isfunction(function) and any(_shape(hint) for hint in function.__annotations__.values())


def _shape(hint: Any) -> bool:
    return (isclass(hint) and issubclass(hint, AbstractArray)) or any(_shape(h) for h in get_args(hint))


@cache
def _ours(module: str) -> bool:
    return module == "mmlm" or module.startswith("mmlm.")


class _Finder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        spec = PathFinder.find_spec(fullname, path, target) if _ours(fullname) else None
        if spec is not None and isinstance(spec.loader, SourceFileLoader):
            spec.loader = _Loader(spec.loader.name, spec.loader.path)
        return spec


class _Loader(SourceFileLoader):
    def exec_module(self, module: ModuleType) -> None:
        super().exec_module(module)
        for holder, name, member in _members(module):
            if _says_shape(member):
                setattr(holder, name, jaxtyped(member, typechecker=_check))
                checked.add(
                    f"{module.__name__}:{holder.__name__}.{name}" if isclass(holder) else f"{module.__name__}:{name}"
                )
