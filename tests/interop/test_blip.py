"""BLIP-2 and InstructBLIP of transformers, imported: the same pixels, ids, logits, losses, gradients and replies."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmlm.reply import Decoding, reply
from mmlm.sample import Sample, Turn, Video
from mmlm.training.run import load_run
from tests.interop import parity
from tests.interop.blips import imported
from tests.interop.parity import CLOSE, Pair, picture

CASES: dict[str, dict[str, Any]] = {
    "blip2-opt": {},
    "blip2-t5": {"text": "t5", "every": 1},
    "blip2-t5-tied": {"text": "t5-tied"},
    "instructblip-llama": {"text": "llama", "instruct": True},
    "instructblip-t5": {"text": "t5", "instruct": True, "every": 3},
}


@pytest.fixture(scope="module", params=CASES)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    return imported(tmp_path_factory.mktemp(request.param), **CASES[request.param])


A, B, C = picture(1), picture(2), picture(3)
ASKED = "Question: What is in the picture? Answer:"
TALKS: dict[str, parity.Talk] = {
    "one": [[A, ASKED]],
    "another": [[B, "a photo of"]],
    "several": [[A, B, C, "Which is red?"]],
    "none": [["How many birds are there?"]],
}


def seq2seq(pair: Pair) -> bool:
    return not pair.theirs.config.use_decoder_only_language_model


def asked(pair: Pair, talk: parity.Talk) -> dict[str, Tensor]:
    """What their processor makes of a conversation. It knows one picture only: for several, each is prepared by itself, and
    its queries stand one behind the other."""
    pictures = [s for s in talk[0] if not isinstance(s, str)]
    words = next(s for s in talk[0] if isinstance(s, str))
    found = dict(pair.processor(images=pictures[0] if pictures else None, text=words, return_tensors="pt"))
    if len(pictures) > 1:
        each = [pair.processor(images=p, text=words, return_tensors="pt") for p in pictures]
        found = {k: torch.cat([e[k] for e in each]) for k in each[0] if k not in ("input_ids", "attention_mask")}
        queries = torch.full((1, 5 * (len(pictures) - 1)), pair.token)
        found["input_ids"] = torch.cat([queries, each[0]["input_ids"]], 1)
        found["attention_mask"] = torch.ones_like(found["input_ids"])
    return found


def theirs(pair: Pair, talk: parity.Talk, **said: Any) -> Any:
    """Their forward; without a picture it is their LLM's."""
    inputs = asked(pair, talk) | said
    if "pixel_values" not in inputs:
        inputs = {k: v for k, v in inputs.items() if not k.startswith("qformer")}
        return pair.theirs.language_model(**inputs)
    return pair.theirs(**inputs)


@pytest.mark.parametrize("talk", TALKS)
def test_pixels_and_ids_are_theirs(pair: Pair, talk: str) -> None:
    inputs = asked(pair, TALKS[talk])
    assert parity.ids(pair, TALKS[talk]) == inputs["input_ids"][0].tolist()
    if "pixel_values" in inputs:
        torch.testing.assert_close(parity.pixels(pair, TALKS[talk]), inputs["pixel_values"], atol=1e-6, rtol=0)
    if "qformer_input_ids" in inputs and talk != "none":
        example = pair.ours.processor(parity.sample(TALKS[talk]), reply=True)
        assert all(p.instruction == inputs["qformer_input_ids"][0].tolist() for p in example.placed)


def test_logits_are_theirs(pair: Pair) -> None:
    talks = [[*t, ["a dog runs on the beach"]] for t in TALKS.values()]
    if not seq2seq(pair):
        for ours, talk in zip(parity.logits(pair, list(TALKS.values())), TALKS.values(), strict=True):
            with torch.no_grad():
                torch.testing.assert_close(ours, theirs(pair, talk).logits[0], **CLOSE)
        return
    examples = [pair.ours.processor(parity.sample(t)) for t in talks]
    batch = pair.ours.processor.collate([[e] for e in examples])
    with torch.no_grad():
        states, targets = pair.ours.model.states(batch)
        made = pair.ours.model.backbone.logits(states).split([e.learned for e in examples])
        for ours, said, talk in zip(made, targets.split([e.learned for e in examples]), TALKS.values(), strict=True):
            torch.testing.assert_close(ours, theirs(pair, talk, labels=said[None]).logits[0], **CLOSE)


@pytest.mark.parametrize("talk", TALKS)
def test_loss_and_gradients_are_theirs(pair: Pair, talk: str) -> None:
    told = [*TALKS[talk], ["a dog runs on the beach"]]
    ids, labels = parity.learned(pair, told)
    aligner: Any = pair.ours.model.inputs["image"].aligner
    for p in (*pair.theirs.parameters(), *aligner.parameters()):
        p.requires_grad_(True)
        p.grad = None
    if seq2seq(pair):
        expected = theirs(pair, TALKS[talk], labels=labels[labels != -100][None]).loss
    else:
        expected = theirs(pair, TALKS[talk], input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss
    got = parity.loss(pair, told)
    torch.testing.assert_close(got, expected, **CLOSE)
    if talk != "none":
        expected.backward()
        got.backward()
        torch.testing.assert_close(aligner.queries.grad, pair.theirs.query_tokens.grad[0], **CLOSE)
        for here, there in (
            (aligner.project, pair.theirs.language_projection),
            (aligner.features_norm, pair.theirs.vision_model.post_layernorm),
            (aligner.blocks[0].cross.q, pair.theirs.qformer.encoder.layer[0].crossattention.attention.query),
            (aligner.blocks[2].ffn.up, pair.theirs.qformer.encoder.layer[2].intermediate_query.dense),
        ):
            assert float(there.weight.grad.abs().max()) > 0
            torch.testing.assert_close(here.weight.grad, there.weight.grad, **CLOSE)


def test_greedy_replies_are_theirs(pair: Pair) -> None:
    talks = [t for n, t in TALKS.items() if n in ("one", "another")]
    for talk, said in zip(talks, reply(pair.ours, [parity.sample(t) for t in talks], Decoding(limit=9)), strict=True):
        inputs = asked(pair, talk)
        with torch.no_grad():
            made = pair.theirs.generate(**inputs, max_new_tokens=9, do_sample=False, num_beams=1)[0].tolist()
        start = pair.theirs.config.text_config.decoder_start_token_id if seq2seq(pair) else None
        made = made[1:] if start is not None and made[0] == start else made[-len(said.ids) :]
        assert list(said.ids) == made[: len(said.ids)]
        assert said.finish == "end" or len(made) == len(said.ids)


def test_the_run_is_read_back_without_the_folder(tmp_path: Path) -> None:
    import shutil

    pair = imported(tmp_path, text="llama", instruct=True)
    shutil.rmtree(tmp_path / "theirs")
    again = load_run(tmp_path / "ours", "cpu")
    ours = pair.ours.model.state_dict()
    assert all(torch.equal(v, ours[n]) for n, v in again.model.state_dict().items())


@pytest.mark.parametrize("text", ["llama", "t5"])
def test_clips_are_read_frame_by_frame_with_the_question(text: str, tmp_path: Path) -> None:
    """InstructBLIP's video form: four frames, resized by torchvision there (two levels of 255 at most)."""
    pair = imported(tmp_path, text=text, instruct=True, video=True)
    clips = [np.stack([np.asarray(picture(seed + i, 40, 31)) for i in range(4)]) for seed in (1, 5)]
    samples = [Sample((Turn("user", (Video(c), ASKED)), Turn("assistant", ("a dog runs",)))) for c in clips]
    examples = [pair.ours.processor(s) for s in samples]
    expected, made = [], pair.ours.processor.collate([[e] for e in examples])
    for example, clip in zip(examples, clips, strict=True):
        theirs = pair.processor(images=[clip], text=ASKED, return_tensors="pt")
        (placed,) = example.placed
        prompt = list(pair.ours.processor(Sample((Turn("user", (Video(clip), ASKED)),)), reply=True).ids)
        prompt[placed.start : placed.start + placed.slots] = [pair.token] * placed.slots
        assert prompt == theirs["input_ids"][0].tolist() and placed.slots == 20
        torch.testing.assert_close(placed.units, theirs["pixel_values"][0], atol=2 / 255 / 0.26, rtol=0)
        labels = torch.tensor([[-100, *example.labels[1:]]])
        inputs = {k: theirs[k] for k in ("qformer_input_ids", "qformer_attention_mask")}
        inputs["pixel_values"] = placed.units[None]
        ids = torch.tensor([prompt if seq2seq(pair) else prompt + example.ids[len(prompt) :]])
        said = labels[labels != -100][None] if seq2seq(pair) else labels
        with torch.no_grad():
            expected.append(pair.theirs(**inputs, input_ids=ids, labels=said).loss * example.learned)
    with torch.no_grad():
        torch.testing.assert_close(pair.ours.model(made).total["text"] / 8, sum(expected) / 8, **CLOSE)
