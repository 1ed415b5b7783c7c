"""Video-LLaVA of transformers, imported: the same ids, logits, losses and replies over pictures and clips."""

from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t
from transformers.models.video_llava.image_processing_video_llava import VideoLlavaImageProcessor

from mmlm.errors import InputError
from mmlm.interop import import_folder
from mmlm.reply import Decoding, reply
from mmlm.sample import Part, Sample, Turn, Video
from mmlm.training.run import load_run
from tests.families import FAMILIES
from tests.interop import parity
from tests.interop.llavas import TEXTS, TOWERS
from tests.interop.parity import CLOSE, Pair, item, picture

TEMPLATE = (
    "{% for m in messages %}{{ m['role'].upper() + ': ' }}{% for c in m['content'] if c['type'] == 'image' %}<image>\n"
    "{% endfor %}{% for c in m['content'] if c['type'] == 'video' %}<video>\n{% endfor %}"
    "{% for c in m['content'] if c['type'] == 'text' %}{{ c['text'] + ' ' }}{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
FRAMES = 3


def clip(seed: int) -> np.ndarray[Any, Any]:
    """A clip of as many frames as are taken of one."""
    return np.stack([np.asarray(picture(seed + i, 40, 31)) for i in range(FRAMES)])


def saved(folder: Path, **said: Any) -> tuple[Any, Any]:
    tokenizer = FAMILIES["llama-legacy"]()
    names = [t.AddedToken(n, special=True, normalized=False) for n in ("<image>", "<video>")]
    tokenizer.add_tokens(names, special_tokens=True)
    tokenizer.chat_template = TEMPLATE
    torch.manual_seed(1)
    config = t.VideoLlavaConfig(
        vision_config=TOWERS["clip"](),
        text_config=TEXTS["llama"](len(tokenizer) + 1),
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
        video_token_index=tokenizer.convert_tokens_to_ids("<video>"),
        video_seq_length=10 * FRAMES,
        **said,
    )
    config.text_config.eos_token_id, config.text_config.pad_token_id = tokenizer.eos_token_id, tokenizer.pad_token_id
    model = parity.shaken(t.VideoLlavaForConditionalGeneration(config))
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    sizes: dict[str, Any] = {"size": {"shortest_edge": 21}, "crop_size": {"height": 21, "width": 21}}
    made = t.VideoLlavaProcessor(
        VideoLlavaImageProcessor(**sizes), t.VideoLlavaVideoProcessor(**sizes), tokenizer, 7, chat_template=TEMPLATE
    )
    model.save_pretrained(folder)
    made.save_pretrained(folder)
    return model, made


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("video-llava")
    model, made = saved(folder / "theirs")
    import_folder(folder / "theirs", folder / "ours")
    return Pair(model, made, load_run(folder / "ours", "cpu"), model.config.image_token_id)


Said = str | Any
TALKS: dict[str, list[Said]] = {
    "a picture": [picture(1), "What is in it?"],
    "a clip": [clip(2), "Why is it funny?"],
    "both": [picture(3), picture(5), clip(4), "Is that this?"],
    "two clips": [clip(5), clip(6), "Which is longer?"],
    "nothing": ["How many birds are there?"],
}


def sample(said: list[Said]) -> Sample:
    parts: list[Part] = [s if isinstance(s, str) else Video(s) if isinstance(s, np.ndarray) else item(s) for s in said]
    return Sample((Turn("user", tuple(parts)),))


def pictures_of(model: Any) -> str:
    """What their model calls its pictures; it takes any other name too, and says nothing."""
    known = signature(type(model.model).forward).parameters
    return "pixel_values" if "pixel_values" in known else "pixel_values_images"


def units(pair: Pair, said: list[Said]) -> tuple[list[int], dict[str, torch.Tensor]]:
    """Our prompt with their tokens in the slots, and our units as their model takes them."""
    example = pair.ours.processor(sample(said), reply=True)
    ids = list(example.ids)
    found: dict[str, list[torch.Tensor]] = {"image": [], "video": []}
    tokens = {"image": pair.token, "video": pair.theirs.config.video_token_id}
    for placed in example.placed:
        ids[placed.start : placed.start + placed.slots] = [tokens[placed.stream]] * placed.slots
        found[placed.stream].append(placed.units)
    inputs = {pictures_of(pair.theirs): torch.cat(found["image"])} if found["image"] else {}
    return ids, inputs | ({"pixel_values_videos": torch.stack(found["video"])} if found["video"] else {})


@pytest.mark.parametrize("talk", TALKS)
def test_ids_and_pixels_are_theirs(pair: Pair, talk: str) -> None:
    said = TALKS[talk]
    pictures = [s for s in said if not isinstance(s, str | np.ndarray)]
    clips = [s for s in said if isinstance(s, np.ndarray)]
    content = [{"type": "image"}] * len(pictures) + [{"type": "video"}] * len(clips)
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": said[-1]}]}]
    text = pair.processor.apply_chat_template(messages, add_generation_prompt=True)
    theirs = pair.processor(text=text, images=pictures or None, videos=clips or None, return_tensors="pt")
    ids, inputs = units(pair, said)
    assert ids == theirs["input_ids"][0].tolist()
    there = theirs.get("pixel_values", theirs.get("pixel_values_images"))
    if pictures:
        assert torch.equal(inputs[pictures_of(pair.theirs)], torch.stack(list(there)))
    if clips:  # frames are resized by torchvision there: two levels of 255 at most
        level = 2 / 255 / 0.26
        close = {"atol": level, "rtol": 0}
        torch.testing.assert_close(inputs["pixel_values_videos"], theirs["pixel_values_videos"], **close)


def test_logits_are_theirs(pair: Pair) -> None:
    examples = [pair.ours.processor(sample(s), reply=True) for s in TALKS.values()]
    batch = pair.ours.processor.collate([[e] for e in examples])
    model: Any = pair.ours.model
    with torch.no_grad():
        x, _ = model.embed(batch)
        made = model.backbone.logits(model.backbone.think(x, batch.segments, batch.positions))
        for row, keep, said in zip(made, batch.segments, TALKS.values(), strict=True):
            ids, inputs = units(pair, said)
            expected = pair.theirs(input_ids=torch.tensor([ids]), **inputs).logits[0]
            torch.testing.assert_close(row[keep > 0], expected, **CLOSE)


@pytest.mark.parametrize("talk", ["a picture", "a clip", "both"])
def test_loss_and_gradients_are_theirs(pair: Pair, talk: str) -> None:
    """The gradient of their one projector is the sum of those of our two."""
    said = TALKS[talk]
    asked = sample(said)
    told = Sample((*asked.turns, Turn("assistant", ("A dog runs.",))))
    example = pair.ours.processor(told)
    ids, inputs = units(pair, said)
    whole = ids + example.ids[len(ids) :]
    labels = torch.tensor([[-100, *example.labels[1:]]])
    projector = pair.theirs.model.multi_modal_projector.linear_1
    aligners: list[Any] = [pair.ours.model.inputs[n].aligner.layers[0] for n in ("image", "video")]
    for module in (projector, *aligners):
        module.requires_grad_(True)
        module.zero_grad()
    expected = pair.theirs(input_ids=torch.tensor([whole]), labels=labels, **inputs).loss
    losses = pair.ours.model(pair.ours.processor.collate([[example]]))
    got = losses.total["text"] / losses.count["text"]
    torch.testing.assert_close(got, expected, **CLOSE)
    expected.backward()
    got.backward()
    summed = sum(a.weight.grad for a in aligners if a.weight.grad is not None)
    torch.testing.assert_close(summed, projector.weight.grad, **CLOSE)


def test_greedy_replies_are_theirs(pair: Pair) -> None:
    ours = reply(pair.ours, [sample(s) for s in TALKS.values()], Decoding(limit=7))
    for said, made in zip(TALKS.values(), ours, strict=True):
        ids, inputs = units(pair, said)
        theirs = pair.theirs.generate(input_ids=torch.tensor([ids]), **inputs, max_new_tokens=7, do_sample=False)
        assert list(made.ids) == theirs[0, len(ids) :].tolist()[: len(made.ids)]


def test_a_clip_that_is_no_whole_number_of_frames_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "theirs")
    file = tmp_path / "theirs" / "config.json"
    file.write_text(file.read_text().replace('"video_seq_length": 30', '"video_seq_length": 31'))
    with pytest.raises(InputError, match="no multiple"):
        import_folder(tmp_path / "theirs", tmp_path / "ours")
