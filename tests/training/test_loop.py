"""Training: two stages, exact resume, policy, quarantine, and what bad input gets."""

import json
import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from systems import CLIP, KINDS, pictures, tiny

from mmlm.assemble import assemble
from mmlm.config import SystemConfig, load
from mmlm.errors import InputError
from mmlm.reply import Decoding, reply
from mmlm.sample import Image, Sample, Turn
from mmlm.training import loop, policy, train
from mmlm.training.checkpoint import newest
from mmlm.training.run import lent, load_run

ANSWERS = ("a cat", "a dog on a mat", "nothing", "two birds", "the sea", "rain", "an old tree")


def data(folder: Path, bad: int = 0) -> Path:
    """Seven pictures with a question each, and a text-only one."""
    paths = pictures(folder / "images")
    rows: list[dict[str, object]] = [
        {"id": f"q{i}", "image": f"images/{p.name}", "question": "What is it?", "answer": a}
        for i, (p, a) in enumerate(zip(paths, ANSWERS, strict=True))
    ]
    rows.append({"id": "text", "question": "Say yes.", "answer": "yes"})
    for i in range(bad):
        rows.insert(2 * i, {"id": f"bad{i}", "image": f"images/missing-{i}.png", "question": "?", "answer": "x"})
    path = folder / "qa.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return path


def ends(run: Path) -> dict[str, bytes]:
    """Everything that must not depend on interruptions."""
    found, _ = newest(run / "checkpoints")
    assert found is not None
    return {f.name: f.read_bytes() for f in [*found.path.glob("*.safetensors"), run / "metrics.jsonl"]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_system_trains_through_both_stages_and_is_talked_to(kind: str, tmp_path: Path) -> None:
    config = tiny(kind, tmp_path, data=data(tmp_path))
    run = tmp_path / "run"
    train(config, run)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"]) for line in lines] == [(s, i) for s in ("align", "tune") for i in range(4)]
    assembly = load_run(run, "cpu")
    question = Sample((Turn("user", (Image(tmp_path / "images" / "1.png"), "\nWhat is it?")),))
    said = reply(assembly, [question], Decoding(limit=5))[0]
    again = reply(load_run(run, "cpu"), [question], Decoding(limit=5))[0]
    assert said == again and said.ids


@pytest.mark.parametrize("kind, cached", [("mlp", 0), ("mlp", 64), ("lora", 0), ("memory", 0)])
def test_an_interrupted_run_ends_bit_identical(
    kind: str, cached: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = [f"stages.{i}.cache_features={cached}" for i in (0, 1)]
    config = tiny(kind, tmp_path, *kept, data=data(tmp_path))
    train(config, tmp_path / "whole")
    original = loop.StageRun._step
    run = tmp_path / "cut"
    for stage, at in (("align", 0), ("align", 2), ("tune", 1), ("tune", 3)):

        def step(self: loop.StageRun, n: int, share: object, stage: str = stage, at: int = at) -> dict[str, object]:
            if (self.stage.name, n) == (stage, at):
                raise KeyboardInterrupt
            return original(self, n, share)  # type: ignore[arg-type]

        monkeypatch.setattr(loop.StageRun, "_step", step)
        with pytest.raises(KeyboardInterrupt):
            train(config, run)
    monkeypatch.setattr(loop.StageRun, "_step", original)
    train(config, run)
    assert ends(run) == ends(tmp_path / "whole")


def test_stages_can_be_run_one_by_one(tmp_path: Path) -> None:
    config = tiny("mlp", tmp_path, data=data(tmp_path))
    train(config, tmp_path / "whole")
    with pytest.raises(InputError, match="stage 'tune' needs the stages before it; done so far: none"):
        train(config, tmp_path / "apart", "tune")
    train(config, tmp_path / "apart", "align")
    train(config, tmp_path / "apart", "tune")
    train(config, tmp_path / "apart")
    assert ends(tmp_path / "apart") == ends(tmp_path / "whole")
    with pytest.raises(InputError, match="no stage 'final'"):
        train(config, tmp_path / "apart", "final")


CHANGES = ["cache_features=64", "micro_batch=1", "micro_batch=3", "pack=true", "gradient_checkpointing=true"]


@pytest.mark.parametrize(
    "kind, change", [*(("mlp", c) for c in CHANGES), ("memory", CHANGES[-1]), ("seq2seq", CHANGES[-1])]
)
def test_micro_batches_packing_and_recomputation_change_nothing_but_speed(
    kind: str, change: str, tmp_path: Path
) -> None:
    path = data(tmp_path)
    losses = []
    for i, overrides in enumerate(((), (f"stages.0.{change}", f"stages.1.{change}"))):
        train(tiny(kind, tmp_path, *overrides, data=path), tmp_path / str(i))
        lines = [json.loads(line) for line in (tmp_path / str(i) / "metrics.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in lines] + [line["grad_norm"] for line in lines])
    assert losses[0] == pytest.approx(losses[1], rel=2e-4)


def test_workers_change_nothing(tmp_path: Path) -> None:
    config = tiny("mlp", tmp_path, data=data(tmp_path))
    train(config, tmp_path / "a", "align")
    train(tiny("mlp", tmp_path, "stages.0.workers=2", data=tmp_path / "qa.jsonl"), tmp_path / "b", "align")
    assert ends(tmp_path / "a") == ends(tmp_path / "b")


def test_validation_disturbs_nothing(tmp_path: Path) -> None:
    path = data(tmp_path)
    train(tiny("lora", tmp_path, data=path), tmp_path / "a")
    validation = f"stages.1.validation=[{{reader: qa, path: {path}}}]"
    train(tiny("lora", tmp_path, validation, "stages.1.validate_every=1", data=path), tmp_path / "b")
    a, b = ends(tmp_path / "a"), ends(tmp_path / "b")
    assert a["weights.safetensors"] == b["weights.safetensors"]
    lines = [json.loads(line) for line in (tmp_path / "b" / "metrics.jsonl").read_text().splitlines()]
    assert len([line for line in lines if "validation_loss" in line]) == 4


def test_a_stages_start_reads_what_is_frozen_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven billion parameters take a while to hash, so the lent parts' hashes are those of the frozen parts."""
    hashed: list[str] = []
    real = policy.fingerprint

    def fingerprint(tensors: Iterable[tuple[str, torch.Tensor]]) -> str:
        pairs = list(tensors)
        hashed.extend(n for n, _ in pairs)
        return real(pairs)

    def step(self: loop.StageRun, n: int, share: object) -> dict[str, object]:
        raise KeyboardInterrupt

    monkeypatch.setattr(policy, "fingerprint", fingerprint)
    monkeypatch.setattr(loop.StageRun, "_step", step)
    config = tiny("lora", tmp_path, data=data(tmp_path))
    assembly = replace(assemble(config), borrowed={"backbone": "a", "inputs.image.encoder": "b"})
    monkeypatch.setattr(loop, "assemble", lambda config, device: assembly)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "run")
    assert any(n.startswith("backbone.llm.") for n in hashed)
    assert len(hashed) == len(set(hashed))
    trained = set(config.stages[0].train)
    known = lent(assembly.model, assembly.borrowed, trained, policy.frozen(assembly.model))
    assert known == lent(assembly.model, assembly.borrowed, trained)
    assert {"backbone", "backbone.embeddings", "inputs.image.encoder"} <= known.keys()


def test_frozen_parts_do_not_move_and_trained_ones_do(tmp_path: Path) -> None:
    config = tiny("mlp", tmp_path, data=data(tmp_path))
    train(config, tmp_path / "run", "align")
    before = {n: p.clone() for n, p in load_run(tmp_path / "run", "cpu").model.named_parameters()}
    train(config, tmp_path / "run")
    for name, p in load_run(tmp_path / "run", "cpu").model.named_parameters():
        moved = not torch.equal(p, before[name])
        assert moved == (not name.startswith("inputs.image.encoder")), name


def test_a_part_that_the_loss_does_not_reach_is_an_error(tmp_path: Path) -> None:
    encoder = f"inputs.image.encoder={{type: clip, weights: {CLIP}, layer: 1, trim: false}}"
    config = tiny("mlp", tmp_path, encoder, "stages.0.train={inputs.image.encoder: {lr: 1e-3}}", data=data(tmp_path))
    with pytest.raises(InputError, match=r"Trained but not reached by the loss: inputs.image.encoder"):
        train(config, tmp_path / "run")  # the last block and the final norm stand behind the layer that is read


def test_bad_samples_are_listed_and_counted_and_too_many_stop_the_run(tmp_path: Path) -> None:
    path = data(tmp_path, bad=2)
    with pytest.raises(
        InputError, match=r"of \d+ samples cannot be used, more than max_bad \(0\) allows.*missing-\d.png"
    ):
        train(
            tiny("mlp", tmp_path, "stages.0.max_bad=0", "stages.0.epochs=1", "~stages.0.steps", data=path),
            tmp_path / "strict",
        )
    train(tiny("mlp", tmp_path, "stages.0.max_bad=0.5", "stages.1.max_bad=0.5", data=path), tmp_path / "run")
    listed = [json.loads(line) for line in (tmp_path / "run" / "quarantine.jsonl").read_text().splitlines()]
    assert listed and all("qa.jsonl:" in row["origin"] and "missing-" in row["reason"] for row in listed)
    seen = sum(json.loads(line)["samples"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert seen + len(listed) == 8 * 4


def test_an_empty_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match=r"empty.jsonl"):
        train(tiny("mlp", tmp_path, data=tmp_path / "empty.jsonl"), tmp_path / "run")


def test_a_run_refuses_another_config_but_not_other_workers(tmp_path: Path) -> None:
    path = data(tmp_path)
    train(tiny("mlp", tmp_path, data=path), tmp_path / "run", "align")
    with pytest.raises(InputError, match=r"begun with another config \(stages.1.batch: 4 there, 8 now\)"):
        train(tiny("mlp", tmp_path, "stages.1.batch=8", data=path), tmp_path / "run")
    train(tiny("mlp", tmp_path, "stages.1.log_every=2", data=path), tmp_path / "run")


def test_a_run_is_self_contained_and_rebuilds_from_its_own_config(tmp_path: Path) -> None:
    train(tiny("mlp", tmp_path, data=data(tmp_path)), tmp_path / "run")
    moved = tmp_path / "else" / "where"
    shutil.copytree(tmp_path / "run", moved)
    assert isinstance(load(moved / "config.yaml"), SystemConfig)
    question = Sample((Turn("user", (Image(tmp_path / "images" / "0.png"), "\n?")),))
    assert reply(load_run(moved, "cpu"), [question]) == reply(load_run(tmp_path / "run", "cpu"), [question])


def test_a_loss_that_is_not_finite_stops_with_the_samples_named(tmp_path: Path) -> None:
    config = tiny(
        "mlp",
        tmp_path,
        "stages.0.train={inputs.image.aligner: {lr: 1e30}}",
        "stages.0.clip=null",
        "stages.0.warmup=0",
        data=data(tmp_path),
    )
    with pytest.raises(InputError, match=r"stage 'align', step \d: the loss or its gradient is .*in the samples qa#\d"):
        train(config, tmp_path / "run")


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"is not a run: config.yaml is missing"):
        load_run(tmp_path)
    train(tiny("mlp", tmp_path, data=data(tmp_path)), tmp_path / "run", "align")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(InputError, match="has no complete checkpoint"):
        load_run(tmp_path / "run")


def test_two_processes_cannot_train_into_one_run(tmp_path: Path) -> None:
    import fcntl

    config = tiny("mlp", tmp_path, data=data(tmp_path))
    (tmp_path / "run").mkdir()
    handle = os.open(tmp_path / "run" / ".lock", os.O_CREAT | os.O_RDWR)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(InputError, match="is in use by another process"):
        train(config, tmp_path / "run")
    os.close(handle)
