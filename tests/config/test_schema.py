"""The schema's own strictness, and the rules between blocks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from mmlm.config import BackboneConfig, PartConfig, StageConfig, SystemConfig, load, parse, part_ids, tree
from mmlm.errors import InputError

Change = Callable[[dict[str, Any]], object]


@pytest.fixture
def plain(typical: Path) -> dict[str, Any]:
    """The typical config as plain mappings, without what defaults fill in."""
    from mmlm.config.reading import plain, read_file

    found: dict[str, Any] = plain(read_file(typical, []))
    return found


def told(data: dict[str, Any]) -> list[str]:
    """What is told of a config."""
    try:
        parse(data)
    except InputError as e:
        return str(e).splitlines()
    return []


def test_the_typical_config(typical: Path) -> None:
    config = load(typical)
    assert config.inputs["image"].modality == "image"
    assert config.inputs["patches"].modality == "image"
    assert config.inputs["patches"].encoder == "image"
    assert config.inputs["image"].encoder == PartConfig(
        type="clip", weights="openai/clip-vit-large-patch14-336", options={"layer": -2, "class_token": "drop"}
    )
    assert config.inputs["video"].aligner.options == {
        "queries": 64, "norm": "post", "window": (3, 5), "gates": {"a": 1.0, "b": 0.5}
    }  # fmt: skip
    assert config.backbone.grafts["lora"].options == {"rank": 8, "targets": ["q_proj", "v_proj"]}
    assert config.stages[0].data[0].options == {"images": "images/"}
    assert config.stages[0].clip == 1.0
    assert config.stages[1].clip is None
    assert config.stages[1].betas == (0.9, 0.95)
    assert config.stages[1].train["backbone"].lr == 2e-5


def test_part_ids(plain: dict[str, Any]) -> None:
    assert part_ids(plain) == [
        "inputs.image.encoder", "inputs.image.aligner", "inputs.video.encoder", "inputs.video.aligner",
        "inputs.patches.aligner", "backbone", "backbone.embeddings", "backbone.head", "backbone.added", "backbone.grafts.gates",
        "backbone.grafts.lora",
    ]  # fmt: skip


def test_configs_do_not_change(typical: Path) -> None:
    config = load(typical)
    with pytest.raises(ValidationError):
        config.seed = 3  # type: ignore[misc]


def test_every_field_is_described() -> None:
    from mmlm.config import schema

    models = [m for m in vars(schema).values() if isinstance(m, type) and issubclass(m, BaseModel)]
    assert len(models) > 8
    silent = [f"{m.__name__}.{n}" for m in models for n, f in m.model_fields.items() if not f.description]
    assert silent == []


@pytest.mark.parametrize(
    ("key", "bad"),
    [
        ("batch", [0, -1, 1.5, "8", True, None]),
        ("micro_batch", [0, 257, "8", True]),
        ("epochs", [0, -1, "1", True, None, float("inf")]),
        ("warmup", [-0.1, 1.5, "0", True]),
        ("floor", [-0.1, 1.1]),
        ("weight_decay", [-1, "0.1"]),
        ("betas", [[0.9], [0.9, 1.0], [-0.1, 0.9], [0.9, 0.9, 0.9], 0.9, ["0.9", 0.9]]),
        ("eps", [0, -1e-8]),
        ("clip", [0, -1, "1"]),
        ("pack", [1, "true", None]),
        ("length", [0, 1.5]),
        ("save_every", [0]),
        ("log_every", [0, None]),
        ("workers", [-1, 1.5, None]),
        ("schedule", ["cos", 1, None]),
        ("precision", ["fp16", 16]),
        ("template", ["vicuna", "", 1]),
        ("name", ["", "a b", "1st", "a.b", 3, None]),
        ("data", [[], {}, None, [3], [{}]]),
        ("validation", [{}, None]),
        ("train", [{}, [], None, {"backbone": {}}, {"backbone": {"lr": 0}}, {"backbone": 1e-3}]),
    ],
)
def test_ranges_of_a_stage(plain: dict[str, Any], key: str, bad: list[Any]) -> None:
    for value in bad:
        plain["stages"][0] = {**plain["stages"][0], key: value}
        messages = told(plain)
        assert messages, f"{key}: {value!r} was taken"
        assert f"stages.0.{key}" in messages[0]


@pytest.mark.parametrize(
    ("key", "good"),
    [
        ("epochs", [1, 0.5]),
        ("warmup", [0, 0.5, 1, 100, 100.0]),
        ("micro_batch", [None, 1, 256]),
        ("clip", [None, 1]),
        ("weight_decay", [0, 1]),
        ("workers", [0, 8]),
    ],
)
def test_values_at_the_edge(plain: dict[str, Any], key: str, good: list[Any]) -> None:
    for value in good:
        plain["stages"][0] = {**plain["stages"][0], key: value}
        assert told(plain) == []


RULES: list[tuple[Change, str]] = [
    (
        lambda c: c["inputs"]["patches"].pop("modality"),
        "inputs.patches.modality: expected one of image, audio, video, got 'patches'",
    ),
    (
        lambda c: c["inputs"]["patches"].update(encoder="imge"),
        "with an encoder of its own (one of image, video), got 'imge' (a string); did you mean `image`?",
    ),
    (
        lambda c: c["inputs"]["patches"].update(encoder="patches"),
        "got 'patches' (a string), which shares that of `patches`",
    ),
    (
        lambda c: (c["inputs"]["image"].update(encoder="patches"), c["inputs"]["patches"].update(encoder="image")),
        "inputs.image.encoder: expected a block",
    ),
    (
        lambda c: c["inputs"].update(more={"modality": "image", "encoder": "patches", "aligner": {"type": "linear"}}),
        "which shares that of `image`",
    ),
    (lambda c: c["inputs"]["patches"].update(encoder=3), "inputs.patches.encoder: expected a mapping, got 3"),
    (
        lambda c: c["inputs"]["video"]["encoder"].update(encoder="imge"),
        "inputs.video.encoder.encoder: expected a block, or a stream with an encoder of its own (image), got 'imge'",
    ),
    (
        lambda c: c["inputs"]["video"]["encoder"].update(encoder="patches"),
        "inputs.video.encoder.encoder: expected a block, or a stream with an encoder of its own (image), got 'patches' (a string), "
        "which shares that of `image`",
    ),
    (
        lambda c: c["inputs"]["video"]["encoder"].update(encoder=3),
        "inputs.video.encoder.encoder: expected a mapping, got 3",
    ),
    (
        lambda c: (
            c["inputs"]["video"]["encoder"].update(encoder="image"),
            c["stages"][0].update(train={"inputs.video.encoder": {"lr": 1}}),
        ),
        "expected inputs.image.encoder, got `inputs.video.encoder`, which is the same encoder shared",
    ),
    (
        lambda c: c["inputs"]["video"].pop("marker"),
        "inputs.video.marker: expected the text that stands where an item is",
    ),
    (
        lambda c: c["inputs"]["image"].update(opening="<a>"),
        "inputs.image.opening: expected none, as the stream feeds slots (use `before`); got one",
    ),
    (
        lambda c: c["backbone"]["grafts"].pop("gates"),
        "inputs.video.into: expected a graft under backbone.grafts that reads memory (gated_cross_attention), got none",
    ),
    (
        lambda c: c["stages"][1].update(name="align"),
        "stages.1.name: expected a name that no other stage has, got 'align', the name of stages.0",
    ),
    (lambda c: c["stages"][1].update(epochs=2), "stages.1.steps: expected `epochs` or `steps`, got both"),
    (
        lambda c: c["stages"][0].update(train={"inputs.image.alinger": {"lr": 1}}),
        "did you mean `inputs.image.aligner`?",
    ),
    (lambda c: c["stages"][0].update(train={"aligner": {"lr": 1}}), "`inputs.image.aligner`"),
    (lambda c: c["stages"][0].update(train={"outputs.image": {"lr": 1}}), "expected the id of a part"),
    (
        lambda c: c["stages"][0].update(train={"inputs.patches.encoder": {"lr": 1}}),
        "expected inputs.image.encoder, got `inputs.patches.encoder`, which is the same encoder shared",
    ),
    (
        lambda c: c["published"].update(trainable={"algin": 1}),
        "the name of a stage (one of align, tune), got `algin`; did you mean `align`?",
    ),
    (lambda c: c["published"].update(tokens={"img": 1}), "published.tokens.img: expected the name of a stream"),
    (lambda c: c.update(template="vicuna_v1"), "template: expected one of chat, "),
    (
        lambda c: c["inputs"].update({"a.b": c["inputs"]["image"] | {"modality": "image"}}),
        "expected a name of letters, digits, - and _, got 'a.b'",
    ),
    (
        lambda c: c["backbone"]["grafts"].update({"a b": {"type": "lora"}}),
        "expected a name of letters, digits, - and _, got 'a b'",
    ),
    (
        lambda c: c["stages"][0].update(cache_states=9),
        "stages.0.cache_states: expected 0, as the stage trains `inputs.image.aligner`, which changes the states; got 9",
    ),
    (
        lambda c: c["stages"][0].update(cache_states=9, train={}),
        "stages.0.cache_states: expected 0, as the stage learns text (`objectives`); got 9",
    ),
]


@pytest.mark.parametrize(("change", "message"), RULES, ids=[m[:50] for _, m in RULES])
def test_rules_between_blocks(plain: dict[str, Any], change: Change, message: str) -> None:
    change(plain)
    assert message in "\n".join(told(plain))


def test_rules_hold_for_configs_made_by_hand(typical: Path) -> None:
    config = load(typical)
    stage = StageConfig.model_validate({**tree(config.stages[0]), "train": {"inputs.sound.encoder": {"lr": 1.0}}})
    with pytest.raises(ValidationError, match="expected the id of a part"):
        SystemConfig(name="x", backbone=BackboneConfig(type="causal"), stages=[stage])


def test_a_graft_that_cannot_be_found_is_told_alone(plain: dict[str, Any]) -> None:
    plain["backbone"]["grafts"]["gates"]["type"] = "gated_cross_atention"
    messages = told(plain)
    assert len(messages) == 1
    assert "did you mean `gated_cross_attention`?" in messages[0]


def test_a_part_of_ones_own(plain: dict[str, Any]) -> None:
    plain["inputs"]["image"]["aligner"] = {"type": "shelf.aligners.projectors:Mlp", "depth": 3}
    assert told(plain) == []
    plain["inputs"]["image"]["aligner"] = {"type": "shelf.aligners.projectors:Mpl", "depth": 3}
    assert "did you mean `Mlp`?" in told(plain)[0]
    plain["inputs"]["image"]["aligner"] = {"type": "shelf.aligners.projectors:Mlp", "dpeth": 3}
    assert "did you mean `depth`?" in told(plain)[0]


@pytest.mark.parametrize(
    ("block", "told_of_it"),
    [
        ({"type": "clip"}, "inputs.image.encoder.weights: expected `weights`, which encoder clip needs, got nothing"),
        ({"type": "clip", "weights": None}, "which encoder clip needs, got nothing"),
        (
            {"type": "frames", "frames": 2},
            "inputs.image.encoder.encoder: expected `encoder`, which encoder frames needs",
        ),
        (
            {"type": "frames", "frames": 2, "weights": "w", "encoder": {"type": "clip", "weights": "w"}},
            "expected no `weights`",
        ),
        (
            {"type": "frames", "encoder": {"type": "clip", "weights": "w"}},
            "expected the option `frames` (int), which encoder frames needs",
        ),
        (
            {"type": "frames", "frame": 2, "encoder": {"type": "clip", "weights": "w"}},
            "got the unknown option `frame`; did you mean `frames`?",
        ),
        (
            {"type": "clip", "weights": "w", "encoder": {"type": "clip", "weights": "w"}},
            "expected no `encoder`, which encoder clip does not take",
        ),
        ({"type": "clip", "weights": "w", "options": {"layer": -1}}, "got the unknown option `options`"),
        ({"type": "mlp", "depth": 2}, "siglip, whisper or module:Class, got 'mlp'; `mlp` is one of the aligners"),
        ({"weights": "w"}, "inputs.image.encoder.type: expected this key, got nothing"),
        ({"type": None}, "inputs.image.encoder.type: expected a string, got null"),
        (["clip"], "inputs.image.encoder: expected a mapping, got a list of 1"),
    ],
)
def test_what_parts_are_given(plain: dict[str, Any], block: Any, told_of_it: str) -> None:
    plain["inputs"]["image"]["encoder"] = block
    plain["inputs"].pop("patches")
    messages = told(plain)
    assert len(messages) == 1
    assert told_of_it in messages[0]


def test_optional_weights(plain: dict[str, Any]) -> None:
    plain["inputs"]["image"]["aligner"] = {"type": "qformer", "weights": "w"}
    assert told(plain) == []
    plain["inputs"]["image"]["aligner"] = {"type": "qformer", "instruction": True}
    assert told(plain) == []
