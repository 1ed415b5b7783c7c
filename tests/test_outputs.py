"""The way out: signals, the states that are read, objectives, and replies that hold items."""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image as Pillow

from mmlm.aligners.outputs.queries import Queries
from mmlm.assemble import Assembly, assemble
from mmlm.backbones.backbone import LAST
from mmlm.batch import Batch, Targets
from mmlm.caches import FeatureCache, GoalCache, StateCache
from mmlm.config import SystemConfig, parse
from mmlm.errors import InputError
from mmlm.interfaces import Condition, ConditionShape, Decoder
from mmlm.objectives.losses import objective
from mmlm.reply import Decoding, reply, stream
from mmlm.sample import Audio, Image, Sample, Turn
from mmlm.training.loop import Trainer
from mmlm.training.run import load_run
from tests.learning import stopped_is_the_same

LLM = "HuggingFaceTB/SmolLM2-135M-Instruct"
SD = "stable-diffusion-v1-5/stable-diffusion-v1-5"
DRAW = {"aligner": {"type": "queries"}, "decoder": {"type": "pixel_diffusion"}}
FIND = {
    "modality": "image",
    "aligner": {"type": "linear"},
    "decoder": {
        "type": "retrieval",
        "width": 12,
        "encoder": {"type": "clip", "weights": "openai/clip-vit-base-patch32"},
    },
}
READS: dict[str, Mapping[str, Any]] = {
    "at": {"signals": 3, "embed": True},
    "before": {"signals": 2, "layers": [1, -1]},
    "queries": {"signals": 1, "queries": 4, "read": "queries"},
    "all": {"read": "all"},
    "each of all": {"read": "all", "aligner": {"type": "linear"}},
}


def system(outputs: Mapping[str, Any], **more: Any) -> SystemConfig:
    """A tiny system that speaks by `outputs`."""
    llm = {"type": "causal", "weights": LLM}
    return parse({"name": "t", "scale": "tiny", "length": 256, "backbone": llm, "outputs": dict(outputs), **more})


def picture(seed: int, caption: str = "") -> Image:
    random = np.random.default_rng(seed)
    return Image(random.integers(0, 256, (9 + seed % 3, 11, 3), dtype=np.uint8), caption)


def asked(text: str) -> Sample:
    return Sample((Turn("user", (text,)),))


def told(seed: int, *before: str) -> Sample:
    return Sample((Turn("user", (f"draw {seed}",)), Turn("assistant", (*before, picture(seed, f"thing {seed}"), "."))))


def eager(assembly: Assembly, after: int) -> Assembly:
    """The assembly, whose LLM says the first signal after so many ids of its own choice."""
    first = assembly.processor.outputs["image"].ids[0]
    backbone, plain, count = assembly.model.backbone, assembly.model.backbone.logits, [0]

    def logits(states: torch.Tensor) -> torch.Tensor:
        found = plain(states).clone()
        found[:, 256:] = -1e4  # of the tiny vocabulary the bytes alone
        found[:, first] = 1e4 if count[0] >= after else -1e4
        count[0] += 1
        return found

    backbone.logits = logits  # type: ignore[method-assign]
    return assembly


@pytest.mark.parametrize("read", READS)
def test_the_condition_of_a_reply_is_the_one_it_is_trained_with(read: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assembly = eager(assemble(system({"image": {**DRAW, **READS[read]}})), after=3)
    seen: list[Condition] = []
    decoder = assembly.model.ways_out["image"].decoder
    plain = decoder.decode
    monkeypatch.setattr(decoder, "decode", lambda c, seeds: (seen.append(c), plain(c, seeds))[1])
    said = reply(assembly, [asked("a"), asked("draw a long thing")], Decoding(limit=12, items=1))
    assert all(len(r.items) == 1 for r in said) and len(seen) == 1
    for i, (question, answer) in enumerate(zip(("a", "draw a long thing"), said, strict=True)):
        parts = (answer.parts[0], replace(answer.parts[1], caption="x"), *answer.parts[2:])  # type: ignore[type-var]
        example = assembly.processor(Sample((Turn("user", (question,)), Turn("assistant", parts))))
        assert example.ids[answer.prompt_tokens :][: len(answer.ids)] == list(answer.ids)
        with torch.no_grad():
            trained = assembly.model.conditions(assembly.processor.collate([[example]]))["image"]
        torch.testing.assert_close(seen[0].values[i : i + 1], trained.values, atol=1e-6, rtol=0)


def test_states_that_steer_nothing_are_told() -> None:
    each = {**DRAW, **READS["each of all"], "decoder": {"type": "pixel_diffusion", "length": 30}}
    assembly = eager(assemble(system({"image": each})), after=3)
    few, many = reply(assembly, [asked("a"), asked("draw a thing that is long " * 4)], Decoding(limit=12, items=1))
    read = many.prompt_tokens + 4  # three ids, and the signal
    assert few.prompt_tokens + 4 <= 30 < read
    assert [n for n in few.notes if "steered" in n] == []
    assert f"image: steered by the last 30 of {read} states; what was said before them" in " ".join(many.notes)


def test_what_is_read_while_replying_token_by_token_is_what_one_forward_reads() -> None:
    """Learned queries stand in the cache of the reply as in the forward: the ids that follow them are the same."""
    assembly = eager(assemble(system({"image": {**DRAW, **READS["queries"]}})), after=2)
    answer = reply(assembly, [asked("a")], Decoding(limit=14, items=1))[0]
    signals = assembly.processor.outputs["image"]
    start = answer.ids.index(signals.ids[0])
    ids = answer.ids[start + 1 : start + 1 + signals.queries]
    assert set(ids) == {assembly.vocabulary.pad} and len(answer.ids) > start + 6
    whole = Sample((Turn("user", ("a",)), Turn("assistant", answer.parts)))
    batch = assembly.processor.collate([[assembly.processor(whole)]])
    with torch.no_grad():
        x, _ = assembly.model.embed(batch)
        states = assembly.model.backbone.think(x, batch.segments, batch.positions)  # type: ignore[operator]
    plain = type(assembly.model.backbone).logits
    after = answer.prompt_tokens + start + signals.queries
    logits = plain(assembly.model.backbone, states[0, after : after + 1])
    logits[:, 256:] = -torch.inf
    assert int(logits.argmax()) == answer.ids[start + 1 + signals.queries]


def test_a_frozen_llm_thinks_no_further_than_is_read() -> None:
    assembly = assemble(system({"image": {**DRAW, "layers": [1, 2]}}))
    model, batch = assembly.model, assembly.processor.collate([[assembly.processor(told(0, "yes "))]])
    calls = [0] * model.backbone.layers

    def counted(k: int) -> Callable[..., None]:
        def call(*_: object) -> None:
            calls[k] += 1

        return call

    hooks = [m.register_forward_hook(counted(k)) for k, m in enumerate(model.backbone.layer_list())]
    model.objectives, model.spoken = {"image": ["mse"]}, False
    _, short, _ = model._look(batch, batch.targets, batch.targets, spoken=False)
    assert calls == [1, 1] + [0] * (len(calls) - 2)
    _, whole, _ = model._look(batch, batch.targets, batch.targets, spoken=True)
    assert calls == [2, 2] + [1] * (len(calls) - 2)
    assert torch.equal(short["image"].values, whole["image"].values)
    model.backbone.added.requires_grad_(True)  # what learns from the states below the last needs the LLM's own gradient
    _, learning, _ = model._look(batch, batch.targets, batch.targets, spoken=False)
    assert calls[-1] == 2 and torch.equal(learning["image"].values, whole["image"].values)
    for hook in hooks:
        hook.remove()


def test_states_that_are_kept_are_those_that_would_be_thought() -> None:
    """Packed, padded or alone: each sample is thought about once, to the bit as it would be by itself."""
    assembly = assemble(system({"image": {**DRAW, "layers": [1, LAST]}}))
    model, processor = assembly.model, assembly.processor
    rows = [[processor(told(0, "yes ")), processor(told(1))], [processor(told(2, "a long one "))]]
    packed = processor.collate(rows)
    others = (processor.collate([[e]]) for e in (*rows[0], *rows[1]))
    batches = [packed, processor.collate([rows[1], rows[0]]), *others]

    def states(batch: Batch, cache: StateCache) -> torch.Tensor:
        x, _ = model.embed(batch)
        seen = cache.states(model.backbone, x, batch, [1, LAST])
        return torch.cat([seen[1], seen[LAST]], -1)

    with torch.no_grad():
        plain = model.conditions(packed)["image"].values
        model.thoughts = StateCache()
        torch.testing.assert_close(model.conditions(packed)["image"].values, plain, atol=1e-5, rtol=1e-5)
        found = [states(b, model.thoughts)[b.segments > 0] for b in batches]
        assert model.thoughts.thought == 3 and torch.equal(torch.cat(found[2:]), found[0])
        assert torch.equal(torch.cat([found[4], found[2], found[3]]), found[1])
        few = StateCache(limit=1)
        assert torch.equal(states(packed, few)[packed.segments > 0], found[0])
        assert (few.thought, few.kept.held) == (3, 0)
    model.backbone.added.requires_grad_(True)
    model.conditions(packed)["image"].values.sum().backward()  # what learns is thought about anew
    assert model.thoughts.thought == 3 and model.backbone.added.embedding.grad is not None


def test_items_come_in_order_and_can_be_the_next_turn() -> None:
    assembly = eager(assemble(system({"image": {**DRAW, **READS["at"]}})), after=2)
    with torch.no_grad():  # an untrained decoder may make the same of everything
        for parameter in assembly.model.ways_out["image"].decoder.parameters():
            parameter.normal_(std=0.1)
    *_, answer = stream(assembly, asked("a"), Decoding(limit=20, items=2))
    kinds = ["text" if isinstance(p, str) else p.modality for p in answer.parts]
    assert kinds == ["text", "image", "image", "text"] and answer.text == "".join(
        p for p in answer.parts if isinstance(p, str)
    )
    first, second = (np.asarray(i.source) for i in answer.items)
    assert first.shape == (8, 8, 3) and not np.array_equal(first, second)
    again = Sample((Turn("user", ("a",)), Turn("assistant", answer.parts), Turn("user", ("and?",))))
    more = reply(assembly, [again], Decoding(limit=6, items=1))[0]
    assert len(more.items) == 1


def test_replies_do_not_depend_on_the_batch() -> None:
    outputs = {"image": {**DRAW, **READS["queries"]}}
    questions = [asked("a"), asked("draw it"), asked("what is this long thing?")]

    def answers(sizes: list[int]) -> list[Any]:
        found = []
        for size, at in zip(sizes, np.cumsum([0, *sizes]), strict=False):
            found += reply(eager(assemble(system(outputs)), 2), questions[at : at + size], Decoding(limit=9, items=1))
        return found

    for one, three in zip(answers([1, 1, 1]), answers([3]), strict=True):
        assert one.ids == three.ids
        apart = np.abs(one.items[0].source.astype(int) - three.items[0].source.astype(int))
        assert apart.max() <= 1


def test_a_run_that_is_cut_off_leaves_the_text_and_a_note() -> None:
    assembly = eager(assemble(system({"image": {**DRAW, **READS["at"]}})), after=2)
    answer = reply(assembly, [asked("a")], Decoding(limit=4))[0]
    assert answer.items == () and answer.parts == (answer.text,) and answer.finish == "limit"
    assert answer.notes == (
        "the reply reached its length limit while it asked for an item (image), which was not made; raise the limit",
    )


def test_a_decoder_that_refuses_leaves_the_text_and_a_note() -> None:
    assembly = eager(assemble(system({"image": {**FIND, "signals": 2}})), after=2)
    answer = reply(assembly, [asked("a")], Decoding(limit=6, items=1))[0]
    assert answer.items == () and len(answer.text) > 0
    assert (
        answer.notes[-1] == "image: decoder retrieval: there is nothing to be found; name a folder of items (--index)"
    )


def test_an_item_too_many_leaves_the_text_and_a_note() -> None:
    """Whatever stands beside it: a reply that had ended would have asked for nothing more."""
    assembly = eager(assemble(system({"image": {**DRAW, **READS["at"]}})), after=2)
    answer = reply(assembly, [asked("a")], Decoding(limit=12, items=2))[0]
    assert len(answer.items) == 2 and len(answer.text) > 2
    note = "the reply asked for more items than the 2 that it may hold; no more were made"
    assert answer.notes == (note,)
    exact = reply(
        eager(assemble(system({"image": {**DRAW, **READS["at"]}})), after=6), [asked("a")], Decoding(12, items=2)
    )
    assert len(exact[0].items) == 2 and exact[0].notes == (), "as many as it may is not too many"
    stopped = Decoding(limit=12, items=1, stop=(answer.text[:2],))
    both = reply(
        eager(assemble(system({"image": {**DRAW, **READS["at"]}})), after=0), [asked("a"), asked("bb")], stopped
    )
    assert [r.notes for r in both] == [
        reply(eager(assemble(system({"image": {**DRAW, **READS["at"]}})), after=0), [asked(q)], stopped)[0].notes
        for q in ("a", "bb")
    ]


def test_no_items_are_asked_for_where_none_are_allowed() -> None:
    assembly = assemble(system({"image": {**DRAW, **READS["at"]}}))
    signals = assembly.processor.outputs["image"].ids
    with torch.no_grad():
        added = assembly.model.backbone.added
        added.embedding.mul_(50)  # type: ignore[union-attr]
    for limit in (0, 1):
        said = reply(assembly, [asked("a"), asked("bb")], Decoding(limit=12, items=limit))
        assert all(sum(i == signals[0] for i in r.ids) <= limit for r in said)


WRITE = {"modality": "image", "signals": 2, "read": "text", "decoder": {"type": "stable_diffusion", "weights": SD}}
FEED = {**DRAW, "signals": 2, "read": "feedback", "feeds": "image", "aligner": {"type": "linear"}}


@pytest.mark.parametrize(("other", "read"), [(FEED, "feedback"), (WRITE, "text")])
def test_ids_around_vectors_or_words_are_nobody_elses(other: dict[str, Any], read: str) -> None:
    shares = {**DRAW, "modality": "image", "signals": "image"}
    see = {"encoder": FIND["decoder"]["encoder"], "aligner": {"type": "mlp"}}  # type: ignore[index]
    message = rf"outputs.b.signals: expected a number, as `b` reads at and `image` reads {read}"
    with pytest.raises(InputError, match=message):
        system({"image": other, "b": shares}, inputs={"image": see} if read == "feedback" else {})


def test_two_streams_that_share_ids_are_asked_once_in_the_next_turn(tmp_path: Path) -> None:
    """Both items of a run are given, and people see both; the next prompt holds the ids that the model said, and no more."""
    assembly = eager(
        assemble(system({"image": {**DRAW, "signals": 2}, "found": {**FIND, "signals": "image"}})), after=3
    )
    assembly.model.ways_out["found"].decoder.fill([picture(1), picture(2)])
    answer = reply(assembly, [asked("a")], Decoding(limit=12, items=2))[0]
    first = assembly.processor.outputs["image"].ids[0]
    assert answer.streams == ("image", "found") * 2 and [i.beside for i in answer.items] == [False, True] * 2
    turns = (Turn("user", ("a",)), Turn("assistant", answer.parts), Turn("user", ("b",)))
    again = assembly.processor(Sample(turns), reply=True)
    assert again.ids.count(first) == answer.ids.count(first) == 2
    said = list(answer.ids)
    assert any(again.ids[i : i + len(said)] == said for i in range(len(again.ids)))
    starts = [(m.stream, m.start) for m in again.meant]
    assert [n for n, _ in starts] == ["image", "found"] * 2 and starts[0][1] == starts[1][1] != starts[2][1]


def test_packed_rows_give_the_losses_of_single_samples() -> None:
    both = {"image": {**DRAW, **READS["before"]}, "found": {**FIND, "signals": "image"}}
    assembly = assemble(system(both))
    model = assembly.model
    model.objectives = {"found": ["cosine"], "image": []}
    processor = replace(assembly.processor, media=frozenset({"found"}))
    samples = [told(1), told(2, "here "), told(3)]
    with torch.no_grad():
        packed = model(processor.collate([[processor(s) for s in samples[:2]], [processor(samples[2])]]))
        single = [model(processor.collate([[processor(s)]])) for s in samples]
    for name in ("text", "found.cosine"):
        total = sum(float(s.total[name]) for s in single)
        assert float(packed.total[name]) == pytest.approx(total, abs=1e-4) and packed.count[name] == sum(
            s.count[name] for s in single
        )


def test_signals_are_learned_as_said() -> None:
    """Only the first `taught` ids are supervised; nobody can type one; the LLM's own table stays as it is."""
    assembly = assemble(system({"image": {**DRAW, "signals": 3, "taught": 2, "spelling": "[IMG{}]"}}))
    example = assembly.processor(told(1, "look: "))
    ids = assembly.processor.outputs["image"].ids
    at = example.ids.index(ids[0])
    assert tuple(example.ids[at : at + 3]) == ids and example.labels[at : at + 3] == [*ids[:2], -100]
    assert not set(ids) & set(assembly.vocabulary.encode("[IMG0] [IMG1]"))
    added = assembly.model.backbone.added
    assert added is not None and added.first <= min(ids)


@pytest.mark.parametrize("template", ["question-answer", "chat", "vicuna-v1"])
@pytest.mark.parametrize("before", [(), ("look: ",)])
def test_an_item_is_said_in_its_place_whatever_the_template_does_with_the_users(
    template: str, before: tuple[str, ...]
) -> None:
    """Templates that put the user's items in front of everything leave those of the assistant where they are."""
    assembly = assemble(system({"image": {**DRAW, "signals": 3}}, template=template))
    example = assembly.processor(told(1, *before))
    (run,) = example.meant
    assert tuple(example.ids[run.start : run.start + 3]) == assembly.processor.outputs["image"].ids
    asked_for = assembly.vocabulary.decode(example.ids[: run.start])
    assert "draw 1" in asked_for and asked_for.rstrip().endswith("look:") == bool(before)


def test_what_a_frozen_encoder_of_a_decoder_says_is_cached() -> None:
    """As of the ways in: each item is encoded once, with the losses and the gradients that it has without a cache."""
    found = []
    for cache in (None, FeatureCache(alone=True)):
        assembly = assemble(system({"found": {**FIND, "signals": 2}}))
        model = assembly.model
        model.objectives, model.cache = {"found": ["contrast"]}, cache
        decoder = model.ways_out["found"].decoder
        decoder.project.requires_grad_(True)  # type: ignore[operator,union-attr]
        processor = replace(assembly.processor, media=frozenset({"found"}))
        for seeds in ((1, 2, 3), (3, 1, 4)):
            loss = model(processor.collate([[processor(told(s))] for s in seeds])).total["found.contrast"]
            loss.backward()
        found.append((loss.detach(), decoder.project.weight.grad))  # type: ignore[union-attr]
    assert cache is not None and cache.encoded == 4
    torch.testing.assert_close(found[0], found[1], atol=1e-5, rtol=1e-5)


def test_what_is_still_to_be_said_does_not_change_how_the_users_item_is_cut() -> None:
    """A picture that is the only one asked about is cut so, though another one is the answer."""
    encoder = {"type": "clip", "weights": "openai/clip-vit-base-patch32"}
    inputs = {"image": {"encoder": encoder, "aligner": {"type": "linear"}}}
    processor = assemble(system({"image": {**DRAW, "signals": 1}}, inputs=inputs)).processor
    streams = {"image": replace(processor.streams["image"], several=processor.streams["image"].transform)}
    processor = replace(processor, streams=streams)
    asked_of = Turn("user", (picture(1), "draw it anew"))
    learned = processor(Sample((asked_of, Turn("assistant", (picture(2),)))))
    assert [p.key for p in learned.placed] == [p.key for p in processor(Sample((asked_of,)), reply=True).placed]
    assert [p.key.endswith("*") for p in learned.placed] == [False]


def test_an_item_that_no_output_stream_makes_is_refused() -> None:
    assembly = assemble(system({"image": {**DRAW, "signals": 1}}))
    sound = Sample((Turn("user", ("a",)), Turn("assistant", (Audio(np.zeros(900, np.float32), 16_000),))))
    with pytest.raises(
        InputError, match=r"the assistant says an item \(audio\), but this model answers with text, image"
    ):
        assembly.processor(sound)


def test_a_condition_that_does_not_fit_is_told() -> None:
    with pytest.raises(InputError, match="a run gives 1 states where the decoder asks for 8 vectors; set `signals`"):
        assemble(system({"image": {"aligner": {"type": "linear"}, "decoder": {"type": "pixel_diffusion"}}}))


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        ({"image": {**DRAW, "signals": "sound"}}, "outputs.image.signals: expected a number, or a stream"),
        ({"image": {**DRAW, "read": "queries"}}, "outputs.image.queries: expected how many learned vectors"),
        ({"image": {**DRAW, "taught": 2}}, "outputs.image.taught: expected at most `signals` (1), got 2"),
        ({"image": DRAW, "b": {**DRAW, "modality": "image"}}, "outputs.b.spelling: expected a spelling of its own"),
        ({"image": {**DRAW, "spelling": "[IMG]"}}, "outputs.image.spelling"),
        ({"image": {**DRAW, "decoder": {"type": "retrieval"}}}, "outputs.image.decoder.encoder: expected `encoder`"),
    ],
)
def test_mistakes_of_a_config_are_told(outputs: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError) as told:
        system(outputs)
    assert message in str(told.value)


def test_gills_mapper_is_the_formula_of_the_paper() -> None:
    """W_out T(W_in s, q), written out layer by layer; and it has the published number of parameters."""
    full = Queries(4096, 4, ConditionShape(77, 768))
    assert sum(p.numel() for p in full.parameters()) == 31_958_784
    torch.manual_seed(0)
    ours = Queries(11, 4, ConditionShape(5, 7), hidden=12, depth=2, heads=3, ffn=20).eval()
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    weights = dict(ours.named_parameters())
    states = torch.randn(3, 4, 11)

    def linear(x: torch.Tensor, name: str) -> torch.Tensor:
        return x @ weights[f"{name}.weight"].T + weights[f"{name}.bias"]

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        x = (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-5).sqrt()
        return x * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    def attend(x: torch.Tensor, y: torch.Tensor, name: str) -> torch.Tensor:
        w, b = weights[f"{name}.in_proj_weight"].chunk(3), weights[f"{name}.in_proj_bias"].chunk(3)
        q, k, v = (t @ w[i].T + b[i] for i, t in enumerate((x, y, y)))
        heads = [t.unflatten(-1, (3, 4)).transpose(1, 2) for t in (q, k, v)]
        p = (heads[0] @ heads[1].transpose(-1, -2) / 2.0).softmax(-1)
        return linear((p @ heads[2]).transpose(1, 2).flatten(2), f"{name}.out_proj")

    def ffn(x: torch.Tensor, name: str) -> torch.Tensor:
        return linear(linear(x, f"{name}.linear1").relu(), f"{name}.linear2")

    x = linear(states, "project")
    for i in range(2):
        at = f"transformer.encoder.layers.{i}"
        y = norm(x, f"{at}.norm1")
        x = x + attend(y, y, f"{at}.self_attn")
        x = x + ffn(norm(x, f"{at}.norm2"), at)
    memory = norm(x, "transformer.encoder.norm")
    x = weights["queries"].expand(3, -1, -1)
    for i in range(2):
        at = f"transformer.decoder.layers.{i}"
        y = norm(x, f"{at}.norm1")
        x = x + attend(y, y, f"{at}.self_attn")
        x = x + attend(norm(x, f"{at}.norm2"), memory, f"{at}.multihead_attn")
        x = x + ffn(norm(x, f"{at}.norm3"), at)
    expected = linear(norm(x, "transformer.decoder.norm"), "out")
    torch.testing.assert_close(ours(states).values, expected, atol=1e-5, rtol=0)


def test_pooled_vectors_are_compared_as_the_others_are() -> None:
    """Each loss is that of the vectors plus that of the pooled one; what is compared by cosines of all is one vector."""
    torch.manual_seed(1)
    c, g, p, q = torch.randn(4, 3, 5), torch.randn(4, 3, 5), torch.randn(4, 7), torch.randn(4, 7)
    target = Targets(torch.zeros(4, 1, dtype=torch.long), torch.zeros(4, 0, dtype=torch.long), ("",) * 4, tuple("abcd"))

    def run(name: str, told: Condition, goal: Condition) -> torch.Tensor:
        return objective(name)(_Fixed(g, scale=7.0), told, target, lambda: goal)

    for name in ("l2", "mse", "cosine"):
        apart = run(name, Condition(c), Condition(g)) + run(name, Condition(p[:, None]), Condition(q[:, None]))
        torch.testing.assert_close(run(name, Condition(c, p), Condition(g, q)), apart)
    flat = Condition(torch.cat([c.flatten(1), p], 1)[:, None]), Condition(torch.cat([g.flatten(1), q], 1)[:, None])
    torch.testing.assert_close(run("contrast", Condition(c, p), Condition(g, q)), run("contrast", *flat))


def test_objectives_are_their_formulas() -> None:
    torch.manual_seed(0)
    c, g = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    decoder = _Fixed(g, scale=7.0)
    target = Targets(torch.zeros(4, 1, dtype=torch.long), torch.zeros(4, 0, dtype=torch.long), ("",) * 4, tuple("abca"))

    def run(name: str) -> torch.Tensor:
        return objective(name)(decoder, Condition(c), target, lambda: Condition(g))

    torch.testing.assert_close(run("l2"), torch.stack([(c[r] - g[r]).pow(2).sum(-1).sqrt().mean() for r in range(4)]))
    torch.testing.assert_close(run("mse"), torch.stack([F.mse_loss(c[r], g[r]) for r in range(4)]))
    torch.testing.assert_close(run("cosine"), 1 - F.cosine_similarity(c, g, dim=-1).mean(-1))
    a, b = (t.flatten(1) / t.flatten(1).norm(dim=1, keepdim=True) for t in (c, g))
    scores = 7.0 * a @ b.T
    expected = []
    for r in range(4):
        others = [s for s in range(4) if s == r or target.keys[s] != target.keys[r]]
        rows, columns = scores[r, others].logsumexp(0), scores[others, r].logsumexp(0)
        expected.append((rows + columns) / 2 - scores[r, r])
    torch.testing.assert_close(run("contrast"), torch.stack(expected))


class _Fixed(Decoder):
    """A decoder whose goals are given, and counted."""

    modality = "image"

    def __init__(self, goals: torch.Tensor, scale: float = 1.0) -> None:
        super().__init__()
        self.goals, self.factor, self.asked = goals, scale, 0
        self.condition = ConditionShape(*goals.shape[1:])

    @property
    def scale(self) -> torch.Tensor:
        return torch.tensor(self.factor)

    def goal(self, captions: Any, units: Any) -> Condition:
        self.asked += len(captions)
        return Condition(torch.stack([self.goals[int(c)] for c in captions]), torch.ones(len(captions), 2))

    def decode(self, condition: Condition, seeds: Any) -> list[Any]:
        raise InputError("nothing")


def test_goals_are_forgotten_oldest_first() -> None:
    decoder = _Fixed(torch.randn(3, 2, 5))
    none = torch.zeros(1, 0, dtype=torch.long)
    targets = [Targets(torch.zeros(1, 1, dtype=torch.long), none, (str(i),), (f"k{i}",)) for i in range(3)]
    cache = GoalCache(limit=2 * (2 * 5 + 2) * 4)
    for i in (0, 1, 2, 2, 1):
        assert cache.of("image", decoder, targets[i]).values.equal(decoder.goals[i : i + 1])
    assert (cache.made, cache.kept.held) == (3, cache.kept.limit)
    cache.of("image", decoder, targets[0])
    assert (cache.made, cache.kept.held) == (4, cache.kept.limit)


def test_goals_are_made_once_and_kept_on_the_disk(tmp_path: Path) -> None:
    decoder = _Fixed(torch.randn(3, 2, 5))
    none = torch.zeros(3, 0, dtype=torch.long)
    target = Targets(torch.zeros(3, 1, dtype=torch.long), none, ("0", "2", "0"), ("k0", "k2", "k0"))
    cache = GoalCache(tmp_path, {"image": "abc"})
    first = cache.of("image", decoder, target)
    assert torch.equal(first.values, decoder.goals[[0, 2, 0]]) and decoder.asked == cache.made == 2
    assert cache.of("image", decoder, target).values.equal(first.values) and decoder.asked == 2
    other = GoalCache(tmp_path, {"image": "abc"})
    again = other.of("image", decoder, target)
    assert again.values.equal(first.values) and again.pooled is not None and decoder.asked == 2
    (tmp_path / "abc" / "k2.safetensors").write_bytes(b"broken")
    assert GoalCache(tmp_path, {"image": "abc"}).of("image", decoder, target).values.equal(first.values)
    assert decoder.asked == 3


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    images, annotations = [], []
    for i in range(10):
        Pillow.fromarray(np.asarray(picture(i).source)).save(tmp_path / f"{i}.png")
        images.append({"id": i, "file_name": f"{i}.png"})
        annotations.append({"id": i, "image_id": i, "caption": f"thing {i}"})
    (tmp_path / "c.json").write_text(json.dumps({"images": images, "annotations": annotations}))
    return tmp_path / "c.json"


def staged(captions: Path) -> SystemConfig:
    stage = {
        "name": "speak",
        "data": [{"reader": "captions", "path": str(captions), "says": "item"}],
        "train": {
            part: {"lr": 1e-2}
            for part in (
                "backbone.added",
                *(f"outputs.image.{p}" for p in ("queries", "aligner", "decoder")),
                *(f"outputs.found.{p}" for p in ("aligner", "decoder.project", "decoder.log_scale")),
            )
        },
        "objectives": {"text": 0.5, "image.denoise": 2.0, "found.contrast": 1.0},
        "batch": 4,
        "steps": 6,
        "save_every": 3,
        "log_every": 1,
    }
    return system(
        {"image": {**DRAW, **READS["queries"]}, "found": {**FIND, "signals": "image"}}, stages=[stage], seed=3
    )


def test_a_stage_trains_what_it_says_and_goes_on_exactly(captions: Path, tmp_path: Path) -> None:
    config = staged(captions)
    before = {n: p.clone() for n, p in assemble(config).model.named_parameters()}
    Trainer(config, tmp_path / "whole").run()
    lines = [json.loads(line) for line in (tmp_path / "whole" / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        parts = 0.5 * line["text"] + 2.0 * line["image.denoise"] + line["found.contrast"]
        assert line["loss"] == pytest.approx(parts)
    after = dict(load_run(tmp_path / "whole", "cpu").model.named_parameters())
    moved = {n for n, p in after.items() if not torch.equal(p, before[n])}
    allowed = ("backbone.added.", "outputs.image.", "outputs.found.aligner.", "outputs.found.decoder.project.")
    assert all(n.startswith(allowed) or n == "outputs.found.decoder.log_scale" for n in moved)
    assert {"outputs.image.queries", "outputs.found.decoder.log_scale", "backbone.added.embedding"} <= moved
    assert not any(n.startswith(("backbone.llm.", "outputs.found.decoder.encoder.")) for n in moved)

    # The same again, stopped after three of the six steps.
    stopped_is_the_same(config, tmp_path / "whole", tmp_path / "parts", 3)


def test_with_states_kept_an_interrupted_stage_ends_bit_identical(captions: Path, tmp_path: Path) -> None:
    stage = staged(captions).stages[0]
    data = {"reader": "captions", "path": str(captions), "says": "item"}
    train = {f"outputs.image.{p}": {"lr": 1e-2} for p in ("aligner", "decoder")}
    kept = {
        **stage.model_dump(exclude_unset=True),
        "data": [data],
        "train": train,
        "objectives": {"image.denoise": 1},
        "cache_states": 8,
    }
    config = system({"image": {**DRAW, "read": "all", "layers": [1]}}, stages=[{**kept, "pack": True}], seed=3)
    # What is trained counts, not what a stream is called.
    drawn = {"train": {"outputs.queries.aligner": {"lr": 1e-2}}, "objectives": {"queries.denoise": 1}}
    assert system({"queries": {**DRAW, "modality": "image", "read": "all", "layers": [1]}}, stages=[{**kept, **drawn}])
    with pytest.raises(InputError, match=r"expected 0, as the stage trains `outputs\.queries\.queries`"):
        learned = {**drawn, "train": {"outputs.queries.queries": {"lr": 1e-2}}}
        system({"queries": {**DRAW, **READS["queries"], "modality": "image"}}, stages=[{**kept, **learned}])
    Trainer(config, tmp_path / "whole").run()
    stopped_is_the_same(config, tmp_path / "whole", tmp_path / "parts", 3)


def test_a_trained_run_finds_and_draws(captions: Path, tmp_path: Path) -> None:
    Trainer(staged(captions), tmp_path / "run").run()
    assembly = load_run(tmp_path / "run", "cpu")
    pool = [Image(captions.parent / f"{i}.png") for i in range(10)]
    assembly.model.ways_out["found"].decoder.fill(pool)  # type: ignore[operator]
    answer = reply(eager(assembly, 1), [asked("thing 3")], Decoding(limit=9, items=1))[0]
    made, found = answer.items
    assert isinstance(made.source, np.ndarray) and found.source in [i.source for i in pool] and found.beside
