"""LLaVA of transformers, imported: the same pixels, ids, logits, losses, gradients and replies."""

from typing import Any

import pytest
import torch

from mmlm.reply import Decoding, reply
from tests.interop import parity
from tests.interop.llavas import IN_PLACE, INTERLEAVED, imported
from tests.interop.parity import CLOSE, Pair, picture

CASES: dict[str, dict[str, Any]] = {
    "clip-llama": {},
    "clip-qwen2-tied": {"text": "qwen2", "tokens": "qwen", "template": INTERLEAVED, "vision_feature_layer": -1},
    "clip-mistral-first-space": {"text": "mistral", "tokens": "llama", "vision_feature_layer": [-3, 1, -1]},
    "siglip-gemma-unigram": {"tower": "siglip", "text": "gemma", "tokens": "unigram", "full": True, "vision_feature_layer": -1},
    "dinov2-phi": {"tower": "dinov2", "text": "phi", "tokens": "gpt2", "template": IN_PLACE},
    "clip-qwen3-full-no-bias": {"text": "qwen3", "tokens": "qwen", "template": IN_PLACE, "full": True,
                                "multimodal_projector_bias": False, "projector_hidden_act": "quick_gelu"},
}  # fmt: skip


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return imported(tmp_path_factory.mktemp(request.param), **CASES[request.param])


A, B, C = picture(1), picture(2), picture(3)
TALKS: dict[str, parity.Talk] = {
    "one": [[A, "What is in the picture?"]],
    "several": [[A, B, "Which is red?"], ["The dog, 12 cats."], [C, "And here?"]],
    "none": [["How many birds are there?"]],
    "behind text": [["What is this?", B]],
}


@pytest.mark.parametrize("talk", TALKS)
def test_pixels_ids_and_logits_are_theirs(pair: Pair, talk: str) -> None:
    theirs = parity.chatted(pair, TALKS[talk])
    assert parity.ids(pair, TALKS[talk]) == theirs["input_ids"][0].tolist()
    if "pixel_values" in theirs:
        assert torch.equal(parity.pixels(pair, TALKS[talk]), theirs["pixel_values"])
    with torch.no_grad():
        expected = pair.theirs(**theirs).logits[0]
    torch.testing.assert_close(parity.logits(pair, [TALKS[talk]])[0], expected, **CLOSE)


def test_a_batch_of_mixed_counts(pair: Pair) -> None:
    for ours, talk in zip(parity.logits(pair, list(TALKS.values())), TALKS.values(), strict=True):
        with torch.no_grad():
            expected = pair.theirs(**parity.chatted(pair, talk)).logits[0]
        torch.testing.assert_close(ours, expected, **CLOSE)


@pytest.mark.parametrize("talk", ["one", "several", "none"])
def test_loss_and_gradients_are_theirs(pair: Pair, talk: str) -> None:
    told = [*TALKS[talk], ["A dog runs on the beach."]]
    ids, labels = parity.learned(pair, told)
    theirs = parity.chatted(pair, told, reply=False)
    projector, aligner = pair.theirs.model.multi_modal_projector, pair.ours.model.inputs["image"].aligner
    for p in (*projector.parameters(), *aligner.parameters()):
        p.requires_grad_(True)
        p.grad = None
    expected = pair.theirs(input_ids=ids, labels=labels, pixel_values=theirs.get("pixel_values")).loss
    got = parity.loss(pair, told)
    torch.testing.assert_close(got, expected, **CLOSE)
    if talk != "none":
        expected.backward()
        got.backward()
        for a, b in zip(aligner.parameters(), projector.parameters(), strict=True):
            assert a.shape == b.shape and b.grad is not None and float(b.grad.abs().max()) > 0
            torch.testing.assert_close(a.grad, b.grad, **CLOSE)


def test_greedy_replies_are_theirs(pair: Pair) -> None:
    talks = list(TALKS.values())
    ours = reply(pair.ours, [parity.sample(talk) for talk in talks], Decoding(limit=9))
    for talk, said in zip(talks, ours, strict=True):
        theirs = parity.chatted(pair, talk)
        made = pair.theirs.generate(**theirs, max_new_tokens=9, do_sample=False)
        expected = made[0, theirs["input_ids"].shape[1] :].tolist()
        assert list(said.ids) == expected[: len(said.ids)]
        assert said.finish == "stop" or len(said.ids) == len(expected)
