"""The JSON schema, and the options of one part."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mmlm import registry
from mmlm.config import dump, json_schema, load
from mmlm.config.describing import part_signature
from mmlm.config.reading import plain, read_file, read_text
from mmlm.errors import InputError


@pytest.fixture
def schema() -> dict[str, Any]:
    """The schema, checked against its own."""
    found = json_schema()
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def fits(schema: dict[str, Any], value: Any) -> bool:
    """Whether a config fits the schema."""
    return bool(jsonschema.Draft202012Validator(schema).is_valid(value))


def test_configs_fit_the_schema(schema: dict[str, Any], typical: Path) -> None:
    assert fits(schema, plain(read_file(typical, [])))
    assert fits(schema, plain(read_text(dump(load(typical)), "t", [])))
    assert json.loads(json.dumps(schema)) == schema


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("sed",), 1),
        (("seed",), "1"),
        (("scale",), "small"),
        (("inputs", "image", "encoder", "type"), "clop"),
        (("inputs", "image", "encoder", "laier"), 1),
        (("inputs", "image", "encoder", "layer"), "1"),
        (("inputs", "image", "encoder", "class_token"), "dorp"),
        (("inputs", "image", "encoder", "weights"), None),
        (("inputs", "image", "aligner", "weights"), "w"),
        (("inputs", "video", "encoder", "encoder", "temprature"), 1),
        (("inputs", "image", "into"), "slot"),
        (("backbone", "type"), "clip"),
        (("backbone", "grafts", "lora", "rnk"), 1),
        (("stages", 0, "batch"), 0),
        (("stages", 0, "data", 0, "reader"), "lava"),
        (("stages", 0, "data", 0, "image"), "x"),
        (("stages", 1, "validation", 0, "prmpt"), "x"),
        (("stages", 0, "train", "inputs.image.aligner", "lr"), 0),
    ],
)
def test_mistakes_do_not_fit(schema: dict[str, Any], typical: Path, path: tuple[Any, ...], value: object) -> None:
    data = copy.deepcopy(plain(read_file(typical, [])))
    block = data
    for step in path[:-1]:
        block = block[step]
    if value is None:
        del block[path[-1]]
    else:
        block[path[-1]] = value
    assert not fits(schema, data)


def test_a_part_of_ones_own_fits(schema: dict[str, Any], typical: Path) -> None:
    data = plain(read_file(typical, []))
    data["inputs"]["image"]["encoder"] = {"type": "mine.eyes:Eyes", "sharp": True}
    assert fits(schema, data)


def test_what_inherits_may_leave_things_out(schema: dict[str, Any]) -> None:
    assert fits(schema, {"base": "llava-1.5-7b", "backbone": {"weights": "w"}, "seed": None})
    assert not fits(schema, {"base": "llava-1.5-7b", "bakbone": {}})
    assert not fits(schema, {"base": 3})
    assert not fits(schema, {"backbone": {"weights": "w"}})


def test_the_schema_documents_options(schema: dict[str, Any]) -> None:
    clip = next(b for b in schema["$defs"]["encoders"]["anyOf"] if b["properties"]["type"].get("const") == "clip")
    assert clip["description"] == "A vision transformer of CLIP."
    assert clip["properties"]["layer"] == {
        "type": "integer", "default": -2, "description": "which layer speaks; -1 is the last"
    }  # fmt: skip
    assert clip["properties"]["fit"]["enum"] == ["crop", "pad", "stretch"]
    assert clip["required"] == ["type", "weights"]
    frames = next(b for b in schema["$defs"]["encoders"]["anyOf"] if b["properties"]["type"].get("const") == "frames")
    assert frames["required"] == ["type", "encoder", "frames"]


def test_a_part_that_cannot_be_read_keeps_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = registry.entries

    def more(kind: str) -> dict[str, registry.Entry]:
        return entries(kind) | {"lost": registry.Entry("lost", "shelf.encoders.lost:Lost", "somebody")}

    monkeypatch.setattr(registry, "entries", more)
    jsonschema.Draft202012Validator.check_schema(json_schema())
    assert any(b["properties"]["type"].get("const") == "lost" for b in json_schema()["$defs"]["encoders"]["anyOf"])


def test_options_of_one_part() -> None:
    assert list(part_signature("aligners", "mlp").options) == ["depth", "norm", "pool"]
    assert "depth" in part_signature("aligners", "shelf.aligners.projectors:Mlp").options
    with pytest.raises(InputError, match="did you mean `mlp`"):
        part_signature("aligners", "mpl")
    with pytest.raises(InputError, match="did you mean `aligners`"):
        part_signature("aligner", "mlp")
