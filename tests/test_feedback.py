"""Feedback: the LLM predicts the vectors of an item one after the other, and reads each of them again."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from torch import Tensor

from mmlm.assemble import Assembly, assemble
from mmlm.config import SystemConfig, parse
from mmlm.errors import InputError
from mmlm.interfaces import Condition
from mmlm.plan.making import plan
from mmlm.reply import Decoding, Reply, reply
from mmlm.sample import Image, Sample, Turn
from mmlm.splice import splice
from mmlm.training.loop import Trainer
from mmlm.training.run import load_run
from tests.learning import stopped_is_the_same

LLM = {"type": "causal", "weights": "HuggingFaceTB/SmolLM2-135M-Instruct"}
CLIP = {"type": "clip", "weights": "openai/clip-vit-base-patch32"}
# Emu2 predicts what its last linear map reads, Emu the tokens of the LLM.
INSIDES: dict[str, Mapping[str, Any]] = {
    "channels": {"type": "mlp", "depth": 1, "bias": False},
    "tokens": {"type": "qformer", "queries": 3},
}
DRAW: Mapping[str, Any] = {
    "signals": 2,
    "read": "feedback",
    "feeds": "image",
    "aligner": {"type": "linear", "bias": False},
    "decoder": {"type": "pixel_diffusion"},
}


def system(inside: str = "channels", output: Mapping[str, Any] | None = None, **more: Any) -> SystemConfig:
    head = {"name": "t", "scale": "tiny", "length": 256, "backbone": LLM}
    inputs = {"image": {"encoder": CLIP, "aligner": INSIDES[inside]}}
    return parse({**head, "inputs": inputs, "outputs": {"image": {**DRAW, **(output or {})}}, **more})


def picture(seed: int) -> Image:
    random = np.random.default_rng(seed)
    return Image(random.integers(0, 256, (9 + seed % 3, 11, 3), dtype=np.uint8), f"thing {seed}")


def told(seed: int, *before: Any, asked: tuple[Any, ...] = ()) -> Sample:
    return Sample((Turn("user", (*asked, f"draw {seed}")), Turn("assistant", (*before, picture(seed), "."))))


def eager(assembly: Assembly, *after: int) -> Assembly:
    """The assembly, whose LLM asks for an item in each row after so many ids."""
    first = assembly.processor.outputs["image"].ids[0]
    backbone, plain, step = assembly.model.backbone, type(assembly.model.backbone).logits, [0]

    def logits(states: Tensor) -> Tensor:
        found = plain(backbone, states).clone()
        found[:, 256:] = -1e4
        for row, wait in enumerate(after):
            found[row, first] = 1e4 if step[0] >= wait else -1e4
        step[0] += 1
        return found

    backbone.logits = logits  # type: ignore[method-assign]
    return assembly


def told_conditions(assembly: Assembly, monkeypatch: pytest.MonkeyPatch, way: str = "image") -> list[Condition]:
    """What a decoder will have been steered by."""
    seen: list[Condition] = []
    decoder = assembly.model.ways_out[way].decoder
    plain = decoder.decode

    def decode(condition: Condition, seeds: list[int]) -> Any:
        seen.append(condition)
        return plain(condition, seeds)

    monkeypatch.setattr(decoder, "decode", decode)
    return seen


def forced(assembly: Assembly, answer: Reply, question: str, vectors: Tensor) -> Tensor:
    """One forward over a reply, whose LLM reads these vectors where it read its own: what it then predicts, by hand."""
    model, signals = assembly.model, assembly.processor.outputs["image"]
    prompt = assembly.processor(Sample((Turn("user", (question,)),)), reply=True).ids
    all_ids = torch.tensor([[*prompt, *answer.ids]])
    start = len(prompt) + answer.ids.index(signals.ids[0])
    tokens = model.streams["image"].aligner.enter(vectors)
    x = splice(model.backbone.embed(all_ids), torch.arange(start + 1, start + 1 + signals.fed), tokens)
    think: Any = model.backbone.think
    states = think(x, torch.ones_like(all_ids), torch.arange(all_ids.shape[1])[None])
    return model.ways_out["image"].predict(states[0, start : start + signals.fed])


@pytest.mark.parametrize("inside", INSIDES)
@pytest.mark.parametrize("signals", [1, 2])
def test_what_is_predicted_token_by_token_is_what_one_forward_predicts(
    inside: str, signals: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    assembly = eager(assemble(system(inside, {"signals": signals})), 3, 1)
    seen, stream = told_conditions(assembly, monkeypatch), assembly.processor.outputs["image"]
    width = assembly.model.streams["image"].aligner.inner or assembly.model.backbone.width
    limit = stream.fed + 8
    said = reply(assembly, [Sample((Turn("user", (q,)),)) for q in ("a", "a longer one")], Decoding(limit, items=1))
    (condition,) = seen
    assert condition.values.shape == (2, stream.fed, width) and condition.pooled is None
    assert (
        float(condition.values[:, 1:].sub(condition.values[:, :1]).abs().max()) > 1e-3
    )  # not one vector again and again
    for row, (question, answer) in enumerate(zip(("a", "a longer one"), said, strict=True)):
        at = (3, 1)[row]
        run = [stream.ids[0], *[assembly.vocabulary.pad] * stream.fed, *stream.ids[1:]]
        assert list(answer.ids[at : at + len(run)]) == run and answer.hidden == ((at, at + len(run)),)
        assert [i.modality for i in answer.items] == ["image"] and len(answer.text) > at
        with torch.no_grad():
            again = forced(assembly, answer, question, condition.values[row])
        torch.testing.assert_close(again, condition.values[row], atol=1e-5, rtol=0)


@pytest.mark.parametrize("inside", INSIDES)
def test_training_reads_the_item_and_predicts_its_vectors(inside: str) -> None:
    """Written out by hand: the input, the states that predict, and the losses."""
    assembly = assemble(system(inside))
    model, stream = assembly.model, assembly.processor.outputs["image"]
    model.objectives = {"image": ["mse", "l2", "cosine"]}
    example = assembly.processor(told(4, "so: ", asked=(picture(2),)))
    run = example.meant[0].start
    assert [example.ids[run], example.ids[run + stream.fed + 1]] == list(stream.ids)
    assert example.labels[run : run + stream.fed + 2] == [stream.ids[0], *[-100] * (stream.fed + 1)]
    batch = assembly.processor.collate([[example]])
    with torch.no_grad():
        losses = model(batch)
        units = batch.streams["image"]
        values = model.streams["image"].eyes(units.values)
        aligner = model.streams["image"].aligner
        x, _ = model.embed(batch)
        tokens = x[0, run + 1 : run + 1 + stream.fed]
        torch.testing.assert_close(aligner.enter(tokens if inside == "tokens" else values[1]), tokens)
        goal = tokens if inside == "tokens" else values[1]
        states = model.backbone.think(x, batch.segments, batch.positions)[0, run : run + stream.fed]  # type: ignore[operator]
        predicted = model.ways_out["image"].predict(states)
    assert losses.count["image.mse"] == 1
    torch.testing.assert_close(losses.total["image.mse"], (predicted - goal).square().mean())
    torch.testing.assert_close(losses.total["image.l2"], (predicted - goal).norm(dim=-1).mean())
    similar = torch.nn.functional.cosine_similarity(predicted, goal, dim=-1)
    torch.testing.assert_close(losses.total["image.cosine"], (1 - similar).mean())


def test_the_targets_are_no_way_for_a_gradient() -> None:
    """What is predicted is learned, not what is to be predicted: the input aligner learns by what the LLM reads alone."""
    assembly = assemble(system("tokens"))
    model = assembly.model
    model.objectives = {"image": ["mse"]}
    aligner, way = model.streams["image"].aligner, model.ways_out["image"]
    for module in (aligner, way.aligner):
        module.requires_grad_(True)  # type: ignore[union-attr]
    batch = assembly.processor.collate([[assembly.processor(told(4))]])
    model(batch).total["image.mse"].backward()
    found = {n: p.grad.clone() for n, p in aligner.named_parameters() if p.grad is not None}
    assert found and all(p.grad is not None for p in way.aligner.parameters())  # type: ignore[union-attr]
    aligner.zero_grad()
    x, _ = model.embed(batch)
    states = model.backbone.think(x, batch.segments, batch.positions)  # type: ignore[operator]
    where = batch.targets["image"].where[0]
    (way.predict(states[0, where]) - x[0, where + 1].detach()).square().mean().backward()
    for name, gradient in found.items():
        torch.testing.assert_close(aligner.get_parameter(name).grad, gradient)


def test_packed_rows_give_the_losses_of_single_samples() -> None:
    assembly = assemble(system())
    model = assembly.model
    model.objectives = {"image": ["mse", "cosine"]}
    processor = assembly.processor
    samples = [told(1, asked=(picture(7),)), told(2, "here ", picture(5), " and "), told(3)]
    with torch.no_grad():
        packed = model(processor.collate([[processor(s) for s in samples[:2]], [processor(samples[2])]]))
        single = [model(processor.collate([[processor(s)]])) for s in samples]
    assert packed.count["image.mse"] == 4
    for name in ("text", "image.mse", "image.cosine"):
        total = sum(float(s.total[name]) for s in single)
        assert float(packed.total[name]) == pytest.approx(total, abs=1e-4)
        assert packed.count[name] == sum(s.count[name] for s in single)


def test_replies_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """One asks for an item at once, one later, one never: as each alone."""
    assembly = assemble(system())
    questions = [Sample((Turn("user", (q,)),)) for q in ("a", "draw a long thing", "what is it?")]
    waits = (0, 4, 99)
    seen = told_conditions(assembly, monkeypatch)
    decoding = Decoding(assembly.processor.outputs["image"].fed + 7, items=1)
    together = reply(eager(assembly, *waits), questions, decoding)
    alone = [reply(eager(assembly, wait), [q], decoding)[0] for wait, q in zip(waits, questions, strict=True)]
    assert [len(r.items) for r in together] == [1, 1, 0] and [len(c) for c in seen] == [2, 1, 1]
    torch.testing.assert_close(seen[0].values, torch.cat([c.values for c in seen[1:]]), atol=1e-5, rtol=0)
    assert [(r.ids, r.text, r.hidden) for r in together] == [(r.ids, r.text, r.hidden) for r in alone]


def test_an_item_of_an_earlier_turn_is_read_as_in_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """The prompt holds it as the training sample does; what is predicted behind it is what one forward predicts."""
    assembly = eager(assemble(system()), 1)
    before = told(5, "so ")
    question = Sample((*before.turns, Turn("user", ("another",))))
    prompt, trained = assembly.processor(question, reply=True), assembly.processor(before)
    stream = assembly.processor.outputs["image"]
    whole = trained.meant[0].start + stream.fed + len(stream.ids)
    assert prompt.ids[:whole] == trained.ids[:whole]
    (placed,), (own,) = prompt.placed, trained.placed
    assert placed.start == own.start == trained.meant[0].start + 1 and torch.equal(placed.units, own.units)
    seen = told_conditions(assembly, monkeypatch)
    answer = reply(assembly, [question], Decoding(stream.fed + 5, items=1))[0]
    assert len(answer.items) == 1 and len(seen[0]) == 1
    batch = assembly.processor.collate([[prompt]])
    with torch.no_grad():
        x, _ = assembly.model.embed(batch)
        embed: Any = assembly.model.backbone.embed
        told_ids = embed(torch.tensor([answer.ids]))
        start = answer.ids.index(stream.ids[0]) + 1
        enter = assembly.model.streams["image"].aligner.enter
        told_ids[0, start : start + stream.fed] = enter(seen[0].values[0])
        x = torch.cat([x, told_ids], 1)
        think: Any = assembly.model.backbone.think
        states = think(x, torch.ones(x.shape[:2], dtype=torch.long), torch.arange(x.shape[1])[None])
        at = len(prompt.ids) + start - 1
        again = assembly.model.ways_out["image"].predict(states[0, at : at + stream.fed])
    torch.testing.assert_close(again, seen[0].values[0], atol=1e-5, rtol=0)


def test_what_follows_a_run_reads_the_vectors_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another output stream, asked behind the run, is steered by states that saw what was predicted."""
    other = {"modality": "image", "read": "before", "signals": 2, "spelling": "[B{}]", "aligner": {"type": "queries"}}
    outputs = {"image": DRAW, "b": {**other, "decoder": {"type": "pixel_diffusion", "width": 5}}}
    assembly = assemble(system(outputs=outputs))
    first, second = (assembly.processor.outputs[n] for n in ("image", "b"))
    backbone, plain, step = assembly.model.backbone, assembly.model.backbone.logits, [0]

    def logits(states: Tensor) -> Tensor:
        found = plain(states).clone()
        found[:, first.ids[0] if step[0] == 0 else second.ids[0]] = 1e4
        step[0] += 1
        return found

    backbone.logits = logits  # type: ignore[method-assign]
    seen, later = told_conditions(assembly, monkeypatch), told_conditions(assembly, monkeypatch, "b")
    answer = reply(assembly, [Sample((Turn("user", ("a",)),))], Decoding(first.fed + 4, items=2))[0]
    assert answer.streams == ("image", "b")
    prompt = assembly.processor(Sample((Turn("user", ("a",)),)), reply=True).ids
    with torch.no_grad():
        x = backbone.embed(torch.tensor([[*prompt, *answer.ids]]))
        spots = torch.arange(first.fed) + len(prompt) + 1
        x = splice(x, spots, assembly.model.streams["image"].aligner.enter(seen[0].values[0]))
        states = backbone.think(x, torch.ones(x.shape[:2]).long(), torch.arange(x.shape[1])[None])  # type: ignore[operator]
        at = len(prompt) + first.fed + 2
        expected = assembly.model.ways_out["b"].aligner(states[:, at - 1 : at + 1])  # type: ignore[misc]
    torch.testing.assert_close(later[0].values, expected.values, atol=1e-5, rtol=0)


def test_a_run_that_is_cut_off_leaves_the_text_and_a_note() -> None:
    assembly = eager(assemble(system()), 2)
    answer = reply(assembly, [Sample((Turn("user", ("a",)),))], Decoding(limit=5))[0]
    assert answer.items == () and answer.parts == (answer.text,) and len(answer.ids) == 5
    assert answer.notes[0].startswith("the reply reached its length limit while it asked for an item (image)")


def test_padding_that_is_also_the_end_of_a_reply_ends_none() -> None:
    """A tokenizer without padding lends another id for it, mostly that which ends a reply."""
    assembly = assemble(system())
    assembly.vocabulary.pad = min(assembly.vocabulary.ends)
    said = reply(
        eager(assembly, 1), [Sample((Turn("user", ("a",)),))], Decoding(assembly.processor.outputs["image"].fed + 5)
    )
    assert len(said[0].items) == 1


def test_an_llm_in_half_precision_speaks_too() -> None:
    config = system(backbone={**LLM, "dtype": "bf16"})
    answer = reply(eager(assemble(config), 1), [Sample((Turn("user", ("a",)),))], Decoding(limit=60, items=1))[0]
    assert len(answer.items) == 1 and all("more items than the 1" in n for n in answer.notes)


def test_reconstruct_is_the_decoders_loss_on_the_true_vectors_without_the_llm(monkeypatch: pytest.MonkeyPatch) -> None:
    assembly = assemble(system())
    model, processor = assembly.model, replace(assembly.processor, media=frozenset({"image"}))
    model.objectives, model.spoken = {"image": ["reconstruct"]}, False
    for way in ("look", "peek", "read"):
        monkeypatch.setattr(model.backbone, way, lambda *_, way=way: pytest.fail(f"the LLM thinks, by {way}"))
    model.requires_grad_(False).ways_out["image"].decoder.requires_grad_(True)
    batch = processor.collate([[processor(told(4))]])
    units = batch.targets["image"].units
    assert units is not None
    torch.manual_seed(0)
    losses = model(batch)
    found = losses.total["image.reconstruct"]
    assert losses.total.keys() == {"image.reconstruct"} == losses.count.keys() - {"text"}
    with torch.no_grad():
        true = Condition(model.streams["image"].eyes(batch.streams["image"].values))
        torch.manual_seed(0)
        expected = model.ways_out["image"].decoder.denoise(units, true).sum()  # type: ignore[operator]
    torch.testing.assert_close(found, expected)


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    images, annotations = [], []
    for i in range(6):
        Pillow.fromarray(np.asarray(picture(i).source)).save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png"})
        annotations.append({"id": i, "image_id": i, "caption": f"thing {i}"})
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return tmp_path / "c.json"


def test_a_stage_trains_what_it_says_and_goes_on_exactly(captions: Path, tmp_path: Path) -> None:
    parts = ("backbone.added", "outputs.image.aligner", "outputs.image.decoder", "inputs.image.aligner")
    stage = {
        "name": "speak",
        "data": [{"reader": "captions", "path": str(captions), "says": "item"}],
        "train": {part: {"lr": 1e-2} for part in parts},
        "objectives": {"text": 1.0, "image.mse": 1.0, "image.denoise": 0.5, "image.reconstruct": 0.5},
        "batch": 2,
        "steps": 4,
        "save_every": 2,
        "log_every": 1,
    }
    config = system(stages=[stage], seed=3)
    before = {n: p.clone() for n, p in assemble(config).model.named_parameters()}
    Trainer(config, tmp_path / "whole").run()
    after = dict(load_run(tmp_path / "whole", "cpu").model.named_parameters())
    moved = {n for n, p in after.items() if not torch.equal(p, before[n])}
    assert all(n.startswith(parts) for n in moved) and all(any(n.startswith(p) for n in moved) for p in parts)

    stopped_is_the_same(config, tmp_path / "whole", tmp_path / "parts", 2)


@pytest.mark.parametrize(
    ("output", "message"),
    [
        (
            {"feeds": "pictures"},
            "outputs.image.feeds: expected an input stream of image items that feeds slots (image), got",
        ),
        ({"feeds": None}, "outputs.image.feeds: expected an input stream of image items that feeds slots (image), got"),
        ({"feeds": "sound"}, "outputs.image.feeds: expected an input stream of image items"),
        ({"feeds": "kept"}, "outputs.image.feeds: expected an input stream of image items"),
        ({"signals": 3}, "outputs.image.signals: expected 1, an id before the vectors, or 2"),
        ({"layers": [1]}, "outputs.image.layers: expected [-1] with `read: feedback`, got"),
        ({"embed": True}, "outputs.image.embed: expected False with `read: feedback`, got"),
        ({"queries": 2}, "outputs.image.queries: expected 0 with `read: feedback`, got"),
        ({"aligner": None}, "outputs.image.aligner: expected a block, got nothing"),
    ],
)
def test_mistakes_of_a_config_are_told(output: dict[str, Any], message: str) -> None:
    whisper = {"type": "whisper", "weights": "openai/whisper-tiny"}
    inputs = {
        "image": {"encoder": CLIP, "aligner": INSIDES["channels"]},
        "kept": {
            "modality": "image",
            "encoder": CLIP,
            "aligner": {"type": "resampler"},
            "into": "memory",
            "marker": "<i>",
        },
        "sound": {"modality": "audio", "encoder": whisper, "aligner": {"type": "linear"}},
    }
    with pytest.raises(InputError) as told:
        system(output=output, inputs=inputs)
    assert message in str(told.value)


def test_a_decoder_of_another_shape_is_refused() -> None:
    decoder = {"type": "retrieval", "width": 5, "encoder": CLIP}
    with pytest.raises(
        InputError, match=r"'image' reads an item as \d+ vectors of \d+, but retrieval is steered by 1 of 5"
    ):
        assemble(system(output={"decoder": decoder}))


def test_an_aligner_that_reads_the_instruction_is_refused() -> None:
    inputs = {"image": {"encoder": CLIP, "aligner": {"type": "qformer", "queries": 3, "instruction": True}}}
    with pytest.raises(InputError, match=r"outputs.image.feeds: the aligner of 'image' reads the instruction"):
        assemble(system(inputs=inputs))


def test_an_item_of_another_number_of_tokens_is_refused() -> None:
    assembly = assemble(system())
    signals = assembly.processor.outputs["image"]
    processor = replace(assembly.processor, outputs={"image": replace(signals, fed=signals.fed + 1)})
    with pytest.raises(
        InputError, match=f"an item of {signals.fed} tokens, where the output stream says {signals.fed + 1}"
    ):
        processor(told(1))


def test_a_closing_id_can_be_learned_too() -> None:
    assembly = assemble(system(output={"taught": 2}))
    stream = assembly.processor.outputs["image"]
    example = assembly.processor(told(1))
    run = example.meant[0].start
    assert example.labels[run : run + stream.fed + 2] == [stream.ids[0], *[-100] * stream.fed, stream.ids[1]]


def test_a_stage_whose_first_step_holds_no_item_is_not_mistaken_for_a_wrong_one(captions: Path, tmp_path: Path) -> None:
    """What is trained is held against the gradients once every stream with an objective was used."""
    (tmp_path / "qa.json").write_text(json.dumps([{"id": "1", "question": "a?", "answer": "b"}]))
    stage = {
        "name": "speak",
        "data": [
            {"reader": "qa", "path": str(tmp_path / "qa.json"), "ratio": 6.0},
            {"reader": "captions", "path": str(captions), "says": "item"},
        ],
        "train": {"backbone.added": {"lr": 1e-2}, "outputs.image.aligner": {"lr": 1e-2}},
        "objectives": {"text": 1.0, "image.mse": 1.0},
        "batch": 1,
        "steps": 6,
        "log_every": 1,
    }
    for seed in range(4):
        Trainer(system(stages=[stage], seed=seed), tmp_path / str(seed)).run()
    firsts = [json.loads((tmp_path / str(s) / "metrics.jsonl").read_text().splitlines()[0]) for s in range(4)]
    assert {"image.mse" in f for f in firsts} == {True, False}


def test_a_plan_counts_vectors_and_parameters() -> None:
    config = system()
    model = assemble(config).model
    found = plan(config)
    line = found.outputs[0]
    assert (line.fed, line.feeds) == (found.streams[0].tokens, "image") and line.signals == 2
    assert (line.length, line.width) == (line.fed, found.streams[0].channels)
    part = next(p for p in found.parts if p.id == "outputs.image.aligner")
    held: Any = model.ways_out["image"].aligner
    assert part.parameters == sum(p.numel() for p in held.parameters()) == model.backbone.width * line.width
