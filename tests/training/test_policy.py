"""The policy: exactly what a stage says is trained, with its own learning rate, and nothing else."""

from pathlib import Path

import numpy as np
import pytest
import torch
from systems import KINDS, tiny

from mmlm.assemble import assemble
from mmlm.config import StageConfig
from mmlm.errors import InputError
from mmlm.sample import Image, Sample, Turn
from mmlm.training import policy


def stage(**train: dict[str, float]) -> StageConfig:
    """A stage that trains the parts given (with dots for double underscores)."""
    parts = {k.replace("__", "."): v for k, v in train.items()}
    return StageConfig.model_validate(
        {"name": "s", "data": [{"reader": "qa", "path": "x"}], "train": parts, "batch": 1, "weight_decay": 0.1}
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_belongs_to_exactly_one_part(kind: str, tmp_path: Path) -> None:
    model = assemble(tiny(kind, tmp_path)).model
    owned = [n for named in model.parts().values() for n, _ in named]
    assert sorted(owned) == sorted(n for n, _ in model.named_parameters())
    assert not any(p.requires_grad for p in model.parameters()), "nothing is trained that no stage trains"


def test_a_wider_part_leaves_a_more_specific_one_its_own_rate(tmp_path: Path) -> None:
    model = assemble(tiny("lora", tmp_path)).model
    found = policy.trained(
        model, stage(backbone={"lr": 1e-3}, backbone__embeddings={"lr": 1e-5}, backbone__llm__model__norm={"lr": 1.0})
    )
    assert [n for n, _ in found["backbone.embeddings"]] == ["backbone.llm.model.embed_tokens.weight"]
    assert [n for n, _ in found["backbone.llm.model.norm"]] == ["backbone.llm.model.norm.weight"]
    rest = [n for n, _ in found["backbone"]]
    assert rest and not any("lora_" in n or "embed_tokens" in n or n.endswith("model.norm.weight") for n in rest)


def test_added_rows_are_a_part_of_their_own(tmp_path: Path) -> None:
    """The LLM whole has them, its embedding alone does not; a table of theirs is a part too."""
    model = assemble(tiny("memory", tmp_path, "backbone.weights=huggyllama/llama-7b")).model
    embedding, head = "backbone.added.embedding", "backbone.added.head"

    def of(**train: dict[str, float]) -> set[str]:
        return {n for named in policy.trained(model, stage(**train)).values() for n, _ in named}

    assert of(backbone__added={"lr": 1.0}) == {embedding, head}
    assert of(backbone__added__embedding={"lr": 1.0}) == {embedding}
    assert {embedding, head} <= of(backbone={"lr": 1.0})
    assert of(backbone__embeddings={"lr": 1.0}) == {"backbone.llm.model.embed_tokens.weight"}
    assert of(backbone__head={"lr": 1.0}) == {"backbone.llm.lm_head.weight"}
    split = policy.trained(model, stage(backbone={"lr": 1.0}, backbone__added__embedding={"lr": 2.0}))
    assert [n for n, _ in split["backbone.added.embedding"]] == [embedding]
    assert head in [n for n, _ in split["backbone"]]


def test_no_rows_no_part(tmp_path: Path) -> None:
    model = assemble(tiny("mlp", tmp_path)).model
    assert "backbone.added" not in model.parts()
    with pytest.raises(InputError, match=r"trains 'backbone.added', but nothing in the model has that name"):
        policy.trained(model, stage(backbone__added={"lr": 1.0}))


@pytest.mark.parametrize("part", ["backbone__added", "backbone__added__embedding"])
def test_the_check_of_gradients_holds_without_an_added_token(part: str, tmp_path: Path) -> None:
    """Two steps, of text alone and with a picture, whose marker is the added token."""
    assembly = assemble(tiny("memory", tmp_path, "backbone.weights=huggyllama/llama-7b"))
    policy.apply(assembly.model, stage(**{part: {"lr": 1.0}}))
    picture = Image(np.zeros((9, 12, 3), np.uint8))
    for given, reached in ((("Say yes.",), False), ((picture, "Say yes."), True)):
        assembly.model.zero_grad()
        sample = Sample((Turn("user", given), Turn("assistant", ("yes",))))
        batch = assembly.processor.collate([[assembly.processor(sample)]])
        assembly.model(batch).total["text"].backward()
        policy.verify(assembly.model, "s")
        grad = assembly.model.get_parameter("backbone.added.embedding").grad
        assert grad is not None and bool(grad.any()) == reached


def test_groups_hold_rates_and_spare_vectors_the_decay(tmp_path: Path) -> None:
    model = assemble(tiny("mlp", tmp_path)).model
    parts = {"inputs__image__aligner": {"lr": 1e-3}, "backbone": {"lr": 1e-5, "weight_decay": 0.3}}
    groups = policy.apply(model, stage(**parts))
    assert {(g["part"], g["lr"], g["weight_decay"]) for g in groups} == {
        ("inputs.image.aligner", 1e-3, 0.1),
        ("inputs.image.aligner", 1e-3, 0.0),
        ("backbone", 1e-5, 0.3),
        ("backbone", 1e-5, 0.0),
    }
    for g in groups:
        assert all((p.ndim >= 2) == (g["weight_decay"] > 0) and p.requires_grad for p in g["params"])
    trained = {id(p) for g in groups for p in g["params"]}
    assert all(p.requires_grad == (id(p) in trained) for p in model.parameters())


def test_an_unknown_part_is_named_with_those_there_are(tmp_path: Path) -> None:
    model = assemble(tiny("mlp", tmp_path)).model
    with pytest.raises(
        InputError,
        match=r"trains 'inputs.image.aligner.missing'.*its parts are inputs.image.encoder, inputs.image.aligner",
    ):
        policy.trained(model, stage(inputs__image__aligner__missing={"lr": 1.0}))


def test_a_lora_that_reaches_beyond_the_llm_is_impossible(tmp_path: Path) -> None:
    model = assemble(tiny("lora", tmp_path)).model
    adapters = [n for n, _ in model.parts()["backbone.grafts.lora"]]
    assert adapters and all(n.startswith("backbone.llm.model.layers.") for n in adapters)


def test_a_fingerprint_sees_one_changed_value() -> None:
    a = torch.arange(12.0).reshape(3, 4)
    b = a.clone()
    b[2, 3] += 1e-6 * 11
    assert policy.fingerprint([("x", a)]) == policy.fingerprint([("x", a.clone())])
    assert len({policy.fingerprint([p]) for p in (("x", a), ("x", b), ("y", a), ("x", a.T), ("x", a.double()))}) == 5
