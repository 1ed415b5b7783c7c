"""The config room: one file is one system, checked whole before anything is built."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mmlm.config.checking import check
from mmlm.config.describing import json_schema
from mmlm.config.inheritance import find, gather, shipped
from mmlm.config.overrides import apply
from mmlm.config.problems import Problem, Spot
from mmlm.config.reading import plant
from mmlm.config.rules import part_ids
from mmlm.config.schema import (
    BackboneConfig,
    DataConfig,
    OutputConfig,
    PartConfig,
    Published,
    StageConfig,
    StreamConfig,
    SystemConfig,
    Train,
)
from mmlm.config.signature import Option, Signature, signature
from mmlm.config.writing import dump, tree


def load(path: Path | str, overrides: Sequence[str] = ()) -> SystemConfig:
    """The config in a file, or of a shipped system by its name ("llava-1.5-7b"), with `key.path=value` overrides.

    Raises one InputError that tells every mistake as FILE:LINE: key.path: what was expected and came. No part is
    imported for it.
    """
    problems: list[Problem] = []
    root = gather(find(path), problems)
    apply(root, overrides, problems)
    return check(root, problems)


def parse(data: Mapping[str, Any], overrides: Sequence[str] = (), origin: str = "config") -> SystemConfig:
    """The config that plain mappings say, as `load` would read them from a file; `origin` stands in its messages."""
    problems: list[Problem] = []
    root = plant(dict(data), Spot(origin))
    apply(root, overrides, problems)
    return check(root, problems)


__all__ = [
    "BackboneConfig",
    "DataConfig",
    "Option",
    "OutputConfig",
    "PartConfig",
    "Published",
    "Signature",
    "StageConfig",
    "StreamConfig",
    "SystemConfig",
    "Train",
    "dump",
    "json_schema",
    "load",
    "parse",
    "part_ids",
    "shipped",
    "signature",
    "tree",
]
