"""CLIP, SigLIP and DINOv2 against the plain library call, at every choice of layer, with weights from a small folder."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    CLIPConfig,
    CLIPModel,
    Dinov2Config,
    Dinov2Model,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from mmlm.encoders.clip import ClipEncoder
from mmlm.encoders.dinov2 import Dinov2Encoder
from mmlm.encoders.siglip import SiglipEncoder
from mmlm.errors import InputError
from mmlm.registry import component
from mmlm.sample import Image
from mmlm.weights import Weights

VISION = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "image_size": 31,
    "patch_size": 6,
}
TEXT = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 64}
SIDE = 5  # 31 pixels hold five patches of six
NAMES = {
    "clip": "openai/clip-vit-large-patch14-336",
    "siglip": "google/siglip-base-patch16-224",
    "dinov2": "facebook/dinov2-large",
}
CLASSES = {"clip": ClipEncoder, "siglip": SiglipEncoder, "dinov2": Dinov2Encoder}


@pytest.fixture(params=list(CLASSES))
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def made(kind: str, tmp_path: Path) -> tuple[Path, Any]:
    """A folder with a small random model of the kind, as it would be published, and its vision tower."""
    torch.manual_seed(0)
    if kind == "clip":
        whole: Any = CLIPModel(CLIPConfig(vision_config=VISION, text_config=TEXT))
    elif kind == "siglip":
        whole = SiglipModel(SiglipConfig(vision_config=VISION, text_config=TEXT | {"projection_size": 16}))
    else:
        whole = Dinov2Model(Dinov2Config(**{k: v for k, v in VISION.items() if k != "intermediate_size"}))
    for p in whole.parameters():
        nn.init.normal_(p, std=0.2)
    whole.save_pretrained(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps({"size": 31, "crop_size": 31}))
    return tmp_path, (whole if kind == "dinov2" else whole.vision_model).eval()


def build(kind: str, folder: Path, **options: Any) -> Any:
    return CLASSES[kind](Weights(str(folder)), **options)


def units(n: int = 2, size: int = 31) -> torch.Tensor:
    return torch.randn(n, 3, size, size, generator=torch.Generator().manual_seed(1))


def final(kind: str, tower: Any) -> nn.Module:
    norm: nn.Module = tower.layernorm if kind == "dinov2" else tower.post_layernorm
    return norm


@torch.no_grad()
@pytest.mark.parametrize("layer", [0, 1, 2, 3, -1, -2, -4])
@pytest.mark.parametrize("trim", [True, False])
def test_every_layer_equals_the_library(kind: str, made: tuple[Path, Any], layer: int, trim: bool) -> None:
    folder, tower = made
    states = tower(units(), output_hidden_states=True).hidden_states
    assert len(states) == 4
    encoder = build(kind, folder, layer=layer, class_token="keep", final_norm=False, trim=trim)
    found = encoder(units())
    torch.testing.assert_close(found, states[layer], atol=1e-6, rtol=1e-6)
    prefix = 0 if kind == "siglip" else 1
    assert (encoder.shape.length, encoder.shape.channels) == found.shape[1:]
    assert (encoder.shape.grid, encoder.shape.prefix) == ((SIDE, SIDE), prefix)
    dropped = build(kind, folder, layer=layer, class_token="drop", final_norm=False, trim=trim)
    torch.testing.assert_close(dropped(units()), states[layer][:, prefix:], atol=1e-6, rtol=1e-6)
    assert (dropped.shape.length, dropped.shape.prefix) == (SIDE * SIDE, 0)


@torch.no_grad()
def test_final_norm_acts_on_the_last_layer_alone(kind: str, made: tuple[Path, Any]) -> None:
    folder, tower = made
    states = tower(units(), output_hidden_states=True).hidden_states
    encoder = build(kind, folder, layer=[-2, -1], class_token="keep", final_norm=True)
    expected = torch.cat([states[-2], final(kind, tower)(states[-1])], -1)
    torch.testing.assert_close(encoder(units()), expected, atol=1e-6, rtol=1e-6)
    assert encoder.shape.channels == 48
    if kind != "clip":  # of CLIP, last_hidden_state is the one before the norm
        torch.testing.assert_close(tower(units()).last_hidden_state, expected[..., 24:], atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_pooled_is_the_pooled_output(kind: str, made: tuple[Path, Any]) -> None:
    folder, tower = made
    encoder = build(kind, folder, pooled=True)
    torch.testing.assert_close(encoder(units()), tower(units()).pooler_output[:, None], atol=1e-6, rtol=1e-6)
    assert (encoder.shape.length, encoder.shape.channels, encoder.shape.grid) == (1, 24, None)


@torch.no_grad()
@pytest.mark.parametrize("size", [19, 45, 48])
def test_another_size_equals_the_library_that_interpolates(kind: str, made: tuple[Path, Any], size: int) -> None:
    folder, tower = made
    options = {} if kind == "dinov2" else {"interpolate_pos_encoding": True}
    states = tower(units(size=size), output_hidden_states=True, **options).hidden_states
    encoder = build(kind, folder, layer=-2, class_token="keep", image_size=size)
    torch.testing.assert_close(encoder(units(size=size)), states[-2], atol=1e-5, rtol=1e-5)
    assert encoder.shape.grid == (size // 6, size // 6)
    assert encoder.transform(Image(np.zeros((9, 7, 3), np.uint8))).shape == (1, 3, size, size)


def test_after_loading_nothing_is_left_to_interpolate(
    kind: str, made: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = made
    encoder = build(kind, folder, image_size=48)
    monkeypatch.setattr(nn.functional, "interpolate", None)
    encoder(units(size=48))


def test_trimmed_towers_have_no_idle_parameter(kind: str, made: tuple[Path, Any]) -> None:
    folder, tower = made
    encoder = build(kind, folder, layer=-2)
    encoder(units()).sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None] == []
    whole = build(kind, folder, layer=-2, trim=False)
    assert sum(p.numel() for p in whole.parameters()) == sum(p.numel() for p in tower.parameters())


@torch.no_grad()
def test_what_was_trained_comes_back_without_the_files(kind: str, made: tuple[Path, Any]) -> None:
    folder, _ = made
    encoder = build(kind, folder, image_size=48)
    again = CLASSES[kind](Weights(str(folder), load=False), image_size=48)
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(units(size=48)), encoder(units(size=48)))
    assert again.transform == encoder.transform and again.shape == encoder.shape


@torch.no_grad()
def test_batches_and_single_units_agree(kind: str, made: tuple[Path, Any]) -> None:
    encoder = build(kind, made[0])
    x = units(5)
    torch.testing.assert_close(encoder(x), torch.cat([encoder(u[None]) for u in x]), atol=1e-5, rtol=1e-5)


def test_missing_and_misshapen_tensors_are_named(kind: str, made: tuple[Path, Any]) -> None:
    folder, _ = made
    file = folder / "model.safetensors"
    plain = load_file(file)
    name = next(n for n in plain if "layer" in n and "fc1.weight" in n and "text" not in n)
    save_file({n: t for n, t in plain.items() if n != name}, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"missing .*fc1\.weight"):
        build(kind, folder)
    save_file(plain | {name: torch.zeros(2, 3)}, file, {"format": "pt"})
    with pytest.raises(InputError, match=r"of another shape: .*fc1\.weight"):
        build(kind, folder)


def test_built_on_the_meta_device_without_files(kind: str) -> None:
    with torch.device("meta"):
        encoder = component("encoders", kind)(Weights(NAMES[kind], load=False), layer=-2, image_size=448)
    assert all(p.is_meta for p in encoder.parameters())
    side = 448 // (16 if kind == "siglip" else 14)
    assert encoder.shape.grid == (side, side)


def test_tiny_is_small_and_sees_pictures(kind: str) -> None:
    torch.manual_seed(0)
    cls = CLASSES[kind]
    encoder: Any = cls(Weights(NAMES[kind], load=False, tiny=True), **cls.tiny, layer=-2).eval()
    assert sum(p.numel() for p in encoder.parameters()) < 200_000
    assert encoder.shape.grid == (4, 4) and encoder.shape.channels == 32
    transform = pickle.loads(pickle.dumps(encoder.transform))
    x = transform(Image(np.random.default_rng(0).integers(0, 256, (13, 29, 3), dtype=np.uint8)))
    assert torch.equal(
        x, encoder.transform(Image(np.random.default_rng(0).integers(0, 256, (13, 29, 3), dtype=np.uint8)))
    )
    assert encoder(x).shape == (1, encoder.shape.length, encoder.shape.channels)


def test_published_sizes() -> None:
    """The numbers that the docstrings and the fact sheets give."""

    def millions(name: str, kind: str, **options: Any) -> float:
        with torch.device("meta"):
            encoder = CLASSES[kind](Weights(name, load=False), **options)
        return round(sum(p.numel() for p in encoder.parameters()) / 1e6, 1)

    assert millions(NAMES["clip"], "clip", trim=False) == 303.5
    assert millions(NAMES["clip"], "clip") == 290.9
    assert millions("google/siglip-so400m-patch14-384", "siglip", trim=False) == 428.2
    assert millions("google/siglip-so400m-patch14-384", "siglip") == 413.0


def test_a_siglip_tower_without_a_head_cannot_pool(tmp_path: Path) -> None:
    SiglipVisionModel(SiglipVisionConfig(**VISION, vision_use_head=False)).save_pretrained(tmp_path)
    assert SiglipEncoder(Weights(str(tmp_path))).shape.length == SIDE * SIDE
    with pytest.raises(InputError, match="no pooling head"):
        SiglipEncoder(Weights(str(tmp_path)), pooled=True)


def test_pickles_are_not_read(tmp_path: Path) -> None:
    CLIPModel(CLIPConfig(vision_config=VISION, text_config=TEXT)).config.save_pretrained(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80")
    with pytest.raises(InputError, match=r"pytorch_model\.bin"):
        ClipEncoder(Weights(str(tmp_path)))
