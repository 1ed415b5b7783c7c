"""What the page shows of an answer, held against the batch that the model was given; and that none of it is markup."""

import math
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from systems import tiny

from mmlm.assemble import Assembly, assemble
from mmlm.config import load
from mmlm.demo.overlay import overlay
from mmlm.demo.panel import looked, panel, safe
from mmlm.demo.seen import Answered, Timing, pictures, seen
from mmlm.looking import look
from mmlm.media import load_image
from mmlm.reply import Decoding, Reply, reply
from mmlm.sample import Audio, Image, Part, Sample, Turn, Video

RANDOM = np.random.default_rng(0)
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)> ${alert(3)} {{constructor}} `x` \u202e & \"'"


def image(height: int = 9, width: int = 14) -> Image:
    return Image(RANDOM.integers(0, 256, (height, width, 3), dtype=np.uint8))


def answered(assembly: Assembly, *parts: Part, said: Reply | None = None, limit: int = 6) -> Answered:
    sample, decoding = Sample((Turn("user", parts),), origin="test"), Decoding(limit=limit)
    said = said or reply(assembly, [sample], decoding)[0]
    return Answered(sample, decoding, said, Timing(0.5, 2.0))


class Tags(HTMLParser):
    """Every tag of a text with its attributes, and the text between."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_items_and_prompt_are_those_of_the_batch(assembly: Assembly) -> None:
    sound = Audio(RANDOM.standard_normal(16000).astype(np.float32) * 0.1, 16000)
    clip = Video(RANDOM.integers(0, 256, (3, 12, 10, 3), dtype=np.uint8), 2.0)
    one = answered(assembly, image(), "and ", sound, clip, "\nWhat is it?")
    found = seen(assembly, one)
    example = assembly.processor(one.sample, reply=True)
    assert [(i.stream, i.tokens) for i in found.items] == [(p.stream, p.slots) for p in example.placed]
    assert [len(i.pictures) for i in found.items] == [1, 1, 2]
    slots = sum(i.tokens for i in found.items)
    assert (
        one.reply.prompt_tokens
        == len(example)
        == slots + sum(len(assembly.vocabulary.structure(p)) for p in found.prompt if isinstance(p, str))
    )
    folded = "".join(p if isinstance(p, str) else p.label for p in found.prompt)
    assert f"[image: {found.items[0].tokens} tokens]and [audio:" in folded
    assert "\nWhat is it?" in folded and folded.endswith("assistant\n")


def test_memory_is_told_apart_from_slots(tmp_path: Path) -> None:
    assembly = assemble(tiny("memory", tmp_path))
    (item,) = seen(assembly, answered(assembly, image(), "What?")).items
    tokens = assembly.model.streams["image"].aligner.tokens(1)
    assert item.memory and item.label == f"[image: {tokens} tokens of memory]"


def test_pictures_are_what_the_encoder_was_given(assembly: Assembly) -> None:
    """Resized and cut as the transform does, the normalisation undone to the last bit."""
    transform, item = assembly.processor.streams["image"].transform, image(40, 23)
    (shown,) = pictures(transform, transform(item))
    expected = transform.fit(load_image(item))
    assert np.array_equal(np.asarray(shown), np.asarray(expected))


def test_tiles_are_shown_behind_the_picture_as_a_whole() -> None:
    assembly = assemble(load("llava-next-7b", ["scale=tiny"]))
    example = assembly.processor(Sample((Turn("user", (image(90, 40), "What?")),)), reply=True)
    (item,) = seen(assembly, answered(assembly, image(90, 40), "What?")).items
    (placed,) = example.placed
    assert len(item.pictures) == len(placed.units) > 1 and item.tokens == placed.slots


def test_units_of_a_transform_that_says_nothing_are_stretched() -> None:
    (shown,) = pictures(object(), torch.linspace(-3, 5, 3 * 4 * 5).view(1, 3, 4, 5))
    assert (np.asarray(shown).min(), np.asarray(shown).max()) == (0, 255)
    assert pictures(object(), torch.zeros(2, 7)) == []


def test_pieces_are_the_answer(assembly: Assembly) -> None:
    vocabulary = assembly.vocabulary
    ids = (*vocabulary.encode("a é🙂!"), next(iter(vocabulary.ends)))
    said = Reply("a é🙂!", ids, tuple(-0.1 * (i + 1) for i in range(len(ids))), "end", 9)
    pieces = seen(assembly, answered(assembly, "?", said=said)).pieces
    assert [p.text for p in pieces] == ["a", " ", "é", "🙂", "!", ""]
    assert [p.tokens for p in pieces] == [1, 1, 2, 4, 1, 1]
    assert math.isclose(math.prod(p.probability for p in pieces), math.exp(sum(said.logprobs)))


def test_a_stop_text_is_not_among_the_pieces(assembly: Assembly) -> None:
    ids = tuple(assembly.vocabulary.encode("yes\n##"))
    said = Reply("yes", ids, (-0.1,) * len(ids), "stop", 9)
    assert "".join(p.text for p in seen(assembly, answered(assembly, "?", said=said)).pieces) == "yes"


def test_exchanges_that_were_left_out_are_told(assembly: Assembly) -> None:
    said = answered(assembly, "?").reply
    turns = [Turn("user", ("x" * 200,)), Turn("assistant", ("y" * 200,))] * 2
    sample = Sample((*turns, Turn("user", ("now?",))), origin="test")
    one = Answered(sample, Decoding(6), said, Timing(0.1, 0.1))
    assert seen(assembly, one).dropped == 2
    assert "first 2 exchanges were left out" in panel(seen(assembly, one), one)


def test_speed_is_of_the_tokens_behind_the_first() -> None:
    assert Timing(9.0, 2.0).speed(5) == 2.0
    assert Timing(9.0, 2.0).speed(1) == Timing(1.0, 0.0).speed(5) == 0.0


@pytest.mark.parametrize("text", [HOSTILE, "</pre></div><script>", "${7*7}{{7*7}}<%= 7*7 %>", "<!--", "\0"])
def test_what_is_said_is_text_and_never_markup(text: str, assembly: Assembly) -> None:
    clean = answered(assembly, image(), "plain", limit=2)
    kinds = {t for t, _ in Tags(panel(seen(assembly, clean), clean)).tags}
    ids = tuple(assembly.vocabulary.encode(text))
    said = Reply(text, ids, (-1.0,) * len(ids), "limit", 3)
    one = replace(answered(assembly, image(), text, said=said))
    shown = panel(seen(assembly, one), one)
    page = Tags(shown)
    assert {t for t, _ in page.tags} <= kinds
    assert not [a for _, attributes in page.tags for a in attributes if a.startswith("on")]
    assert not [
        a for _, attributes in page.tags if not str(a := attributes.get("src", "data:image/")).startswith("data:image/")
    ]
    assert page.text.count(text.replace("\0", "\ufffd")) >= 1 or text in page.text
    assert not set("${}`") & set(shown)


def test_safe_text_reads_the_same() -> None:
    assert Tags(safe(HOSTILE)).text == HOSTILE
    assert not Tags(safe(HOSTILE)).tags


def test_a_map_brightens_where_it_is_great() -> None:
    grey = Pillow.new("RGB", (40, 20), (90, 90, 90))
    made = np.asarray(overlay(grey, np.array([[0.0, 2.0]], np.float32), 2.0)).astype(int)
    assert made.shape == (20, 40, 3)
    assert made[:, 35].sum() > 2 * made[:, 5].sum()
    flat = np.asarray(overlay(grey, np.zeros((2, 2), np.float32), 0.0))
    assert (flat == flat[0, 0]).all()


def test_where_it_looked_is_drawn_for_each_picture(assembly: Assembly) -> None:
    one = answered(assembly, image(), image(20, 5), "\nWhat?")
    maps = look(assembly, one.sample, "a cat")
    shown = looked(seen(assembly, one), maps, "gradient")
    assert [t for t, _ in Tags(shown).tags].count("img") == 2
    none = answered(assembly, "only text")
    assert "no picture" in looked(seen(assembly, none), [], "gradient")
