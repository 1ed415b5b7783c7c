"""What a run's checkpoint holds, of a system whose parts come from folders of weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from families import llama
from safetensors import safe_open
from systems import pictures
from transformers import CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from mmlm.config import SystemConfig, load
from mmlm.errors import InputError
from mmlm.reply import Decoding, reply
from mmlm.sample import Image, Sample, Turn
from mmlm.training import loop, train
from mmlm.training.checkpoint import newest
from mmlm.training.run import load_run

SPARE = 7  # rows of the LLM's tables that no token of its own has


def saved(folder: Path, spare: int) -> None:
    """A small LLM with its tokenizer, and a small encoder, as anybody would save them."""
    tokenizer = llama(legacy=False)
    tokenizer.save_pretrained(folder / "llm")
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer) + spare, **sizes)).save_pretrained(folder / "llm")
    eyes = CLIPVisionConfig(image_size=28, patch_size=14, **sizes)
    CLIPVisionModel(eyes).save_pretrained(folder / "eyes")


def system(folder: Path, train: str, spare: int = 0, graft: str = "") -> SystemConfig:
    """One stage of four steps on three pictures between two added tokens."""
    saved(folder, spare)
    rows = [
        {"id": str(i), "image": p.name, "question": "What?", "answer": "a cat"}
        for i, p in enumerate(pictures(folder, 3))
    ]
    (folder / "qa.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    path = folder / "system.yaml"
    path.write_text(
        f"""
name: lent
template: vicuna-v1
length: 64
inputs:
  image:
    encoder: {{type: clip, weights: {folder / "eyes"}, layer: -1}}
    aligner: {{type: mlp}}
    before: <im_start>
    after: <im_end>
backbone: {{type: causal, weights: {folder / "llm"}, add_tokens: [<im_start>, <im_end>], grafts: {{{graft}}}}}
stages:
  - name: align
    data: [{{reader: qa, path: {folder / "qa.jsonl"}}}]
    train: {{{train}}}
    batch: 3
    steps: 4
    save_every: 1
    weight_decay: 0.5
""",
        encoding="utf-8",
    )
    return load(path)


def held(run: Path) -> set[str]:
    """The names of the tensors in the newest checkpoint."""
    found, _ = newest(run / "checkpoints")
    assert found is not None
    with safe_open(found.path / "weights.safetensors", framework="pt") as f:
        return set(f.keys())


@pytest.mark.parametrize("spare", [0, SPARE], ids=["behind the tables", "in their spare rows"])
def test_only_added_rows_are_held_of_a_frozen_llm(spare: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted at every step it ends bit-identical, with an LLM that is the checkpoint's to the last bit."""
    config = system(tmp_path, "backbone.added.embedding: {lr: 1.0e-1}", spare)
    train(config, tmp_path / "whole")
    original = loop.StageRun._step
    for at in range(4):

        def step(self: loop.StageRun, n: int, share: object, at: int = at) -> dict[str, object]:
            if n == at:
                raise KeyboardInterrupt
            return original(self, n, share)  # type: ignore[arg-type]

        monkeypatch.setattr(loop.StageRun, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            train(config, tmp_path / "cut")
    monkeypatch.setattr(loop.StageRun, "_step", original)
    train(config, tmp_path / "cut")
    ends = [newest(tmp_path / run / "checkpoints")[0] for run in ("whole", "cut")]
    for file in ("weights", "optimizer"):
        one, two = (end.tensors(file) for end in ends if end is not None)
        assert one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)
    names = held(tmp_path / "whole")
    assert {n for n in names if n.startswith("backbone")} == {"backbone.added.embedding", "backbone.added.head"}
    assert not any(n.startswith("inputs.image.encoder") for n in names)
    assembly = load_run(tmp_path / "whole", "cpu")
    stored = LlamaForCausalLM.from_pretrained(tmp_path / "llm").state_dict()
    own = assembly.model.backbone.llm.state_dict()
    assert stored.keys() == own.keys() and all(torch.equal(stored[n], own[n]) for n in stored)
    added = assembly.model.backbone.added
    assert added is not None and added.first == assembly.vocabulary.own == len(own["lm_head.weight"]) - spare
    mean = own["model.embed_tokens.weight"][: added.first].mean(0)
    assert not torch.allclose(added.embedding, mean) and added.head is not None
    torch.testing.assert_close(added.head, own["lm_head.weight"][: added.first].mean(0).expand(2, -1))
    asked = Sample((Turn("user", (Image(tmp_path / "0.png"), "What?")),))
    assert reply(assembly, [asked], Decoding(limit=3)) == reply(
        load_run(tmp_path / "cut", "cpu"), [asked], Decoding(limit=3)
    )


@pytest.mark.parametrize(
    ("trained", "graft", "parts"),
    [
        ("inputs.image.aligner: {lr: 1.0e-3}", "", set()),
        ("backbone.embeddings: {lr: 1.0e-3}", "", {"backbone.llm.model.embed_tokens.weight"}),
        ("backbone.grafts.lora: {lr: 1.0e-3}", "lora: {type: lora, rank: 2}", {"lora"}),
        ("backbone: {lr: 1.0e-3}", "", {"backbone.llm.model.embed_tokens.weight", "backbone.llm.lm_head.weight", "layers", "norm"}),
    ],
    ids=["aligner", "embeddings", "adapters", "whole"],
)  # fmt: skip
def test_of_the_llm_a_checkpoint_holds_the_parts_that_were_trained(
    trained: str, graft: str, parts: set[str], tmp_path: Path
) -> None:
    config = system(tmp_path, trained, graft=graft)
    train(config, tmp_path / "run")

    def kind(name: str) -> str:
        for mark, found in ((".lora_", "lora"), (".layers.", "layers"), (".model.norm.", "norm")):
            if mark in name:
                return found
        return name

    names = {kind(n) for n in held(tmp_path / "run") if n.startswith("backbone.llm.")}
    assert names == parts
    load_run(tmp_path / "run", "cpu")


def test_another_llm_is_refused(tmp_path: Path) -> None:
    train(system(tmp_path, "backbone.added: {lr: 1.0e-3}"), tmp_path / "run")
    state = LlamaForCausalLM.from_pretrained(tmp_path / "llm")
    with torch.no_grad():
        state.lm_head.weight[3, 4] += 1e-3
    state.save_pretrained(tmp_path / "llm")
    with pytest.raises(InputError, match=r"trained on other values of backbone.head"):
        load_run(tmp_path / "run", "cpu")


def test_a_run_that_never_began_leaves_its_folder_free(tmp_path: Path) -> None:
    """What could not be trained holds nobody to its config: mended, it goes into the same folder."""
    good = system(tmp_path, "inputs.image.aligner: {lr: 1.0e-2}")
    bad = good.model_copy(
        update={"stages": [good.stages[0].model_copy(update={"train": {"inputs.image.none": _rate(good)}})]}
    )
    with pytest.raises(InputError, match="nothing in the model has that name"):
        train(bad, tmp_path / "run")
    assert not (tmp_path / "run").exists(), "nothing half-made"
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "mine.txt").write_text("x")
    with pytest.raises(InputError, match="nothing in the model has that name"):
        train(bad, tmp_path / "kept")
    assert {p.name for p in (tmp_path / "kept").iterdir()} == {".lock", "mine.txt"}
    train(good, tmp_path / "kept")
    with pytest.raises(InputError, match="was begun with another config"):
        train(bad, tmp_path / "kept")
    assert held(tmp_path / "kept") and load_run(tmp_path / "kept", "cpu").config.stages[0].train == good.stages[0].train


def _rate(config: SystemConfig) -> Any:
    return next(iter(config.stages[0].train.values()))
