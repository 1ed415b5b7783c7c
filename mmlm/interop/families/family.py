"""What a family says of a folder: the system that it is, what lies beside the config, and the names of its tensors."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mmlm.errors import InputError
from mmlm.interop.names import Names
from mmlm.interop.source import Source
from mmlm.templates import Template

PARTS = "parts"


@dataclass(frozen=True, slots=True)
class Described:
    """`config` is a system's config as plain mappings; `parts` are the files beside it, part id -> file name -> JSON;
    `folders` are folders of the checkpoint that a part keeps (a tokenizer of its own), part id -> folder name; `template`
    is how a conversation is written."""

    config: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, Mapping[str, Any]]]
    names: Names
    template: Template
    folders: Mapping[str, str] = field(default_factory=dict)


def place(part: str) -> str:
    """What `weights` says of a part that an imported run holds: where its config lies, beside config.yaml."""
    return f"./{PARTS}/{part}"


def configured(source: Source, kind: str) -> Any:
    """config.json as transformers' config object of this kind, all defaults filled in. Raises InputError."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CONFIG_MAPPING

    try:
        return CONFIG_MAPPING[kind].from_dict(source.config)
    except (StrictDataclassError, ValueError, TypeError, LookupError, AttributeError) as e:
        reason = " ".join(str(e).split()) or type(e).__name__
        raise InputError(f"{source}: its config.json is not one of {kind!r}: {reason}") from e
