"""What a config alone shows that cannot work: a decoder that no words steer, an objective that it has nothing for."""

from pathlib import Path
from typing import Any

import pytest

from mmlm import cli
from mmlm.assemble import assemble
from mmlm.config import SystemConfig, dump, parse
from mmlm.errors import InputError

LLM = {"type": "causal", "weights": "HuggingFaceTB/SmolLM2-135M-Instruct"}
EYES = {"type": "clip", "weights": "openai/clip-vit-base-patch32"}
SD = {"type": "stable_diffusion", "weights": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
DECODERS: dict[str, dict[str, Any]] = {
    "sd": SD,
    "sd width": {**SD, "length": 4, "width": 12, "negative": "zeros"},
    "sd long": {**SD, "length": 90, "negative": "zeros"},
    "unclip": {"type": "stable_unclip", "weights": "stabilityai/stable-diffusion-2-1-unclip", "negative": "zeros"},
    "pixels": {"type": "pixel_diffusion"},
    "finds": {"type": "retrieval", "width": 6, "encoder": EYES},
}
FED = {"read": "feedback", "feeds": "image", "aligner": {"type": "linear"}}


def system(decoder: str, kinds: str = "", **more: Any) -> SystemConfig:
    way = {"aligner": {"type": "queries"}, **more, "decoder": DECODERS[decoder]}
    way = {k: v for k, v in way.items() if v is not None}
    stage = {
        "name": "draw",
        "data": [{"reader": "captions", "path": "none.json", "says": "item"}],
        "train": {"backbone.added": {"lr": 1e-3}},
        "objectives": {
            "text": 1.0,
            **{f"image.{k.partition('=')[0]}": float(k.partition("=")[2] or 1) for k in kinds.split()},
        },
        "batch": 1,
        "steps": 1,
    }
    inputs = {"image": {"encoder": EYES, "aligner": {"type": "mlp"}}} if more.get("feeds") else {}
    head = {"name": "t", "scale": "tiny", "length": 300, "backbone": LLM, "inputs": inputs}
    return parse({**head, "outputs": {"image": way}, "stages": [stage]})


@pytest.mark.parametrize("decoder", ["sd width", "sd long", "unclip", "pixels", "finds"])
def test_a_decoder_that_no_words_steer_is_refused(decoder: str) -> None:
    config = system(decoder, read="text", signals=2, aligner=None)
    told = rf"outputs\.image: {config.outputs['image'].decoder.type} .* steered by no words .*`read: text`.*; use "
    with pytest.raises(InputError, match=told):
        assemble(config, load=False, device="meta")


def test_one_that_words_steer_is_not() -> None:
    assemble(system("sd", read="text", signals=2, aligner=None), load=False, device="meta")


@pytest.mark.parametrize(
    ("decoder", "kinds", "named", "message"),
    [
        ("pixels", "l2", "l2", "expected a decoder with an encoding of its own"),
        ("pixels", "denoise contrast", "contrast", "expected a decoder with an encoding of its own"),
        ("pixels", "reconstruct", "reconstruct", "expected a decoder with an encoding of its own"),
        ("sd width", "mse denoise", "mse", "pipeline|expected a decoder with an encoding of its own"),
        ("sd long", "cosine", "cosine", "expected a decoder with an encoding of its own"),
        ("unclip", "l2", "l2", "expected one of contrast, denoise, reconstruct beside it"),
        ("finds", "mse", "mse", "expected one of contrast, denoise, reconstruct beside it"),
        ("finds", "contrast denoise", "denoise", "expected a decoder that learns by making items"),
        ("finds", "reconstruct", "reconstruct", "expected a decoder that learns by making items"),
    ],
)
def test_an_objective_that_a_decoder_has_nothing_for_is_refused(
    decoder: str, kinds: str, named: str, message: str
) -> None:
    with pytest.raises(InputError, match=message) as told:
        assemble(system(decoder, kinds), load=False, device="meta")
    assert str(told.value).startswith(f"stages.draw.objectives: image.{named}: ")
    assert f"outputs.image.decoder ({DECODERS[decoder]['type']})" in str(told.value) and "; use " in str(told.value)


@pytest.mark.parametrize(
    ("decoder", "kinds"),
    [
        ("sd", "l2 mse cosine contrast denoise reconstruct"),
        ("sd width", "denoise"),
        ("unclip", "l2 denoise"),
        ("unclip", "contrast"),
        ("unclip", "reconstruct"),
        ("pixels", "denoise l2=0"),
        ("finds", "contrast l2"),
    ],
)
def test_one_that_it_has_something_for_is_not(decoder: str, kinds: str) -> None:
    assemble(system(decoder, kinds), load=False, device="meta")


def test_vectors_that_are_fed_are_goals() -> None:
    assemble(system("pixels", "mse cosine denoise reconstruct", **FED), load=False, device="meta")


@pytest.mark.parametrize("command", ["plan", "train"])
def test_it_is_told_before_anything_is_made(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "t.yaml").write_text(dump(system("pixels", "l2")), encoding="utf-8")
    out = ["--out", str(tmp_path / "run")] if command == "train" else []
    assert cli.main([command, str(tmp_path / "t.yaml"), *out]) == 2
    said = capsys.readouterr()
    assert len(said.err.strip().splitlines()) == 1 and "image.l2" in said.err and "use image.denoise" in said.err
    assert not (tmp_path / "run").exists()
