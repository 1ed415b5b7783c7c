"""Vision towers that several families share: model_type of the vision config -> the encoder that computes the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mmlm.errors import InputError
from mmlm.interop.families.family import place
from mmlm.interop.names import Pair
from mmlm.interop.pictures import Pictures
from mmlm.interop.source import Source


@dataclass(frozen=True, slots=True)
class Tower:
    """An encoder by name, and whether it has a class token."""

    encoder: str
    class_token: bool


TOWERS: dict[str, Tower] = {
    "clip_vision_model": Tower("clip", class_token=True),
    "dinov2": Tower("dinov2", class_token=True),
    "siglip_vision_model": Tower("siglip", class_token=False),
}

# transformers writes other names into the files of a DINOv2 than its modules have.
_LAYER = "encoder.layer.{}.attention"
_DINOV2 = (
    (f"{_LAYER}.attention.query.{{}}", f"{_LAYER}.q_proj.{{}}"),
    (f"{_LAYER}.attention.key.{{}}", f"{_LAYER}.k_proj.{{}}"),
    (f"{_LAYER}.attention.value.{{}}", f"{_LAYER}.v_proj.{{}}"),
    (f"{_LAYER}.output.dense.{{}}", f"{_LAYER}.o_proj.{{}}"),
)


def find(source: Source, kind: str) -> Tower:
    """The tower of this model_type. Raises InputError that names those that are known."""
    if kind not in TOWERS:
        raise InputError(f"{source}: expected a vision tower of {', '.join(sorted(TOWERS))}; came {kind!r}")
    return TOWERS[kind]


def block(
    source: Source, part: str, config: Mapping[str, Any], pictures: Pictures, layer: int | list[int], strategy: str
) -> dict[str, Any]:
    """The encoder's block in the config. `strategy` is transformers' vision_feature_select_strategy: "default" takes the
    first feature away, "full" leaves it. Raises InputError where the encoder cannot give those features."""
    tower = find(source, str(config.get("model_type")))
    if strategy not in ("default", "full"):
        raise InputError(f"{source}: vision_feature_select_strategy is {strategy!r}; expected default or full")
    if strategy == "default" and not tower.class_token:
        raise InputError(
            f"{source}: vision_feature_select_strategy is 'default', which takes the first patch away from a "
            f"{config['model_type']}, for it has no class token; only 'full' can be imported"
        )
    if pictures.size != config["image_size"]:
        raise InputError(
            f"{source}: its processor makes pictures of {pictures.size} pixels, its vision tower reads "
            f"{config['image_size']}; both must agree"
        )
    # The whole tower is kept, also what lies behind the layer that is read: nothing that was there is lost.
    said = {"type": tower.encoder, "weights": place(part), "layer": layer, "final_norm": False, "trim": False}
    return {**said, "class_token": "drop" if strategy == "default" else "keep", **pictures.options}


def pairs(part: str, prefix: str) -> Sequence[Pair]:
    """The names of a tower's tensors, which stand below `prefix` there."""
    return [
        *(Pair(prefix + theirs, f"{part}.model.{ours}") for theirs, ours in _DINOV2),
        Pair(f"{prefix}{{}}", f"{part}.model.{{}}"),
    ]
