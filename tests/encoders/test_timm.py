"""timm's networks against the library's own call, with weights from small folders."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.data import create_transform, resolve_data_config
from torch import nn

from mmlm.encoders.timm import TimmEncoder
from mmlm.encoders.towers import interpolated
from mmlm.encoders.trunks import set_size
from mmlm.errors import InputError
from mmlm.registry import component
from mmlm.sample import Image
from mmlm.weights import Weights

# name: architecture, dimensions, input size, prefix, path of the stages, path of the last step
NETWORKS: dict[str, tuple[str, dict[str, Any], int, int, str, str]] = {
    "vit": ("vit_base_patch16_224", {"embed_dim": 24, "depth": 3, "num_heads": 3, "img_size": 48}, 48, 1, "blocks", "norm"),
    "registers": (
        "vit_small_patch14_reg4_dinov2",
        {"embed_dim": 24, "depth": 3, "num_heads": 3, "img_size": 42},
        42, 5, "blocks", "norm",
    ),
    "eva": ("eva02_tiny_patch14_224", {"embed_dim": 32, "depth": 3, "num_heads": 4, "img_size": 42}, 42, 1, "blocks", "norm"),
    "convnext": ("convnext_atto", {"depths": [1, 1, 1, 1], "dims": [4, 8, 12, 16]}, 96, 0, "stages", "norm_pre"),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"embed_dim": 8, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 2, 4], "img_size": 128},
        128, 0, "layers", "norm",
    ),
    "lite": ("tf_efficientnet_lite0", {}, 64, 0, "", "conv_head"),
    "resnet": ("resnet18", {"layers": [1, 1, 1, 1], "channels": [8, 12, 16, 20]}, 96, 0, "", ""),
}  # fmt: skip


@pytest.fixture(scope="module", params=list(NETWORKS))
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path, Any]:
    """A folder as timm publishes them, with a classifier in it, and the network itself."""
    architecture, args, size, *_ = NETWORKS[request.param]
    torch.manual_seed(0)
    model: Any = timm.create_model(architecture, num_classes=7, **args).eval()
    for n, t in model.named_buffers():
        if n.endswith(("running_mean", "running_var")):
            t.uniform_(0.5, 1.5)
    for n, p in model.named_parameters():
        if p.ndim == 1 or "embed" in n:
            nn.init.normal_(p, mean=float(p.ndim == 1 and n.endswith("weight")), std=0.2)
    folder = tmp_path_factory.mktemp(request.param)
    cfg = timm.get_pretrained_cfg(architecture).to_dict() | {"input_size": [3, size, size], "crop_pct": 0.9}
    (folder / "config.json").write_text(
        json.dumps({"architecture": architecture, "model_args": args, "pretrained_cfg": cfg})
    )
    save_file(model.state_dict(), folder / "model.safetensors")
    return request.param, folder, model


def units(kind: str, size: int = 0) -> torch.Tensor:
    size = size or NETWORKS[kind][2]
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def stages(kind: str, model: Any) -> list[nn.Module]:
    """The modules whose outputs are the taps, found by reading each network."""
    if kind == "lite":
        return [model.blocks[i] for i in (0, 1, 2, 4, 6)]  # the last at each reduction
    if kind == "resnet":
        return [model.act1, model.layer1, model.layer2, model.layer3, model.layer4]
    return list(model.get_submodule(NETWORKS[kind][4]))


def outputs(kind: str, model: Any, x: torch.Tensor) -> list[torch.Tensor]:
    seen: dict[int, torch.Tensor] = {}
    hooks = [
        m.register_forward_hook(lambda m, i, o, k=k: seen.update({k: o})) for k, m in enumerate(stages(kind, model))
    ]
    model(x)
    for hook in hooks:
        hook.remove()
    rows = [
        o if o.ndim == 3 else o.flatten(1, 2) if kind == "swin" else o.flatten(2).transpose(1, 2) for o in seen.values()
    ]
    return rows


@torch.no_grad()
@pytest.mark.parametrize(("layer", "trim"), [(1, True), (2, False), (-1, True), (-2, True), (-2, False)])
def test_every_layer_equals_the_library(made: tuple[str, Path, Any], layer: int, trim: bool) -> None:
    kind, folder, model = made
    prefix = NETWORKS[kind][3]
    want = outputs(kind, model, units(kind))[layer - 1 if layer > 0 else layer]
    kept = TimmEncoder(Weights(str(folder)), layer=layer, class_token="keep", trim=trim)
    torch.testing.assert_close(kept(units(kind)), want, atol=1e-5, rtol=1e-5)
    assert (kept.shape.length, kept.shape.channels, kept.shape.prefix) == (*want.shape[1:], prefix)
    dropped = TimmEncoder(Weights(str(folder)), layer=layer, trim=trim)
    torch.testing.assert_close(dropped(units(kind)), want[:, prefix:], atol=1e-5, rtol=1e-5)
    assert dropped.shape.grid is not None and dropped.shape.grid[0] ** 2 == dropped.shape.length


@torch.no_grad()
def test_head_is_the_networks_own_last_step(made: tuple[str, Path, Any]) -> None:
    kind, folder, model = made
    end = model.forward_features(units(kind))
    want = end if end.ndim == 3 else end.flatten(1, 2) if kind == "swin" else end.flatten(2).transpose(1, 2)
    encoder = TimmEncoder(Weights(str(folder)), head=True, class_token="keep")
    torch.testing.assert_close(encoder(units(kind)), want, atol=1e-5, rtol=1e-5)
    assert (encoder.shape.length, encoder.shape.channels) == want.shape[1:]
    if kind == "lite":
        assert encoder.shape.channels == 1280 and TimmEncoder(Weights(str(folder))).shape.channels == 320


@torch.no_grad()
def test_pooled_is_what_the_classifier_reads(made: tuple[str, Path, Any]) -> None:
    kind, folder, model = made
    encoder = TimmEncoder(Weights(str(folder)), pooled=True)
    want = model.forward_head(model.forward_features(units(kind)), pre_logits=True)
    torch.testing.assert_close(encoder(units(kind))[:, 0], want, atol=1e-5, rtol=1e-5)
    assert (encoder.shape.length, encoder.shape.grid) == (1, None)


def test_trimmed_networks_have_no_idle_parameter(made: tuple[str, Path, Any]) -> None:
    kind, folder, model = made
    for options in ({"layer": -2}, {"layer": -1}, {"head": True}, {"pooled": True}):
        encoder = TimmEncoder(Weights(str(folder)), **options)
        encoder(units(kind)).sum().backward()
        assert [n for n, p in encoder.named_parameters() if p.grad is None] == [], options
    classifier = model.get_classifier()
    whole = sum(p.numel() for p in TimmEncoder(Weights(str(folder)), layer=-2, trim=False).parameters())
    assert whole == sum(p.numel() for p in model.parameters()) - sum(p.numel() for p in classifier.parameters())


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:.*searchsorted.*:UserWarning", "ignore:Using a non-tuple.*:UserWarning")  # timm's
def test_another_size(made: tuple[str, Path, Any]) -> None:
    kind, folder, model = made
    size = {"vit": 80, "registers": 70, "eva": 70, "swin": 160}.get(kind, 128)
    encoder = TimmEncoder(Weights(str(folder)), layer=-2, class_token="keep", image_size=size)
    found = encoder(units(kind, size))
    assert found.shape[1:] == (encoder.shape.length, encoder.shape.channels)
    assert encoder.transform(Image(np.zeros((5, 9, 3), np.uint8))).shape == (1, 3, size, size)
    if kind in ("vit", "eva", "registers"):
        prefix = 0 if model.no_embed_class else NETWORKS[kind][3]
        torch.testing.assert_close(encoder.trunk.pos_embed[0], interpolated(model.pos_embed[0], prefix, 5))
    elif kind != "swin":
        torch.testing.assert_close(found, outputs(kind, model, units(kind, size))[-2], atol=1e-5, rtol=1e-5)


def test_the_same_size_keeps_every_position(made: tuple[str, Path, Any]) -> None:
    kind, folder, model = made
    if kind in ("vit", "eva", "registers"):
        encoder = TimmEncoder(Weights(str(folder)), image_size=NETWORKS[kind][2])
        assert torch.equal(encoder.trunk.pos_embed, model.pos_embed)


@torch.no_grad()
def test_what_was_trained_comes_back_without_the_file(made: tuple[str, Path, Any]) -> None:
    kind, folder, _ = made
    encoder = TimmEncoder(Weights(str(folder)), head=True)
    again = TimmEncoder(Weights(str(folder), load=False), head=True)
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(units(kind)), encoder(units(kind)))


def test_tensors_are_accounted_for(made: tuple[str, Path, Any], tmp_path: Path) -> None:
    _, folder, _ = made
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    plain = load_file(folder / "model.safetensors")
    heads = ("head", "fc.", "classifier")
    name = next(n for n in plain if n.endswith("weight") and not n.startswith(heads))
    for tensors, said in (
        ({n: t for n, t in plain.items() if n != name}, f"missing: {name}"),
        (plain | {name: torch.zeros(2, 9)}, f"of another shape: {name} \\[2, 9\\] for"),
        (plain | {"more": torch.zeros(2)}, "left over: more"),
    ):
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(InputError, match=said):
            TimmEncoder(Weights(str(tmp_path)))
    counters = {n: t for n, t in plain.items() if not n.endswith("num_batches_tracked")}
    save_file(counters, tmp_path / "model.safetensors")
    TimmEncoder(Weights(str(tmp_path)))
    (tmp_path / "model.safetensors").write_bytes(b"not tensors")
    with pytest.raises(InputError, match="cannot be read as safetensors"):
        TimmEncoder(Weights(str(tmp_path)))
    (tmp_path / "model.safetensors").rename(tmp_path / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"only pytorch_model\.bin"):
        TimmEncoder(Weights(str(tmp_path)))


@torch.no_grad()
@pytest.mark.parametrize("mode", ["center", "squash"])
def test_pictures_are_prepared_as_timm_does(mode: str, tmp_path: Path) -> None:
    cfg = {
        "mean": [127 / 255] * 3,
        "std": [128 / 255] * 3,
        "crop_mode": mode,
        "crop_pct": 0.875,
        "input_size": [3, 64, 64],
    }
    raw = {"architecture": "tf_efficientnet_lite0", "pretrained_cfg": cfg}
    (tmp_path / "config.json").write_text(json.dumps(raw))
    encoder = TimmEncoder(Weights(str(tmp_path), load=False))
    pixels = np.random.default_rng(0).integers(0, 256, (50, 77, 3), dtype=np.uint8)
    known = timm.get_pretrained_cfg("tf_efficientnet_lite0").to_dict() | cfg
    theirs = create_transform(**resolve_data_config({}, pretrained_cfg=known))(PIL.Image.fromarray(pixels))
    found = encoder.transform(Image(pixels))
    torch.testing.assert_close(found[0], theirs, atol=1e-6, rtol=0)
    grey = encoder.transform(Image(np.full((9, 9, 3), 200, np.uint8)))
    torch.testing.assert_close(grey, torch.full((1, 3, 64, 64), (200 - 127) / 128))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architecture": "vit_base_patch16_225"}, "did you mean 'vit_base_patch16_224'"),
        ({"architecture": None}, '"architecture"'),
        ({"architecture": "hf-hub:someone/model"}, "no network named"),
        ({"model_args": {"checkpoint_path": "a.pth"}}, "checkpoint_path"),
        ({"model_args": {"pretrained": True}}, "pretrained"),
        ({"pretrained_cfg": {"interpolation": "by hand"}}, "not known here"),
    ],
)
def test_configs_are_not_trusted(change: dict[str, Any], said: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit_base_patch16_224"} | change))
    with pytest.raises(InputError, match=said):
        TimmEncoder(Weights(str(tmp_path), load=False))


def test_names_are_exact() -> None:
    with pytest.raises(InputError, match="did you mean 'resnet50'"):
        TimmEncoder(Weights("timm/resnet5O.a1_in1k"))
    with pytest.raises(InputError, match=r"known are .*vit_base_patch16_224\.augreg_in21k"):
        TimmEncoder(Weights("timm/vit_base_patch16_224.augreg_in22k", load=False))


@pytest.mark.parametrize("name", ["timm/vit_base_patch16_224.augreg_in21k", "vit_base_patch16_224.augreg_in21k"])
def test_files_are_sought_where_timm_publishes_them(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    sought: list[str] = []

    def folder(self: Weights) -> Path:
        sought.append(self.name)
        raise InputError("no network")

    monkeypatch.setattr(Weights, "folder", folder)
    with pytest.raises(InputError, match="no network"):
        TimmEncoder(Weights(name))
    assert sought == ["timm/vit_base_patch16_224.augreg_in21k"]


PUBLISHED: list[tuple[str, dict[str, Any], float, tuple[int, int]]] = [
    ("timm/vit_base_patch16_224.augreg_in21k", {"class_token": "keep"}, 85.8, (197, 768)),
    ("timm/vit_giant_patch14_dinov2.lvd142m", {"image_size": 224}, 1134.8, (256, 1536)),
    ("timm/convnext_tiny.fb_in22k", {}, 27.8, (49, 768)),
    ("timm/swin_large_patch4_window7_224.ms_in22k", {"head": True}, 195.0, (49, 1536)),
    ("timm/tf_efficientnet_lite0.in1k", {"head": True}, 3.4, (49, 1280)),
    ("timm/resnet50.a1_in1k", {"layer": -2}, 8.5, (196, 1024)),
]


@torch.no_grad()
@pytest.mark.parametrize(("name", "options", "millions", "shape"), PUBLISHED)
def test_published_networks(name: str, options: dict[str, Any], millions: float, shape: tuple[int, int]) -> None:
    with torch.device("meta"):
        encoder = component("encoders", "timm")(Weights(name, load=False), **options)
    assert all(p.is_meta for p in encoder.parameters())
    assert round(sum(p.numel() for p in encoder.parameters()) / 1e6, 1) == millions
    assert (encoder.shape.length, encoder.shape.channels) == shape
    torch.manual_seed(0)
    small = TimmEncoder(Weights(name, load=False, tiny=True), **(options | dict(TimmEncoder.tiny))).eval()
    transform = pickle.loads(pickle.dumps(small.transform))
    x = transform(Image(np.random.default_rng(0).integers(0, 256, (13, 29, 3), dtype=np.uint8)))
    assert small(x).shape == (1, small.shape.length, small.shape.channels)
    assert type(small.trunk) is type(encoder.trunk)
    assert sum(p.numel() for p in small.parameters()) < 4e6


def test_a_network_without_a_tiny_version_is_named() -> None:
    with pytest.raises(InputError, match=r"no tiny version of mixer_b16_224 \(MlpMixer\)"):
        TimmEncoder(Weights("timm/mixer_b16_224.goog_in21k", load=False, tiny=True))


def test_a_size_that_does_not_fit_is_refused() -> None:
    trunk = timm.create_model("vit_tiny_patch16_224", depth=1)
    with pytest.raises(InputError, match="cannot take 8 pixels"):
        set_size(trunk, 8)
