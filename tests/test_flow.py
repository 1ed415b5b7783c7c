"""The identities that make train, evaluation and demo one path: each kind of system, every way of batching."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from systems import KINDS, tiny

from mmlm.assemble import Assembly, assemble
from mmlm.caches import FeatureCache
from mmlm.errors import InputError
from mmlm.reply import Decoding, likelihood, reply, stream
from mmlm.sample import Audio, Image, Part, Sample, Turn, Video

RANDOM = np.random.default_rng(0)


def image(height: int = 9, width: int = 14) -> Image:
    return Image(RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8))


def video(frames: int = 3) -> Video:
    return Video(RANDOM.integers(0, 256, (frames, 12, 10, 3), dtype=np.uint8), rate=2.0)


def audio(seconds: float = 1.3) -> Audio:
    return Audio(RANDOM.standard_normal(int(16000 * seconds)).astype(np.float32) * 0.1, rate=16000)


def sample(parts: tuple[Part, ...], answer: str | None = None, name: str = "s") -> Sample:
    turns = [Turn("user", parts)]
    if answer is not None:
        turns.append(Turn("assistant", (answer,)))
    return Sample(tuple(turns), id=name, origin=f"test:{name}")


def several(kind: str) -> list[Sample]:
    """Text only, one item, several items, and each other sense where the system has it; lengths differ."""
    found = [
        sample(("Say something.",), "Well then", "text"),
        sample((image(), "\nWhat is it?"), "a cat", "one"),
        sample(("Compare ", image(20, 5), " with ", image(), "."), "they differ a good deal", "two"),
        sample((image(5, 40), "And?"), "no", "late"),
    ]
    if kind == "senses":
        found += [
            sample((audio(), "What do you hear?"), "rain", "sound"),
            sample((video(), "What moves?"), "a dog runs", "clip"),
            sample((video(1), image(), audio(31.0), "All?"), "yes", "all"),
        ]
    return found


@pytest.fixture(scope="module", params=KINDS)
def system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Assembly]:
    config = tiny(request.param, tmp_path_factory.mktemp(request.param))
    assembly = assemble(config)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, p in assembly.model.named_parameters():
            if p.ndim < 2 or "lora_B" in name:  # gates and adapters start at zero, which would hide every fault
                p.add_(torch.randn_like(p) * 0.3)
    return request.param, assembly


def losses(
    assembly: Assembly, rows: list[list[Sample]], left: bool = False
) -> tuple[torch.Tensor, int, dict[str, torch.Tensor]]:
    """Loss, count and gradients of a batch of rows of samples."""
    model = assembly.model
    model.requires_grad_(True)
    model.eval()
    model.zero_grad()
    batch = assembly.processor.collate([[assembly.processor(s) for s in row] for row in rows], left=left)
    out = model(batch)
    out.total["text"].backward()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.requires_grad_(False)
    assert out.count["text"] == batch.learned
    return out.total["text"].detach(), out.count["text"], grads


def same(
    a: tuple[torch.Tensor, int, dict[str, torch.Tensor]], b: tuple[torch.Tensor, int, dict[str, torch.Tensor]]
) -> None:
    torch.testing.assert_close(a[0], b[0], rtol=1e-5, atol=1e-5)
    assert a[1] == b[1]
    # fp32 sums in another order differ by what the largest of the summed numbers lets go; T5's are of the order of 10.
    scale = max(1.0, *(float(g.abs().max()) for g in a[2].values()))
    for name in a[2].keys() | b[2].keys():
        x, y = a[2].get(name), b[2].get(name)
        # What one way does not reach (a stream without items) the other may reach with zeros.
        x, y = torch.zeros_like(y) if x is None else x, torch.zeros_like(x) if y is None else y
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5 * scale, msg=lambda m, name=name: f"{name}: {m}")


def test_packed_padded_and_single_rows_give_the_same_loss_and_gradients(system: tuple[str, Assembly]) -> None:
    kind, assembly = system
    samples = several(kind)
    padded = losses(assembly, [[s] for s in samples])
    packed = losses(assembly, [samples[::-1]])
    two_rows = losses(assembly, [samples[:2], samples[2:]])
    left = losses(assembly, [[s] for s in samples], left=True)
    singles = [losses(assembly, [[s]]) for s in samples]
    total = sum((s[0] for s in singles), torch.zeros(()))
    grads: dict[str, torch.Tensor] = {}
    for s in singles:
        for n, g in s[2].items():
            grads[n] = grads.get(n, torch.zeros_like(g)) + g
    for other in (packed, two_rows, left, (total, sum(s[1] for s in singles), grads)):
        same(padded, other)


def test_no_sample_of_a_packed_row_sees_another(system: tuple[str, Assembly]) -> None:
    kind, assembly = system
    first, *rest = several(kind)[1:]
    other = replace(
        first, turns=(Turn("user", (image(7, 7), "\nSomething else altogether?")), Turn("assistant", ("zebra zebra",)))
    )
    p = assembly.processor

    def last_states(before: Sample) -> torch.Tensor:
        batch = p.collate([[p(before), *[p(s) for s in rest]]])
        with torch.no_grad():
            states, _ = assembly.model.states(batch)
        return states[-sum(p(s).learned for s in rest) :]

    torch.testing.assert_close(last_states(first), last_states(other), rtol=1e-5, atol=1e-5)


def test_batches_of_any_size_give_the_same_replies(system: tuple[str, Assembly]) -> None:
    kind, assembly = system
    prompts = [replace(s, turns=s.turns[:1]) for s in several(kind)]
    decoding = Decoding(limit=9)
    single = [reply(assembly, [p], decoding)[0] for p in prompts]
    pairs = [r for i in range(0, len(prompts), 2) for r in reply(assembly, prompts[i : i + 2], decoding)]
    assert [r.ids for r in reply(assembly, prompts, decoding)] == [r.ids for r in single] == [r.ids for r in pairs]
    told = [*stream(assembly, prompts[1], decoding)]
    assert told[-1] == single[1] and all(b.text.startswith(a.text) for a, b in pairwise(told))


def test_replying_step_by_step_reads_the_states_of_training(system: tuple[str, Assembly]) -> None:
    """Greedy ids fed back as an answer: training must give each the log-probability that the reply reported."""
    kind, assembly = system
    p = assembly.processor
    for s in several(kind):
        said = reply(assembly, [replace(s, turns=s.turns[:1])], Decoding(limit=6))[0]
        example = p(replace(s, turns=(s.turns[0], Turn("assistant", ("x",)))))
        at = next(i for i, label in enumerate(example.labels) if label != -100)
        ids = example.ids[:at] + list(said.ids)
        forced = replace(example, ids=ids, labels=[-100] * at + list(said.ids))
        with torch.no_grad():
            states, targets = assembly.model.states(p.collate([[forced]]))
            logp = assembly.model.backbone.logits(states).log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)
        torch.testing.assert_close(logp, torch.tensor(said.logprobs), rtol=1e-4, atol=1e-4)


def test_likelihoods_do_not_depend_on_the_batch(system: tuple[str, Assembly]) -> None:
    kind, assembly = system
    prompts = [replace(s, turns=s.turns[:1]) for s in several(kind)]
    options = [["yes", "no", "a long answer"][: 1 + i % 3] for i in range(len(prompts))]
    together = likelihood(assembly, prompts, options)
    apart = [likelihood(assembly, [p], [o])[0] for p, o in zip(prompts, options, strict=True)]
    assert [[n for _, n in row] for row in together] == [[n for _, n in row] for row in apart]
    for row, other in zip(together, apart, strict=True):
        assert [v for v, _ in row] == pytest.approx([v for v, _ in other], abs=1e-4)


def test_cached_features_equal_live_ones_and_each_item_is_encoded_once(system: tuple[str, Assembly]) -> None:
    kind, assembly = system
    one = several(kind)[1]
    prompts = [replace(one, turns=(Turn("user", (one.items[0], f"\nQuestion {i}?")),)) for i in range(5)]
    live = reply(assembly, prompts, Decoding(limit=4))
    for alone in (False, True):
        assembly.model.cache = FeatureCache(alone=alone)
        cached = [r for i in range(0, 5, 2) for r in reply(assembly, prompts[i : i + 2], Decoding(limit=4))]
        assert assembly.model.cache.encoded == 1
        assembly.model.cache = None
        assert [r.ids for r in cached] == [r.ids for r in live]


def test_a_full_cache_lets_the_oldest_go_and_stays_right(system: tuple[str, Assembly]) -> None:
    kind, assembly = system
    prompts = [replace(s, turns=s.turns[:1]) for s in several(kind)]
    live = [r.ids for r in reply(assembly, prompts, Decoding(limit=4))]
    assembly.model.cache = FeatureCache(limit=1)
    assert [r.ids for r in reply(assembly, prompts, Decoding(limit=4))] == live
    assert assembly.model.cache.kept.held <= 1
    assembly.model.cache = None


def test_sampling_is_repeatable_and_independent_of_the_batch(system: tuple[str, Assembly]) -> None:
    kind, assembly = system
    prompts = [replace(s, turns=s.turns[:1]) for s in several(kind)]
    decoding = Decoding(limit=5, temperature=1.0, top_p=0.9, seed=3)
    assert [r.ids for r in reply(assembly, prompts, decoding)] == [
        reply(assembly, [p], decoding)[0].ids for p in prompts
    ]


def test_slots_are_what_the_aligner_gives(system: tuple[str, Assembly]) -> None:
    kind, assembly = system
    for s in several(kind):
        example = assembly.processor(s)
        for placed in example.placed:
            stream_ = assembly.model.streams[placed.stream]
            assert placed.slots == (stream_.aligner.tokens(len(placed.units)) if stream_.into == "slots" else 0)


def test_a_full_context_drops_whole_exchanges_and_says_so(tmp_path: Path) -> None:
    assembly = assemble(tiny("mlp", tmp_path))
    turns = tuple(
        t for i in range(6) for t in (Turn("user", (f"Question number {i}?",)), Turn("assistant", (f"Answer {i}.",)))
    )
    long = Sample(
        (Turn("user", (image(), "What?")), Turn("assistant", ("that",)), *turns), id="long", origin="train.json:3"
    )
    example = assembly.processor(long)
    assert 0 < example.dropped < 6 and len(example) <= 256 and len(example.placed) == 1
    asked = replace(long, turns=(*long.turns, Turn("user", ("Last?",))))
    kept = assembly.processor(asked, reply=True)
    assert kept.dropped and "Last?" in assembly.vocabulary.decode(kept.ids) and not kept.placed
    huge = sample(("word " * 300,), "yes")
    with pytest.raises(InputError, match=r"test:s: the sample needs \d+ positions .* the context has 256"):
        assembly.processor(huge)
    with pytest.raises(
        InputError, match="the context has 200 beside the reply; let the reply have fewer than 56 tokens"
    ):
        assembly.processor(Sample((Turn("user", ("word " * 300,)),)), reply=True, length=200)


def test_items_that_no_stream_takes_are_refused(tmp_path: Path) -> None:
    assembly = assemble(tiny("mlp", tmp_path))
    with pytest.raises(InputError, match="holds audio, but the system's inputs take only image"):
        assembly.processor(sample((audio(), "?"), "yes"))


def test_decoding_out_of_range_is_refused() -> None:
    with pytest.raises(InputError, match="top_p 0"):
        Decoding(top_p=0)
