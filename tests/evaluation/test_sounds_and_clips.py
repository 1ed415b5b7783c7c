"""Sounds and clips on request: made, kept, compared and judged as pictures are, and shown where they can be played."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mmlm import cli, report
from mmlm.assemble import Assembly, assemble
from mmlm.config import SystemConfig, dump, parse
from mmlm.errors import InputError
from mmlm.evaluation.judging import Judge, Verdict, Wanted
from mmlm.evaluation.playing import page
from mmlm.evaluation.probing import Found, probe
from mmlm.evaluation.result import Result
from mmlm.evaluation.sheet import Strip
from mmlm.evaluation.tasks.generation import GenerationTask
from mmlm.media import load_audio, load_video
from mmlm.media.saving import save_item
from mmlm.sample import Audio, Item, Sample, Turn, Video
from mmlm.training.readers.messages import Messages

LLM = {"type": "causal", "weights": "HuggingFaceTB/SmolLM2-135M-Instruct"}
SOUND = {"aligner": {"type": "linear"}, "decoder": {"type": "audioldm", "weights": "cvssp/audioldm-l-full"}}
CLIP = {
    "aligner": {"type": "queries"},
    "decoder": {"type": "text_to_video", "weights": "cerspense/zeroscope_v2_576w"},
}
BOTH = {"audio": {**SOUND, "spelling": "[AUD{}]"}, "video": {**CLIP, "signals": 2, "spelling": "[VID{}]"}}
HEARS = {"encoder": {"type": "imagebind", "weights": "facebook/imagebind-huge", "modality": "audio"}}
WORDS = ["a dog barks", "rain", "a <b>car</b>", "a bird sings"]


def system(outputs: dict[str, Any] | None = None, stages: Sequence[Any] = (), **more: Any) -> SystemConfig:
    head = {"name": "t", "scale": "tiny", "length": 200, "backbone": LLM, "outputs": outputs or BOTH}
    return parse({**head, **more, "stages": list(stages)})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sounds and clips with captions of them: COCO's form of each kind alone, JSON Lines, and conversations that hold both."""
    home = tmp_path_factory.mktemp("media")
    talks = []
    for i, words in enumerate(WORDS):
        times = np.arange(8_000, dtype=np.float32) / 16_000
        save_item(Audio((np.sin(times * 700 * (i + 1)) / 2).astype(np.float32), 16_000), home / f"s{i}")
        pixels = np.random.default_rng(i).integers(0, 256, (5, 18, 22, 3), dtype=np.uint8)
        save_item(Video(pixels, 8.0), home / f"c{i}")
        said = [
            {"type": m, "path": f"{p}{i}.{e}", "caption": words}
            for m, p, e in (("audio", "s", "wav"), ("video", "c", "mp4"))
        ]
        turns = [{"role": "user", "content": words}, {"role": "assistant", "content": said}]
        talks.append({"id": str(i), "messages": turns})
    for name, letter, ending in (("sounds", "s", "wav"), ("clips", "c", "mp4")):
        files = [{"id": i, "file_name": f"{letter}{i}.{ending}"} for i in range(len(WORDS))]
        captions = [{"id": i, "image_id": i, "caption": words} for i, words in enumerate(WORDS)]
        (home / f"{name}.json").write_text(json.dumps({"images": files, "annotations": captions}))
    lines = [{"id": str(i), "audio": f"s{i}.wav", "caption": words} for i, words in enumerate(WORDS)]
    (home / "sounds.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (home / "talks.jsonl").write_text("".join(json.dumps(t) + "\n" for t in talks))
    return home


def eager(assembly: Assembly) -> Assembly:
    """The assembly, whose LLM says an item of each of its output streams, one after the other."""
    backbone, plain, start = assembly.model.backbone, assembly.model.backbone.logits, assembly.model.backbone.start
    runs = [s.ids for s in assembly.processor.outputs.values()]
    first = [ids[0] for ids in runs for _ in ids]
    step = [0]

    def logits(states: Tensor) -> Tensor:
        found = plain(states).clone()
        found[:, 256:] = -1e4
        if step[0] < len(first):
            found[:, first[step[0]]] = 1e4
        step[0] += 1
        return found

    def begun(*given: Any) -> Any:
        step[0] = 0
        return start(*given)

    backbone.logits = logits  # type: ignore[method-assign]
    backbone.start = begun  # type: ignore[method-assign,assignment]
    return assembly


@pytest.fixture(scope="module")
def assembly() -> Assembly:
    return eager(assemble(system()))


def measured(assembly: Assembly, path: Path, home: Path, **more: Any) -> Found:
    task = GenerationTask(path, **{"tokens": 8, **more})
    task.home = home
    return task.measure(assembly, batch=3, limit=None, seed=0, progress=lambda *_: None)


def resulting(assembly: Assembly, path: Path, out: Path, **more: Any) -> Result:
    task = GenerationTask(path, **{"tokens": 8, **more})
    made = {"seed": 0, "fingerprint": "x", "decoding": {}}
    return probe(assembly, task, made, out=out, batch=4, limit=None, progress=lambda *_: None)


class Loud(Judge):
    """A rule for sounds: how loud they get."""

    name, modality = "loud-1", "audio"

    def judge(self, items: Sequence[Item], wanted: Sequence[Wanted]) -> list[Verdict]:
        loud = [float(np.abs(load_audio(i, 8000)).max()) for i in items if isinstance(i, Audio)]
        return [Verdict(x, w.caption) for x, w in zip(loud, wanted, strict=True)]


class Bright(Judge):
    """A rule for clips: how light they are."""

    name, modality = "bright-1", "video"

    def judge(self, items: Sequence[Item], wanted: Sequence[Wanted]) -> list[Verdict]:
        return [Verdict(float(load_video(i, 3).mean() / 255), "seen") for i in items if isinstance(i, Video)]


def test_sounds_and_clips_are_made_and_kept(assembly: Assembly, folder: Path, tmp_path: Path) -> None:
    found = measured(assembly, folder / "talks.jsonl", tmp_path, reader="messages")
    assert [q.meta["output"] for q in found.questions] == ["audio"] * 4 + ["video"] * 4
    assert all(s.values["answered"] == 1 for s in found.scored)
    for question, said in zip(found.questions, found.said, strict=True):
        file = tmp_path / said["item"]
        if question.meta["output"] == "audio":
            assert file.suffix == ".wav" and len(load_audio(Audio(file), 16_000)) > 1_000
        else:
            assert file.suffix == ".mp4" and load_video(Video(file), 3).shape[0] == 3


@pytest.mark.parametrize(
    ("data", "output"), [("sounds.json", "audio"), ("sounds.jsonl", "audio"), ("clips.json", "video")]
)
def test_captions_of_sounds_and_clips_are_requests(
    data: str, output: str, assembly: Assembly, folder: Path, tmp_path: Path
) -> None:
    """As captions of pictures are, without a word on how they are to be read."""
    found = measured(assembly, folder / data, tmp_path, conditions=False, shown=0)
    assert [q.references for q in found.questions] == [(w,) for w in WORDS]
    assert {q.meta["output"] for q in found.questions} == {output} and not list(tmp_path.glob("sheet*"))
    assert all(Path(s["item"]).suffix in (".wav", ".mp4") for s in found.said)


def test_the_condition_error_is_that_of_the_objective(assembly: Assembly, folder: Path, tmp_path: Path) -> None:
    path = folder / "talks.jsonl"
    found = measured(assembly, path, tmp_path, reader="messages")
    assembly.model.objectives = {"audio": ["l2", "cosine"], "video": ["l2", "cosine"]}
    reader = Messages(path)
    for question, scored in zip(found.questions, found.scored, strict=True):
        sample = reader[int(question.id.split("#")[1].split("/")[0])]
        with torch.no_grad():
            losses = assembly.model(assembly.processor.collate([[assembly.processor(sample)]]))
        for kind in ("l2", "cosine"):
            meant = float(losses.total[f"{question.meta['output']}.{kind}"])
            assert meant > 0 and scored.values[f"condition {kind}"] == pytest.approx(meant, abs=1e-4)
    assembly.model.objectives = {}


def test_of_predicted_vectors_it_is_that_of_the_objective(folder: Path, tmp_path: Path) -> None:
    """Compared with the vectors as which the LLM reads the sound, not with what the decoder says of its caption."""
    fed = {"read": "feedback", "feeds": "audio", "aligner": {"type": "linear"}, "decoder": SOUND["decoder"]}
    assembly = assemble(system({"audio": fed}, inputs={"audio": {**HEARS, "aligner": {"type": "mlp"}}}))
    found = measured(assembly, folder / "sounds.json", tmp_path)
    assembly.model.objectives = {"audio": ["l2", "cosine"]}
    for i, words in enumerate(WORDS):
        item = Audio(folder / f"s{i}.wav", caption=words)
        example = assembly.processor(Sample((Turn("user", (words,)), Turn("assistant", (item,)))))
        with torch.no_grad():
            losses = assembly.model(assembly.processor.collate([[example]]))
        for kind in ("l2", "cosine"):
            meant = float(losses.total[f"audio.{kind}"])
            assert found.scored[i].values[f"condition {kind}"] == pytest.approx(meant, abs=1e-4)
            assert found.control[i].values[f"condition {kind}"] != pytest.approx(meant, abs=1e-4)


def test_of_a_decoder_of_pictures_that_encodes_them_it_is_that_of_the_objective(tmp_path: Path) -> None:
    from PIL import Image as Pillow

    from mmlm.sample import Image

    draw = {
        "aligner": {"type": "linear"},
        "decoder": {"type": "stable_unclip", "weights": "stabilityai/stable-diffusion-2-1-unclip", "negative": "zeros"},
    }
    assembly = assemble(system({"image": draw}))
    rows = []
    for i, words in enumerate(WORDS):
        pixels = np.random.default_rng(i).integers(0, 256, (12, 14, 3), dtype=np.uint8)
        Pillow.fromarray(pixels).save(tmp_path / f"{i}.png")
        rows.append({"id": str(i), "image": f"{i}.png", "caption": words})
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    found = measured(assembly, tmp_path / "c.jsonl", tmp_path / "out")
    assembly.model.objectives = {"image": ["l2", "denoise"]}
    media = assembly.processor.__class__(
        assembly.vocabulary, assembly.processor.streams, 200, assembly.processor.outputs, frozenset({"image"})
    )
    for i, words in enumerate(WORDS):
        item = Image(tmp_path / f"{i}.png", words)
        example = media(Sample((Turn("user", (words,)), Turn("assistant", (item,)))))
        with torch.no_grad():
            losses = assembly.model(media.collate([[example]]))
        assert found.scored[i].values["condition l2"] == pytest.approx(float(losses.total["image.l2"]), abs=1e-4)


def test_where_words_steer_there_is_no_condition(folder: Path, tmp_path: Path) -> None:
    plain = {n: {k: v for k, v in way.items() if k != "aligner"} for n, way in (("audio", SOUND), ("video", CLIP))}
    ways = {n: {**way, "read": "text", "signals": 2, "spelling": f"[{n}{{}}]"} for n, way in plain.items()}
    found = measured(assemble(system(ways)), folder / "talks.jsonl", tmp_path, reader="messages")
    assert sum("none; its decoder is steered by words" in n for n in found.notes) == 2
    assert not any("condition l2" in s.values for s in found.scored)


@pytest.mark.parametrize(("judge", "output"), [("Loud", "audio"), ("Bright", "video")])
def test_a_rule_judges_what_it_can(judge: str, output: str, assembly: Assembly, folder: Path, tmp_path: Path) -> None:
    """Of a system that makes both; of the others there is no row that says 0."""
    options = {"reader": "messages", "judge": f"{__name__}:{judge}"}
    result = resulting(assembly, folder / "talks.jsonl", tmp_path, **options)
    rows = {(r.metric, r.group): r for r in result.rows}
    other = "video" if output == "audio" else "audio"
    assert rows["agreement, true items", f"output: {output}"].score.value > 0.3
    assert ("agreement", f"output: {output}") in rows and ("agreement", "all") in rows
    assert ("agreement", f"output: {other}") not in rows
    assert all(("condition l2", f"output: {o}") in rows for o in BOTH)


def test_a_run_that_hears_is_asked_what_is_heard(
    assembly: Assembly, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = {
        "name": "hear",
        "data": [{"reader": "captions", "path": str(folder / "sounds.json")}],
        "train": {"inputs.audio.aligner": {"lr": 1e-2}},
        "batch": 2,
        "steps": 1,
    }
    inputs = {"audio": {**HEARS, "aligner": {"type": "linear"}}}
    head = {"name": "ear", "scale": "tiny", "length": 128, "backbone": LLM, "inputs": inputs, "stages": [stage]}
    (tmp_path / "ear.yaml").write_text(dump(parse(head)), encoding="utf-8")
    assert cli.main(["train", str(tmp_path / "ear.yaml"), "--out", str(tmp_path / "ear")]) == 0
    from mmlm.evaluation import judging as room

    heard: list[str] = []
    plain = room.reply  # type: ignore[attr-defined]

    def reply(one: Assembly, samples: Sequence[Sample], how: Any) -> list[Any]:
        heard.extend(s.turns[0].text.strip() for s in samples)
        return plain(one, samples, how)

    monkeypatch.setattr(room, "reply", reply)
    result = resulting(
        assembly, folder / "talks.jsonl", tmp_path / "out", reader="messages", judge=str(tmp_path / "ear")
    )
    assert set(heard) == {"What is heard in the sound?"} and "agreement/ear," in result.metric
    assert {r.group for r in result.rows if r.metric == "agreement"} == {"all", "output: audio"}


def test_a_judge_of_something_else_is_told(assembly: Assembly, folder: Path, tmp_path: Path) -> None:
    options = {"reader": "messages", "judge": "mmlm.evaluation.drawn:Drawn"}
    with pytest.raises(InputError, match="it judges image items, and audio and video items are made"):
        measured(assembly, folder / "talks.jsonl", tmp_path, **options)


def test_the_features_of_sounds_are_compared(assembly: Assembly, folder: Path, tmp_path: Path) -> None:
    from transformers import WhisperConfig, WhisperModel

    torch.manual_seed(0)
    small = {
        "d_model": 12,
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "num_mel_bins": 80,
    }
    more = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 16, "max_source_positions": 1500}
    WhisperModel(
        WhisperConfig(**small, **more, vocab_size=60, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    ).save_pretrained(tmp_path / "ear")
    options = {"reader": "messages", "extractor": f"whisper:{tmp_path / 'ear'}"}
    result = resulting(assembly, folder / "talks.jsonl", tmp_path / "out", **options)
    (row,) = [r for r in result.rows if "Frechet" in r.metric]
    assert row.group == "output: audio" and row.score.value > 0 and "not reliable" in row.metric


def test_the_page_plays_them(assembly: Assembly, folder: Path, tmp_path: Path) -> None:
    """Every player leads to a file that is there, in the result or in the data; a caption is text."""
    out = tmp_path / "run" / "evaluations" / "g"
    result = resulting(assembly, folder / "talks.jsonl", out, reader="messages")
    told = (out / "sheet.html").read_text(encoding="utf-8")
    ways = re.findall(r"<(audio|video) controls[^>]* src='([^']+)'", told)
    assert len(ways) == 16 and sum("made/" in way for _, way in ways) == 8
    assert all((out / way).is_file() and (kind == "audio") == way.endswith(".wav") for kind, way in ways)
    assert "<b>car" not in told and "a &lt;b&gt;car&lt;/b&gt;" in told and "http" not in told
    assert any("sheet.html, which plays" in n for n in result.notes)
    main = report.write(tmp_path / "run", {"generation": result}).read_text(encoding="utf-8")
    assert main.count("href='evaluations/g/sheet.html'") == 2


def test_what_is_in_no_file_is_said(tmp_path: Path) -> None:
    sound = Audio(np.zeros(100, np.float32), 8000)
    told = page([Strip("a", [sound, None])], ["true", "made"], tmp_path / "p.html").read_text()
    assert "not in a file of its own" in told and "<figcaption>made</figcaption>none" in told
    with pytest.raises(InputError, match="cannot be written"):
        page([], [], tmp_path / "none" / "p.html")


def test_a_sound_that_is_asked_for_through_the_command_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = {
        "name": "say",
        "data": [{"reader": "messages", "path": str(folder / "talks.jsonl")}],
        "train": {p: {"lr": 1e-2} for p in ("backbone", "backbone.added", "outputs.audio.aligner")},
        "objectives": {"text": 1.0, "audio.l2": 1.0},
        "batch": 4,
        "steps": 12,
    }
    (tmp_path / "t.yaml").write_text(dump(system(stages=[stage])), encoding="utf-8")
    assert cli.main(["train", str(tmp_path / "t.yaml"), "--out", str(tmp_path / "run")]) == 0
    arguments = ["eval", str(tmp_path / "run"), "--task", "generation", "--data", str(folder / "sounds.json")]
    assert cli.main([*arguments, "--set", "tokens=8", f"judge={__name__}:Loud"]) == 0
    told = capsys.readouterr().out
    assert "condition l2" in told and "agreement, true items" in told
    home = tmp_path / "run" / "evaluations" / "generation-sounds"
    assert (home / "sheet.png").is_file() and (home / "sheet.html").is_file()
    lines = [json.loads(line) for line in (home / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 4 and all(line["output"] == "audio" for line in lines)
