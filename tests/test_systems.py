"""Every shipped system: its file is read, planned at full size without a download, and held against published figures."""

from functools import cache
from pathlib import Path

import pytest
import torch
from learning import batch_of, losses_of

from mmlm.assemble import assemble
from mmlm.config import SystemConfig, load
from mmlm.plan import Plan, plan
from mmlm.training import policy

FOLDER = Path(__file__).parents[1] / "configs" / "systems"
NAMES = sorted(p.stem for p in FOLDER.glob("*.yaml"))


@cache
def planned(name: str) -> tuple[SystemConfig, Plan]:
    config = load(FOLDER / f"{name}.yaml")
    return config, plan(config)


def off(counted: float, published: float) -> float:
    return abs(counted / published - 1)


def test_the_systems_are_there() -> None:
    assert set(NAMES) >= {
        "llava-7b",
        "llava-1.5-7b",
        "llava-1.5-13b",
        "blip2-opt-2.7b",
        "blip2-opt-6.7b",
        "blip2-flan-t5-xl",
        "instructblip-vicuna-7b",
        "minigpt-4-7b",
        "idefics-9b",
        "otter-mpt-7b",
        "vila-7b",
        "video-chatgpt-7b",
        "gill-opt-6.7b",
        "minigpt-5-7b",
        "dreamllm-7b",
        "next-gpt-7b",
        "modaverse-7b",
        "gpt4video-7b",
        "emu-13b",
        "emu2-33b",
        "codi-2-7b",
    }


@pytest.mark.parametrize("name", NAMES)
def test_a_file_says_what_it_is(name: str) -> None:
    """It opens with the system, its paper and what differs; its name is the file's; all its stages are published ones."""
    text = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8")
    head = text.split("\nname:")[0].split("\nbase:")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    assert "https://arxiv.org/abs/" in head and "What differs from the authors' code" in head
    config, _ = planned(name)
    assert config.name == name and config.about and config.published and config.stages
    assert set(config.published.trainable) == {s.name for s in config.stages}
    assert set(config.published.tokens) == set(config.inputs)


@pytest.mark.parametrize("name", NAMES)
def test_tokens_are_the_published_ones(name: str) -> None:
    _, found = planned(name)
    assert [s.tokens for s in found.streams] == [s.published for s in found.streams]


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_within_one_percent(name: str) -> None:
    _, found = planned(name)
    if found.published is None:
        assert "no total" in found.note
    else:
        assert off(found.parameters, found.published) < 0.01, found.table()


@pytest.mark.parametrize("name", NAMES)
def test_trained_parameters_are_within_one_percent(name: str) -> None:
    _, found = planned(name)
    for stage in found.stages:
        assert stage.published and off(stage.trained, stage.published) < 0.01, found.table()


@pytest.mark.parametrize("name", NAMES)
def test_a_sample_fits_and_costs(name: str) -> None:
    config, found = planned(name)
    for stage, said in zip(found.stages, config.stages, strict=True):
        # What reads the LLM's states sends no gradient through it.
        through = any(
            part.split(".")[::2] not in (["outputs", "aligner"], ["outputs", "decoder"]) for part in said.train
        )
        assert stage.text >= 32 and stage.forward > 0
        assert (stage.backward > 0) == (stage.memory.activations > 0) == through
    assert max(map(len, found.table().splitlines())) < 160


@pytest.mark.parametrize("name", NAMES)
def test_it_shrinks(name: str) -> None:
    """The same file at tiny scale is small enough for a test, with the same parts."""
    small = plan(load(FOLDER / f"{name}.yaml", ["scale=tiny"]))
    assert [p.id for p in small.parts] == [p.id for p in planned(name)[1].parts]
    assert small.parameters < 40e6


@pytest.mark.filterwarnings("ignore:Mismatch dtype:UserWarning")  # CPU only: a norm in fp32 takes bf16 slowly
@pytest.mark.parametrize("name", NAMES)
def test_every_stage_trains_what_it_says(name: str) -> None:
    """At tiny scale, with a real sample: the losses are finite, and exactly the declared parameters get a gradient."""
    config = load(FOLDER / f"{name}.yaml", ["scale=tiny"])
    assembly = assemble(config)
    for stage in config.stages:
        policy.apply(assembly.model, stage)
        losses = losses_of(assembly, stage, batch_of(assembly, stage))
        assert all(torch.isfinite(loss) for loss in losses.values())
        torch.stack([*losses.values()]).sum().backward()
        policy.verify(assembly.model, stage.name)
        assembly.model.zero_grad()
