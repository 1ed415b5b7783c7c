"""The text link: the LLM writes the prompt that a decoder is steered by."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from families import FAMILIES
from torch import Tensor

from mmlm import talk
from mmlm.assemble import Assembly, added_tokens, assemble
from mmlm.config import SystemConfig, parse
from mmlm.errors import InputError
from mmlm.interfaces import Condition, ConditionShape, Decoder
from mmlm.plan.making import plan
from mmlm.reply import Decoding, reply, stream
from mmlm.sample import Image, Item, Modality, Sample, Turn
from mmlm.templates import find
from mmlm.vocabulary import Vocabulary

LLM = {"type": "causal", "weights": "HuggingFaceTB/SmolLM2-135M-Instruct"}


class Spelling(Decoder):
    """Makes a picture whose pixels are the bytes of the caption that it is steered by."""

    modality: Modality = "image"

    def __init__(self, *, refused: str = "") -> None:
        super().__init__()
        self.condition, self.refused = ConditionShape(1, 16), refused
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def goal(self, captions: Sequence[str], units: Tensor | None) -> Condition:
        rows = [list(c.encode()[:16].ljust(16)) for c in captions]
        return Condition(torch.tensor(rows, dtype=torch.float32)[:, None])

    def decode(self, condition: Condition, seeds: Sequence[int]) -> list[Item]:
        texts = [bytes(row[0].to(torch.uint8).tolist()).decode().strip() for row in condition.values]
        if self.refused in texts:
            raise InputError("this is not drawn")
        pixels = condition.values.to(torch.uint8)[..., None].expand(-1, -1, -1, 3).numpy()
        return [Image(np.ascontiguousarray(p)) for p in pixels]


WRITE: Mapping[str, Any] = {"signals": 2, "read": "text", "decoder": {"type": f"{__name__}:Spelling"}}


def system(output: Mapping[str, Any] = WRITE, **more: Any) -> SystemConfig:
    head = {"name": "t", "scale": "tiny", "length": 256, "backbone": LLM, "outputs": {"image": dict(output)}}
    return parse({**head, **more})


def scripted(assembly: Assembly, *scripts: Sequence[int]) -> Assembly:
    """The assembly, whose LLM would say these ids in each row, and behind them full stops."""
    backbone, plain, step = assembly.model.backbone, assembly.model.backbone.logits, [0]

    def logits(states: Tensor) -> Tensor:
        found = plain(states) * 1e-3
        for row, script in enumerate(scripts):
            found[row, script[step[0]] if step[0] < len(script) else ord(".")] = 1e4
        step[0] += 1
        return found

    backbone.logits = logits  # type: ignore[method-assign]
    return assembly


def asked(text: str) -> Sample:
    return Sample((Turn("user", (text,)),))


def ids(assembly: Assembly, *parts: str | int) -> list[int]:
    """Ids of text, and of the stream's first (0) and second (1) signal."""
    signals = assembly.processor.outputs["image"].ids
    return [i for p in parts for i in ([signals[p]] if isinstance(p, int) else assembly.vocabulary.encode(p))]


def test_an_item_is_learned_as_its_caption_between_two_ids() -> None:
    assembly = assemble(system())
    picture = Image(np.zeros((5, 7, 3), np.uint8), " a red cat\n")
    said = Sample((Turn("user", ("draw",)), Turn("assistant", ("look: ", picture, " done"))))
    example = assembly.processor(said)
    run = ids(assembly, "look: ", 0, "a red cat", 1, " done")
    at = len(example.ids) - len(run) - 2
    assert example.ids[at : at + len(run)] == run == example.labels[at : at + len(run)]
    assert not example.meant and not example.placed
    again = assembly.processor(Sample((*said.turns, Turn("user", ("and?",)))), reply=True)
    assert ids(assembly, 0, "a red cat", 1) == again.ids[at + 6 : at + 6 + 11]
    losses = assembly.model(assembly.processor.collate([[example]]))
    assert set(losses.total) == {"text"} and losses.count["text"] == example.learned


def test_the_decoder_makes_what_the_llm_wrote() -> None:
    assembly = assemble(system())
    script = ids(assembly, "see ", 0, " a cat ", 1, "!", 0, "dog", 1)
    *grown, answer = stream(scripted(assembly, script), asked("a"), Decoding(limit=22))
    assert list(answer.ids[: len(script)]) == script and answer.notes == ()
    kinds = [p if isinstance(p, str) else p.caption for p in answer.parts]
    assert kinds == ["see ", "a cat", "!", "dog", "." * (22 - len(script))]
    assert answer.text == "see !" + kinds[-1] and answer.streams == ("image", "image")
    assert [bytes(np.asarray(i.source)[0, :5, 0]) for i in answer.items] == [b"a cat", b"dog  "]
    shown = [g.text for g in grown]
    assert all(b.startswith(a) for a, b in zip(shown, [*shown[1:], answer.text], strict=True))
    assert [answer.ids[a:b] for a, b in answer.hidden] == [tuple(script[4:13]), tuple(script[14:19])]
    # What was said is what the next turn reads of it.
    turns = (Turn("user", ("a",)), Turn("assistant", answer.parts), Turn("user", ("more",)))
    read = assembly.processor(Sample(turns), reply=True).ids
    expected = ids(assembly, "see ", 0, "a cat", 1, "!", 0, "dog", 1, kinds[-1])
    assert read[answer.prompt_tokens :][: len(expected)] == expected


def test_inside_a_prompt_no_other_signal_is_said_and_the_reply_does_not_end() -> None:
    outputs = {"image": WRITE, "b": {**WRITE, "modality": "image", "spelling": "[B{}]"}}
    assembly = assemble(parse({"name": "t", "scale": "tiny", "length": 256, "backbone": LLM, "outputs": outputs}))
    others = [*assembly.processor.outputs["b"].ids, *assembly.vocabulary.ends, ids(assembly, 0)[0]]
    for other in others:
        script = [*ids(assembly, 0, "x"), other, *ids(assembly, 1)]
        answer = reply(scripted(assembly, script), [asked("a")], Decoding(limit=6))[0]
        assert other not in answer.ids[1:3] and len(answer.ids) == 6 and len(answer.items) == 1
        del assembly.model.backbone.logits
    closing = reply(scripted(assembly, ids(assembly, 1, "x")), [asked("a")], Decoding(limit=3))[0]
    assert ids(assembly, 1)[0] not in closing.ids


def test_a_stop_inside_a_prompt_stops_nothing() -> None:
    assembly = assemble(system())
    script = ids(assembly, "s", 0, "a # b", 1, "t # u")
    answer = reply(scripted(assembly, script), [asked("a")], Decoding(limit=20, stop=("#",)))[0]
    assert answer.finish == "stop" and answer.text == "st " and answer.items[0].caption == "a # b"
    assert ["".join(p for p in answer.parts if isinstance(p, str)), answer.parts[-1]] == ["st ", "t "]


@pytest.mark.parametrize(
    ("script", "limit", "note"),
    [
        (
            ("t", 0, "a c"),
            4,
            "the reply reached its length limit while it asked for an item (image), which was not made",
        ),
        (("t", 0, " ", 1), 6, "image: the reply asked for an item and wrote no prompt for it"),
        (("t", 0, 1), 6, "image: the reply asked for an item and wrote no prompt for it"),
        (("t", 0, "bad", 1), 8, "image: this is not drawn"),
    ],
)
def test_what_goes_wrong_leaves_the_text_and_a_note(script: tuple[Any, ...], limit: int, note: str) -> None:
    assembly = assemble(system({**WRITE, "decoder": {**WRITE["decoder"], "refused": "bad"}}))
    answer = reply(scripted(assembly, ids(assembly, *script)), [asked("a")], Decoding(limit=limit))[0]
    assert answer.items == () and answer.parts == (answer.text,) and answer.text.strip(".") == "t"
    assert len(answer.notes) == 1 and answer.notes[0].startswith(note)


def test_replies_do_not_depend_on_the_batch() -> None:
    def answers(*sizes: int) -> list[Any]:
        assembly, found = assemble(system()), []
        scripts = [ids(assembly, 0, "one", 1), ids(assembly, "text"), ids(assembly, "x", 0, "two three", 1, "y")]
        plain, at = assembly.model.backbone.logits, 0
        for size in sizes:
            scripted(assembly, *scripts[at : at + size])
            found += reply(assembly, [asked("a" * (i + 1)) for i in range(at, at + size)], Decoding(limit=16))
            assembly.model.backbone.logits, at = plain, at + size  # type: ignore[method-assign]
        return found

    together, alone = answers(3), answers(1, 1, 1)
    assert [[i.caption for i in a.items] for a in together] == [["one"], [], ["two three"]]
    for one, other in zip(together, alone, strict=True):
        assert (one.ids, one.text, one.hidden) == (other.ids, other.text, other.hidden)
        assert all(
            np.array_equal(np.asarray(a.source), np.asarray(b.source))
            for a, b in zip(one.items, other.items, strict=True)
        )


@pytest.mark.parametrize("family", ["llama", "llama-legacy", "qwen"])
def test_what_is_said_round_an_item_is_what_was_learned(family: str) -> None:
    """Also where the tokenizer puts a space in front of text that follows a special token: none is gained or lost."""
    config = system(template="vicuna-v1")
    tokenizer = FAMILIES[family]()  # gains the signals of the vocabulary that is made of it
    vocabulary = Vocabulary(tokenizer, find("vicuna-v1"), add_tokens=added_tokens(config))
    assembly = assemble(config, vocabulary=vocabulary)
    parts = ("look:", Image(np.zeros((5, 7, 3), np.uint8), "a red cat"), "done, and", " so")
    learned = assembly.processor(Sample((Turn("user", ("draw",)), Turn("assistant", parts))))
    script = [i for i in learned.labels if i != -100]
    first, last = (script.index(i) for i in assembly.processor.outputs["image"].ids)
    whole = tokenizer("[OUT0]a red cat[OUT1]", add_special_tokens=False)["input_ids"]
    assert script[first : last + 1] == whole
    answer = reply(scripted(assembly, script), [asked("draw")], Decoding(limit=len(script)))[0]
    assert list(answer.ids) == script and answer.text == "look:done, and so"
    assert [p if isinstance(p, str) else p.caption for p in answer.parts] == ["look:", "a red cat", "done, and so"]
    again = assembly.processor(Sample((Turn("user", ("draw",)), Turn("assistant", answer.parts))))
    assert again.ids == learned.ids


def test_an_item_without_a_caption_is_refused() -> None:
    said = Sample((Turn("user", ("draw",)), Turn("assistant", (Image(np.zeros((5, 7, 3), np.uint8), " "),))), id="s7")
    with pytest.raises(InputError, match=r"s7: the assistant says an item \(image\) without a caption"):
        assemble(system()).processor(said)


def test_several_streams_of_a_modality_may_be_steered_by_one_prompt() -> None:
    outputs = {
        "image": WRITE,
        "b": {"modality": "image", "signals": "image", **{k: WRITE[k] for k in ("read", "decoder")}},
    }
    assembly = assemble(parse({"name": "t", "scale": "tiny", "length": 256, "backbone": LLM, "outputs": outputs}))
    answer = reply(scripted(assembly, ids(assembly, 0, "cat", 1)), [asked("a")], Decoding(limit=8))[0]
    assert answer.streams == ("image", "b") and [i.caption for i in answer.items] == ["cat", "cat"]


def test_the_command_line_keeps_what_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loaded(run: Path) -> Assembly:
        assembly = assemble(system())
        return scripted(assembly, ids(assembly, "see ", 0, "a cat", 1, "!"))

    monkeypatch.setattr(talk, "load_run", loaded)
    said = talk.once(tmp_path, "a", [], 12, 0.0, 1.0, keep=tmp_path / "kept")
    assert said.splitlines() == ["see ", f"[image: {tmp_path / 'kept' / '000.png'}]", "!"]
    shown: list[str] = []
    lines = iter(["draw", "/quit"])
    talk.chat(tmp_path, 12, 0.0, 1.0, keep=tmp_path / "more", read=lambda _: next(lines), write=shown.append)
    assert "".join(shown[1:]) == f"see !\n[image: {tmp_path / 'more' / '000.png'}]\n"


STAGE = {
    "name": "s",
    "data": [{"reader": "captions", "path": "c.json", "says": "item"}],
    "train": {"backbone.added": {"lr": 1e-3}},
    "batch": 1,
    "steps": 1,
}


@pytest.mark.parametrize(
    ("output", "stage", "message"),
    [
        ({"signals": 1}, {}, "outputs.image.signals: expected 2, an id before the text and one behind it, got 1"),
        (
            {"aligner": {"type": "linear"}},
            {},
            "outputs.image.aligner: expected none, as the decoder is steered by text",
        ),
        ({"embed": True}, {}, "outputs.image.embed: expected nothing, as the decoder is steered by text"),
        ({"taught": 2}, {}, "outputs.image.taught: expected nothing, as the decoder is steered by text"),
        ({"feeds": "image"}, {}, "outputs.image.feeds: expected none but with `read: feedback`"),
        ({"read": "at"}, {}, "outputs.image.aligner: expected a block, got nothing"),
        ({}, {"objectives": {"image.mse": 1.0}}, "expected `text`, by which what 'image' writes is learned"),
        ({}, {"train": {"outputs.image.aligner": {"lr": 1e-3}}}, "expected the id of a part"),
    ],
)
def test_mistakes_of_a_config_are_told(output: dict[str, Any], stage: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as told:
        system({**WRITE, **output}, stages=[{**STAGE, **stage}])
    assert message in str(told.value)


def test_a_plan_counts_its_ids_and_no_aligner() -> None:
    found = plan(system(stages=[STAGE]))
    line = found.outputs[0]
    assert (line.signals, line.queries, line.read, line.length) == (2, 0, "text", 1)
    assert not any(p.id.startswith("outputs.image.aligner") for p in found.parts)
    added = next(p for p in found.parts if p.id == "backbone.added")
    assert added.parameters == added.trained["s"] > 0 and "text" in found.table()
