"""A tiny system that learns to speak by Stable Diffusion: by the goals for its condition, and through the UNet."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pipelines
import pytest
import torch
from families import llama
from PIL import Image as Pillow
from transformers import LlamaConfig, LlamaForCausalLM

from mmlm.assemble import assemble
from mmlm.config import parse
from mmlm.reply import Decoding, reply
from mmlm.sample import Sample, Turn
from mmlm.training import loop
from mmlm.training.checkpoint import newest
from mmlm.training.loop import Trainer
from mmlm.training.run import load_run


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    random = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(4):
        Pillow.fromarray(random.integers(0, 256, (9 + i, 11, 3), dtype=np.uint8)).save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png"})
        annotations.append({"id": i, "image_id": i, "caption": f"thing {i}"})
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return tmp_path / "c.json"


def folders(folder: Path) -> tuple[str, str]:
    """A small LLM with its tokenizer, and a small pipeline, as their libraries save them."""
    tokenizer = llama(legacy=False)
    tokenizer.save_pretrained(folder / "llm")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes)).save_pretrained(folder / "llm")
    pipelines.saved("sd", folder / "sd")
    return str(folder / "llm"), str(folder / "sd")


def written(captions: Path, objectives: dict[str, float], *trained: str) -> dict[str, Any]:
    """A system of one stage, as a file would say it."""
    stage = {
        "name": "speak",
        "data": [{"reader": "captions", "path": str(captions), "says": "item"}],
        "train": {part: {"lr": 1e-2} for part in ("backbone.added", "outputs.image.aligner", *trained)},
        "objectives": {"text": 1.0, **objectives},
        "batch": 2,
        "steps": 2,
    }
    decoder = {"type": "stable_diffusion", "weights": "stable-diffusion-v1-5/stable-diffusion-v1-5"}
    output = {"signals": 2, "aligner": {"type": "queries"}, "decoder": decoder}
    llm = {"type": "causal", "weights": "HuggingFaceTB/SmolLM2-135M-Instruct"}
    config = {"name": "t", "scale": "tiny", "length": 256, "backbone": llm, "outputs": {"image": output}}
    return {**config, "stages": [stage]}


@pytest.mark.parametrize(
    ("objectives", "trained"),
    [({"image.l2": 1.0}, ()), ({"image.denoise": 1.0}, ()), ({"image.denoise": 1.0}, ("outputs.image.decoder",))],
    ids=["goals", "through the frozen UNet", "with the UNet"],
)
def test_a_stage_trains_what_it_says(
    objectives: dict[str, float], trained: tuple[str, ...], captions: Path, tmp_path: Path
) -> None:
    config = parse(written(captions, objectives, *trained))
    before = {n: p.clone() for n, p in assemble(config).model.named_parameters()}
    Trainer(config, tmp_path / "run").run()
    assembly = load_run(tmp_path / "run", "cpu")
    moved = {n for n, p in assembly.model.named_parameters() if not torch.equal(p, before[n])}
    allowed = ("backbone.added.", "outputs.image.aligner.", *(("outputs.image.decoder.unet.",) if trained else ()))
    assert all(n.startswith(allowed) for n in moved) and {n.rpartition(".")[0] for n in moved} >= {"backbone.added"}
    assert any(n.startswith("outputs.image.aligner.") for n in moved)
    assert any(n.startswith("outputs.image.decoder.unet.") for n in moved) == bool(trained)

    first = assembly.processor.outputs["image"].ids[0]
    plain: Any = assembly.model.backbone.logits

    def eager(states: torch.Tensor) -> torch.Tensor:
        found = plain(states).clone()
        found[:, first] = 1e4
        return found

    assembly.model.backbone.logits = eager  # type: ignore[method-assign]
    answer = reply(assembly, [Sample((Turn("user", ("draw",)),))], Decoding(limit=5, items=1))[0]
    assert [i.modality for i in answer.items] == ["image"] and all("more items than the 1" in n for n in answer.notes)


@pytest.mark.parametrize("objective", ["l2", "mse", "cosine"])
def test_a_pooled_vector_is_learned_too(objective: str, captions: Path, tmp_path: Path) -> None:
    """All of the output aligner is reached by the goals of a decoder that asks for a pooled vector."""
    data = written(captions, {f"image.{objective}": 1.0})
    data["outputs"]["image"]["decoder"] = {
        "type": "stable_diffusion_xl",
        "weights": "stabilityai/stable-diffusion-xl-base-1.0",
    }
    data["stages"][0]["steps"] = 1
    config = parse(data)
    before = assemble(config).model.ways_out["image"].aligner.pooled.project.weight
    Trainer(config, tmp_path / "run").run()
    after = load_run(tmp_path / "run", "cpu").model.ways_out["image"].aligner.pooled.project.weight
    assert not torch.equal(before, after)


@pytest.mark.parametrize("kind", ["small", "read from a folder, of another width"])
def test_a_decoder_that_is_trained_goes_on_as_if_it_had_not_been_stopped(
    kind: str, captions: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in a stage that trains the UNet, and in one that then leaves it alone: the same to the last bit.

    What diffusion draws (times, noise, which conditions are dropped, what the VAE says) is among what a checkpoint keeps.
    """
    data = written(captions, {"image.denoise": 1.0}, "outputs.image.decoder")
    decoder = data["outputs"]["image"]["decoder"]
    decoder |= {"drop": 0.4, "negative": "learned"}
    if kind.startswith("read"):
        data["backbone"]["weights"], decoder["weights"] = folders(tmp_path)
        data |= {"scale": "full"}
        decoder |= {"length": 3, "width": 20, "steps": 2}
    first = data["stages"][0] | {"save_every": 1, "log_every": 1}
    second = first | {"name": "then", "train": {"outputs.image.aligner": {"lr": 1e-2}}, "steps": 1}
    config = parse(data | {"stages": [first, second]})
    Trainer(config, tmp_path / "whole").run()

    plain = loop.StageRun._step
    for stage, at in (("speak", 1), ("then", 0)):

        def step(self: Any, n: int, share: Any, stage: str = stage, at: int = at) -> Any:
            if (self.stage.name, n) == (stage, at):
                raise KeyboardInterrupt
            return plain(self, n, share)

        monkeypatch.setattr(loop.StageRun, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            Trainer(config, tmp_path / "cut").run()
    monkeypatch.setattr(loop.StageRun, "_step", plain)
    Trainer(config, tmp_path / "cut").run()

    ends = []
    for run in ("whole", "cut"):
        found, _ = newest(tmp_path / run / "checkpoints")
        assert found is not None
        files = [*found.path.glob("*.safetensors"), tmp_path / run / "metrics.jsonl"]
        ends.append({f.name: f.read_bytes() for f in files})
    assert ends[0] == ends[1] and len(ends[0]) >= 3
    assert (tmp_path / "whole" / "metrics.jsonl").read_text().count("image.denoise") == 3

    made = load_run(tmp_path / "cut", "cpu").model.ways_out["image"].decoder
    fresh = assemble(config).model.ways_out["image"].decoder
    for name in ("unet", "vae"):
        pairs = zip(getattr(made, name).parameters(), getattr(fresh, name).parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs) == (name == "vae")
    assert made.none.any() and not fresh.none.any()
