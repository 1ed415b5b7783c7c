"""What the source of a class says of its options, without running it."""

import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mmlm.config.signature import UNREAD, signature
from mmlm.errors import InputError


def accepts(target: str, option: str, value: Any) -> bool:
    """Whether an option takes a value."""
    try:
        signature(target).options[option].check(value)
    except ValidationError:
        return False
    return True


def test_options_of_a_class() -> None:
    clip = signature("shelf.encoders.clip:Clip")
    assert list(clip.options) == [
        "layer", "class_token", "fit", "resolution", "dropout", "flip", "mean", "taps", "registers"
    ]  # fmt: skip
    assert clip.about == "A vision transformer of CLIP."
    assert clip.handed == {"weights": True}
    assert clip.options["layer"].default == -2  # a constant of the module
    assert clip.options["mean"].default == (0.5, 0.5, 0.5)
    assert clip.options["class_token"].annotation == "Literal['drop', 'keep', 'only']"  # an alias of another module
    assert not any(o.required for o in clip.options.values())
    assert signature("shelf.encoders.frames:Frames").options["frames"].required
    assert signature("shelf.encoders.frames:Frames").options["frames"].default is UNREAD


def test_what_is_told_of_options() -> None:
    about = {n: o.about for n, o in signature("shelf.encoders.clip:Clip").options.items()}
    assert about["layer"] == "which layer speaks; -1 is the last"
    assert about["fit"] == "how a picture that is not square becomes square"
    assert about["class_token"] == "what becomes of the class token: dropped, kept, or the only one."
    assert about["flip"] == ""
    assert signature("shelf.encoders.clip:Siglip").options["layer"].about == about["layer"]


def test_attributes_come_down_from_bases() -> None:
    assert signature("shelf.encoders.clip:Clip").attributes["tiny"] == {"layer": -1}
    assert signature("shelf.encoders.clip:Siglip").attributes["modality"] == "image"
    assert signature("shelf.grafts.gated:Gated").attributes["reads_memory"] is True
    assert "reads_memory" not in signature("shelf.grafts.lora:Lora").attributes


def test_keywords_hand_on_to_the_base() -> None:
    siglip = signature("shelf.encoders.clip:Siglip")
    assert list(siglip.options)[:2] == ["temperature", "layer"]
    former = signature("shelf.aligners.queries:QFormer")
    assert former.options["queries"].default == 32
    assert former.options["depth"].default == 6
    assert former.handed["weights"] is False


def test_a_class_without_constructor_has_no_options() -> None:
    assert signature("shelf.aligners.projectors:Linear").options == {}


def test_a_class_that_moved_is_followed() -> None:
    assert "layer" in signature("shelf.encoders.eva:Eva").options


@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [
        ("layer", [1, -2], [1.0, "1", True, None, [1]]),
        ("class_token", ["drop", "only"], ["Drop", "", 1, None]),
        ("fit", ["pad"], ["pads"]),
        ("resolution", [None, 224], ["224", 1.5, False]),
        ("dropout", [0.5, 0, 1], ["0.5", True, None, float("nan")]),
        ("flip", [True, False], [1, 0, "true", None]),
        ("mean", [[0.1, 0, 1], (1, 2, 3)], [[1, 2], [1, 2, 3, 4], ["1", 2, 3], 1, None]),
        ("taps", [None, [], [1, 2]], [[1.5], ["1"], 1, "12"]),
        ("registers", [1, "x", None, {"a": []}], []),
    ],
)
def test_options_are_strict(option: str, good: list[Any], bad: list[Any]) -> None:
    assert [v for v in good if not accepts("shelf.encoders.clip:Clip", option, v)] == []
    assert [v for v in bad if accepts("shelf.encoders.clip:Clip", option, v)] == []


@pytest.mark.parametrize(
    ("option", "good", "bad"),
    [
        ("norm", [True, "pre", "post"], ["mid", 1, None]),
        ("scale", [None, 1, 0.5], ["x", True]),
        ("gates", [{}, {"a": 1, "b": 0.5}], [{"a": "x"}, [], {1: 2.0}]),
        ("stages", [[], [1, 2]], [["a"], 1]),
        ("window", [[], [1, 2, 3]], [[1.5], 3]),
        ("hook", [1, None, "anything"], []),
        ("plain", [1, "anything"], []),
    ],
)
def test_annotations_of_many_kinds(option: str, good: list[Any], bad: list[Any]) -> None:
    assert [v for v in good if not accepts("shelf.aligners.queries:Resampler", option, v)] == []
    assert [v for v in bad if accepts("shelf.aligners.queries:Resampler", option, v)] == []


def test_values_come_as_the_constructor_takes_them() -> None:
    mean = signature("shelf.encoders.clip:Clip").options["mean"].check([0, 1, 0.5])
    assert mean == (0.0, 1.0, 0.5)
    assert type(mean[0]) is float
    assert type(signature("shelf.encoders.clip:Clip").options["dropout"].check(1)) is float


@pytest.mark.parametrize(
    ("target", "told"),
    [
        ("shelf.encoders.clip:Clap", "has no class 'Clap'; did you mean `Clip`?"),
        ("shelf.encoders.nowhere:Clip", "there is no module 'shelf.encoders.nowhere'"),
        ("nowhere.at.all:Clip", "there is no module 'nowhere.at.all'"),
        ("shelf.encoders.clip:", "expected module:Class"),
        (":Clip", "expected module:Class"),
        ("a b:Clip", "expected module:Class"),
        ("..clip:Clip", "expected module:Class"),
        ("shelf.encoders.clip:Clip.x", "expected module:Class"),
        ("itertools:chain", "has no Python source"),
    ],
)
def test_classes_that_are_not_there(target: str, told: str) -> None:
    with pytest.raises(InputError) as e:
        signature(target)
    assert told in str(e.value)


def test_sources_of_all_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "strangers"  # a namespace package: no __init__.py
    (package / "inner").mkdir(parents=True)
    (package / "broken.py").write_text("class X(:\n")
    (package / "latin.py").write_bytes(b"# \xff\nclass X: pass\n")
    (package / "inner" / "__init__.py").write_text(
        "from .parts import *\nfrom . import parts as p\nclass Y(p.X): pass\n"
    )
    (package / "inner" / "parts.py").write_text(
        "from typing import Literal\nfrom .. import ring\n"
        "try:\n    import torch\nexcept ImportError:\n    torch = None\n"
        "if True:\n    class X:\n        def __init__(self, *, mode: 'Literal[\"a\"] | None' = None, size: int = 2 ** 3): ...\n"
    )
    (package / "ring.py").write_text("from .gnir import Z\n")
    (package / "gnir.py").write_text("from .ring import Z\n")
    for target in ("strangers.inner:X", "strangers.inner:Y", "strangers.inner.parts:X"):
        options = signature(target).options
        assert list(options) == ["mode", "size"]
        assert options["size"].default is UNREAD
        assert accepts(target, "mode", "a")
        assert not accepts(target, "mode", "b")
    for target, told in (
        ("strangers.broken:X", "is not Python"),
        ("strangers.latin:X", "is not Python"),
        ("strangers.ring:Z", "has no class 'Z'"),
        ("strangers:X", "has no Python source"),
    ):
        with pytest.raises(InputError, match=told):
            signature(target)
    assert not [name for name in sys.modules if name.startswith("strangers")]


def test_the_projects_own_parts_can_be_read() -> None:
    causal = signature("mmlm.backbones.causal:Causal")
    assert causal.handed["weights"] is True
    assert "mmlm.backbones.causal" not in sys.modules or "torch" in sys.modules
