"""Items on request: counted, compared by conditions, CLIP, features and a judge; a whole run through the command line; what bad
input gets."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow

from mmlm import cli, report
from mmlm.assemble import Assembly, assemble
from mmlm.config import SystemConfig, dump, parse
from mmlm.errors import InputError
from mmlm.evaluation import extracting
from mmlm.evaluation.judging import Judge, Verdict, Wanted
from mmlm.evaluation.metrics import clipscore, frechet
from mmlm.evaluation.probing import Found, probe
from mmlm.evaluation.result import Result
from mmlm.evaluation.tasks.generation import GenerationTask
from mmlm.interfaces import Condition
from mmlm.media import load_image
from mmlm.sample import Image, Item, Sample, Turn
from mmlm.training.readers.messages import Messages

LLM = {"type": "causal", "weights": "HuggingFaceTB/SmolLM2-135M-Instruct"}
EYES = {"type": "clip", "weights": "openai/clip-vit-base-patch32"}
DRAW = {"modality": "image", "aligner": {"type": "queries"}, "decoder": {"type": "pixel_diffusion"}}
FIND = {
    "modality": "image",
    "signals": "drawn",
    "aligner": {"type": "linear"},
    "decoder": {"type": "retrieval", "width": 6, "encoder": EYES},
}
BOTH = {"drawn": {**DRAW, "signals": 2}, "found": FIND}
WORDS = [
    "a red dog",
    "a blue cat",
    "a green bird on a tree",
    "a fish",
    "a house",
    "a red dog",
    "two cars",
    "a boat at sea",
]


def system(path: Path | None = None, outputs: dict[str, Any] | None = None, **more: Any) -> SystemConfig:
    """A tiny system that draws and finds, and a stage of two steps on captions."""
    stage = {
        "name": "draw",
        "data": [{"reader": "captions", "path": str(path), "says": "item"}],
        "train": {"outputs.drawn.aligner": {"lr": 1e-2}},
        "objectives": {"text": 1.0, "drawn.denoise": 1.0},
        "batch": 4,
        "steps": 2,
    }
    ways = BOTH if outputs is None else outputs
    head = {"name": "t", "scale": "tiny", "length": 128, "backbone": LLM, "outputs": ways, **more}
    return parse({**head, "stages": [stage] if path else []})


def judging(folder: Path, **more: Any) -> Path:
    """A run of a tiny system that sees."""
    inputs = {"image": {"encoder": EYES, "aligner": {"type": "linear"}}}
    (folder / "qa.jsonl").write_text(json.dumps({"image": "0.png", "question": "what?", "answer": "a dog"}) + "\n")
    stage = {
        "name": "see",
        "data": [{"reader": "qa", "path": str(folder / "qa.jsonl")}],
        "train": {"inputs.image.aligner": {"lr": 1e-2}},
        "batch": 1,
        "steps": 1,
    }
    config = parse({"name": "j", "scale": "tiny", "length": 128, "backbone": LLM, "inputs": inputs, "stages": [stage]})
    (folder / "judge.yaml").write_text(dump(config), encoding="utf-8")
    assert cli.main(["train", str(folder / "judge.yaml"), "--out", str(folder / "judge")]) == 0
    return folder / "judge"


def painted(folder: Path, order: Sequence[int] = range(8), bad: Sequence[int] = ()) -> list[dict[str, Any]]:
    """Records of pictures, one below the other."""
    rows = []
    for i in order:
        values = np.random.default_rng(i).integers(0, 256, (12, 14, 3), dtype=np.uint8)
        Pillow.fromarray(values).save(folder / f"{i}.png")
        if i in bad:
            (folder / f"{i}.png").write_bytes((folder / f"{i}.png").read_bytes()[:60])
        rows.append({"id": f"r{i}", "image": f"{i}.png", "caption": WORDS[i], "category": "xy"[i % 2]})
    return rows


def written(folder: Path, rows: Sequence[dict[str, Any]], name: str = "c.jsonl") -> Path:
    (folder / name).write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    return folder / name


def eager(assembly: Assembly) -> Assembly:
    """The assembly, whose LLM says an item whenever it may, and bytes otherwise, and whose decoder has values that draw."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        for p in assembly.model.ways_out["drawn"].decoder.parameters():
            p.copy_(torch.randn(p.shape) * 0.3)
    first = assembly.processor.outputs["drawn"].ids[0]
    backbone, plain = assembly.model.backbone, assembly.model.backbone.logits

    def logits(states: torch.Tensor) -> torch.Tensor:
        found = plain(states).clone()
        found[:, 256:] = -1e4
        found[:, first] = 1e4
        return found

    backbone.logits = logits  # type: ignore[method-assign]
    return assembly


def measured(
    assembly: Assembly, path: Path, home: Path, batch: int = 8, limit: int | None = None, **more: Any
) -> Found:
    task = GenerationTask(path, **{"tokens": 6, **more})
    task.home = home
    return task.measure(assembly, batch=batch, limit=limit, seed=0, progress=lambda *_: None)


def resulting(assembly: Assembly, path: Path, out: Path, batch: int = 8, **more: Any) -> Result:
    task = GenerationTask(path, **{"tokens": 6, **more})
    made = {"seed": 0, "fingerprint": "x", "decoding": {}}
    return probe(assembly, task, made, out=out, batch=batch, limit=None, progress=lambda *_: None)


def values(found: Found) -> dict[str, dict[str, float]]:
    return {q.id: dict(s.values) for q, s in zip(found.questions, found.scored, strict=True)}


def controls(found: Found) -> dict[str, dict[str, float]]:
    return {q.id: dict(found.control[i].values) for i, q in enumerate(found.questions)}


class Brightness(Judge):
    """A rule that reads pictures: how light they are, which it says of the caption's first letter."""

    name = "brightness-1"

    def able(self, wanted: Wanted) -> bool:
        return wanted.caption != "a fish"

    def judge(self, items: Sequence[Item], wanted: Sequence[Wanted]) -> list[Verdict]:
        light = [float(np.asarray(load_image(i)).mean()) / 255 for i in items if isinstance(i, Image)]
        return [Verdict(x, w.caption[:1]) for x, w in zip(light, wanted, strict=True)]


@pytest.fixture(scope="module")
def assembly() -> Assembly:
    return eager(assemble(system()))


@pytest.fixture(scope="module")
def tiny_clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CLIP with both towers at random, as transformers saves it."""
    from pipelines import _CLIP, _VISION, _clip_tokenizer
    from transformers import CLIPConfig, CLIPModel

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clip")
    config = CLIPConfig(
        text_config={**_CLIP, "projection_dim": 10, "max_position_embeddings": 28},
        vision_config=_VISION,
        projection_dim=10,
    )
    CLIPModel(config).save_pretrained(folder)
    _clip_tokenizer().save_pretrained(folder)
    return folder


def test_every_request_is_answered_and_kept(assembly: Assembly, tmp_path: Path) -> None:
    found = measured(assembly, written(tmp_path, painted(tmp_path)), tmp_path / "out", conditions=False)
    assert len(found.questions) == 16 and {q.meta["output"] for q in found.questions} == {"drawn", "found"}
    assert {q.meta["category"] for q in found.questions} == {"x", "y"}
    assert all(v == {"answered": 1.0} for v in values(found).values()) and not found.control
    for said, scored in zip(found.said, found.scored, strict=True):
        picture = Image(tmp_path / "out" / said["item"])
        assert (
            load_image(picture).size == {"drawn": (8, 8), "found": (14, 12)}[said["output"]]
            and scored.answer == said["item"]
            and scored.items
        )
    of = {q.id: s["item"] for q, s in zip(found.questions, found.said, strict=True)}
    drawn = [Pillow.open(tmp_path / "out" / of[f"r{i}/drawn"]).tobytes() for i in (0, 5)]
    assert drawn[0] != drawn[1], "the same words, but each request is drawn from a seed of its own"


def test_neither_the_order_of_the_data_nor_the_batch_plays_a_part(
    assembly: Assembly, tiny_clip: Path, tmp_path: Path
) -> None:
    rows = painted(tmp_path)
    more = {"clip": str(tiny_clip), "extractor": f"clip:{tiny_clip}", "judge": f"{__name__}:Brightness"}
    one = resulting(assembly, written(tmp_path, rows), tmp_path / "one", **more)
    shuffled = written(tmp_path, [rows[i] for i in (3, 0, 7, 1, 6, 2, 5, 4)], "d.jsonl")
    for n, (path, batch) in enumerate([(written(tmp_path, rows), 1), (shuffled, 3)]):
        other = resulting(assembly, path, tmp_path / str(n), batch, **more)
        assert [(r.metric, r.group, r.n) for r in one.rows] == [(r.metric, r.group, r.n) for r in other.rows]
        assert [q.id for q in one.questions] == [q.id for q in other.questions]
        for a, b in zip(one.rows, other.rows, strict=True):
            assert a.score.value == pytest.approx(b.score.value, abs=2e-3), a.metric
            assert (a.score.low or 0) == pytest.approx(b.score.low or 0, abs=2e-3), a.metric
            if a.control is not None:
                assert a.control.value == pytest.approx(b.control.value, abs=2e-3), a.metric  # type: ignore[union-attr]
    ways = (json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "1"))
    assert len({json.dumps(w["metric"]) for w in ways}) == 1


def test_what_was_made_is_not_made_again(assembly: Assembly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, out = written(tmp_path, painted(tmp_path)), tmp_path / "out"
    decoder = assembly.model.ways_out["drawn"].decoder
    calls: list[int] = []
    plain = decoder.decode
    monkeypatch.setattr(decoder, "decode", lambda c, seeds: (calls.append(len(seeds)), plain(c, seeds))[1])
    first = measured(assembly, path, out, limit=5)
    assert sum(calls) == 5
    again = measured(assembly, path, out, limit=5)
    assert sum(calls) == 5 and values(first) == values(again) and first.said == again.said
    records = sorted(out.glob("made/*.json"))
    files = [json.loads(r.read_text())["files"] for r in records]
    (out / "made" / files[0]["drawn"]).unlink()
    for record, file in ((records[1], "../../0.png"), (records[2], files[3]["drawn"])):
        record.write_text(json.dumps({"text": "x", "files": {"drawn": file}, "notes": []}))
    assert values(measured(assembly, path, out, limit=5)) == values(first)
    assert sum(calls) == 8, "what is not whole, or names a file that is not its own, is made again"
    measured(assembly, path, out, limit=5, seed=1)
    assert sum(calls) == 13, "from another seed all is made anew"


def test_the_condition_error_is_that_of_the_objective(assembly: Assembly, tmp_path: Path) -> None:
    rows = painted(tmp_path)
    found = values(measured(assembly, written(tmp_path, rows), tmp_path / "out", batch=3))
    model = assembly.model
    processor = replace(assembly.processor, media=frozenset({"found"}))
    model.objectives = {"found": ["l2", "cosine"], "drawn": []}
    for r in rows:
        item = Image(tmp_path / r["image"], r["caption"])
        sample = Sample((Turn("user", (r["caption"],)), Turn("assistant", (item,))))
        with torch.no_grad():
            losses = model(processor.collate([[processor(sample)]]))
        for kind in ("l2", "cosine"):
            assert found[f"{r['id']}/found"][f"condition {kind}"] == pytest.approx(
                float(losses.total[f"found.{kind}"]), abs=1e-4
            )
    model.objectives = {}


def test_a_condition_is_compared_with_the_goal_of_another_caption(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assembly = eager(assemble(system(outputs={"drawn": BOTH["drawn"]})))
    decoder = assembly.model.ways_out["drawn"].decoder
    shape = decoder.condition

    def goal(captions: Sequence[str], units: Any) -> Condition:
        rows = [torch.full((shape.length, shape.width), float(len(c))) for c in captions]
        return Condition(torch.stack(rows))

    path = written(tmp_path, painted(tmp_path, range(4)))
    without = measured(assembly, path, tmp_path / "none")
    assert any(n.startswith("condition error of drawn: none; PixelDiffusion has no encoding") for n in without.notes)
    monkeypatch.setattr(decoder, "goal", goal)
    found = measured(assembly, path, tmp_path / "out")
    own, other = values(found), controls(found)
    processor = assembly.processor
    used = set()
    for i in range(4):
        sample = Sample((Turn("user", (WORDS[i],)), Turn("assistant", (Image(tmp_path / f"{i}.png", WORDS[i]),))))
        with torch.no_grad():
            condition = assembly.model.conditions(processor.collate([[processor(sample)]]))["drawn"].values[0]
        far = [float((condition - len(w)).norm(dim=-1).mean()) for w in WORDS[:4]]
        assert own[f"r{i}"]["condition l2"] == pytest.approx(far[i], rel=1e-4)
        (k,) = [k for k in range(4) if other[f"r{i}"]["condition l2"] == pytest.approx(far[k], rel=1e-6)]
        assert k != i
        used.add(k)
    assert used == {0, 1, 2, 3}, "each is the wrong one once"


def test_clipscore_is_that_of_a_few_lines(tiny_clip: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, CLIPModel

    rows = painted(tmp_path)
    clip = extracting.Clip(str(tiny_clip), torch.device("cpu"))
    items = [Image(tmp_path / r["image"]) for r in rows]
    seen, said = clip.pictures(items, 3), clip.texts(WORDS, 3)
    model, tokenizer = CLIPModel.from_pretrained(tiny_clip), AutoTokenizer.from_pretrained(tiny_clip)
    with torch.no_grad():
        for i, item in enumerate(items):
            ids = tokenizer(
                "A photo depicts " + WORDS[i], return_tensors="pt", truncation=True, max_length=28
            ).input_ids
            both = model(input_ids=ids, pixel_values=clip.transform(item))
            cosine = float(both.image_embeds[0] @ both.text_embeds[0])
            assert clipscore.score(seen, said)[i] == pytest.approx(2.5 * max(cosine, 0), abs=1e-5)
    assert clipscore.score(np.array([[1.0, 0], [1, 0], [0, 0]]), np.array([[2.0, 0], [-1, 0], [1, 1]])).tolist() == [
        2.5,
        0,
        0,
    ]


def test_clipscore_stands_beside_that_of_the_wrong_pair(assembly: Assembly, tiny_clip: Path, tmp_path: Path) -> None:
    found = measured(assembly, written(tmp_path, painted(tmp_path)), tmp_path / "out", clip=str(tiny_clip))
    clip = extracting.Clip(str(tiny_clip), torch.device("cpu"))
    own, other = values(found), controls(found)
    texts = clip.texts(WORDS, 8)
    for i in range(8):
        for name, picture in (("", tmp_path / "out" / found.said[i]["item"]), (", true items", tmp_path / f"{i}.png")):
            row = clip.pictures([Image(picture)], 1)
            scores = [float(clipscore.score(row, texts[k : k + 1])[0]) for k in range(8)]
            assert own[f"r{i}/drawn"][f"CLIPScore{name}"] == pytest.approx(scores[i], abs=1e-5)
            wrong = [s for k, s in enumerate(scores) if WORDS[k] != WORDS[i]]
            assert min(abs(other[f"r{i}/drawn"][f"CLIPScore{name}"] - s) for s in wrong) < 1e-5
    assert "captions are longer than" in " ".join(found.notes)


def test_the_frechet_distance_is_that_of_the_features(assembly: Assembly, tiny_clip: Path, tmp_path: Path) -> None:
    path = written(tmp_path, painted(tmp_path))
    result = resulting(assembly, path, tmp_path / "out", extractor=f"clip:{tiny_clip}")
    lines = [json.loads(s) for s in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    made = [tmp_path / "out" / r["item"] for r in lines if r["output"] == "drawn"]
    eyes = extracting.extractor(f"clip:{tiny_clip}", torch.device("cpu"))
    one, two = (
        eyes.features([Image(p) for p in files], 3) for files in (made, [tmp_path / f"{i}.png" for i in range(8)])
    )
    assert one.shape == (8, 12)
    means, (s1, s2) = one.mean(0) - two.mean(0), (np.cov(x, rowvar=False) for x in (one, two))
    root = np.sqrt(np.linalg.eigvals(s1 @ s2).astype(complex)).real.sum()  # the trace of the root of the product
    expected = means @ means + np.trace(s1) + np.trace(s2) - 2 * root
    rows = {(r.metric, r.group): r for r in result.rows}
    row = rows["Frechet distance (not reliable)", "output: drawn"]
    assert row.score.value == pytest.approx(expected, abs=1e-3) and row.score.low is None and row.control is None
    assert ("Frechet distance (not reliable)", "all") not in rows, "of two streams together it means nothing"
    assert frechet.version(eyes.name) in result.metric and eyes.name.startswith(f"clip:{tiny_clip.name},pooled=True,")
    assert "8 items made, 8 true, of 12 numbers each; that is too few" in " ".join(result.notes)


def test_errors_of_vectors_of_several_widths_have_no_mean(tmp_path: Path) -> None:
    other = {**FIND, "decoder": {**FIND["decoder"], "width": 4}}  # type: ignore[dict-item]
    assembly = eager(assemble(system(outputs={**BOTH, "other": other})))
    result = resulting(assembly, written(tmp_path, painted(tmp_path)), tmp_path / "out")
    mine = {r.group for r in result.rows if r.metric == "condition l2" and not r.group.startswith("category")}
    assert mine == {"output: found", "output: other"}
    assert not [r for r in result.rows if r.metric == "condition l2" and r.group.startswith("category")]
    assert {r.group for r in result.rows if r.metric == "answered"} >= {"all", "output: drawn", "category: x"}


def test_a_frechet_distance_of_enough_is_not_marked(assembly: Assembly, tiny_clip: Path, tmp_path: Path) -> None:
    rows = painted(tmp_path)
    task = GenerationTask(written(tmp_path, rows), tokens=6, extractor=f"clip:{tiny_clip}")
    task.home = tmp_path / "out"
    found = task.measure(assembly, batch=8, limit=None, seed=0, progress=lambda *_: None)
    random = np.random.default_rng(0)
    mine, true = ({k: random.normal(size=3) for k in of} for of in task.features["drawn"])
    task.features["drawn"] = (mine, true)
    ((name, (estimate, control)),) = task.beside(found, range(8), 0).items()
    expected = frechet.distance(*(frechet.of_features(np.stack(list(x.values()))) for x in (mine, true)))
    assert name == "Frechet distance" and control is None and estimate.value == pytest.approx(expected)
    assert task.beside(found, [0], 0) == {}


def test_a_rule_can_judge(assembly: Assembly, tmp_path: Path) -> None:
    path = written(tmp_path, painted(tmp_path))
    found = measured(assembly, path, tmp_path / "out", judge=f"{__name__}:Brightness")
    own, other = values(found), controls(found)
    light = [float(np.asarray(Pillow.open(tmp_path / f"{i}.png")).mean()) / 255 for i in range(8)]
    for i in range(8):
        mine, wrong = own[f"r{i}/drawn"], other[f"r{i}/drawn"]
        asked = float(WORDS[i] != "a fish")
        assert mine["agreement, true items"] == pytest.approx(light[i] * asked) and mine["agreement n"] == asked
        made = np.asarray(Pillow.open(tmp_path / "out" / found.said[i]["item"])).mean() / 255
        assert mine["agreement"] == pytest.approx(made * asked)
        if asked:
            others = [light[k] for k in range(8) if WORDS[k] != WORDS[i]]
            assert min(abs(wrong["agreement, true items"] - x) for x in others) < 1e-9
            assert found.said[i]["judge"] == WORDS[i][:1]


def test_a_run_judges_by_questions_and_by_captions(
    assembly: Assembly, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = painted(tmp_path, range(4))
    rows[0] |= {"question": "Which colour?", "answers": ["red"]}
    judge = judging(tmp_path)
    from mmlm.evaluation import judging as room

    heard: list[str] = []

    def reply(_: Assembly, samples: Sequence[Sample], __: Any) -> list[Any]:
        heard.extend(s.turns[0].text for s in samples)
        said = {"Which": "Red.", "What ": "dogs and cats"}
        return [type("Said", (), {"text": said[s.turns[0].text.strip()[:5]]}) for s in samples]

    monkeypatch.setattr(room, "reply", reply)
    found = measured(assembly, written(tmp_path, rows), tmp_path / "out", judge=str(judge), clip=None)
    own = values(found)
    assert own["r0/drawn"]["agreement"] == 1.0, "by the answers of its record"
    assert own["r1/drawn"]["agreement"] == 0.5 and own["r3/drawn"]["agreement"] == 0.0, "blue and cat; fish"
    assert set(heard) == {"\nWhich colour?", "\nWhat is in the picture?"} and found.said[0]["judge"] == "Red."


def test_a_request_without_an_item_does_not_agree(tmp_path: Path) -> None:
    assembly = assemble(system())
    never = assembly.processor.outputs["drawn"].ids[0]
    plain = assembly.model.backbone.logits

    def logits(states: torch.Tensor) -> torch.Tensor:
        found = plain(states).clone()
        found[:, never] = -1e9
        return found

    assembly.model.backbone.logits = logits  # type: ignore[method-assign]
    result = resulting(assembly, written(tmp_path, painted(tmp_path)), tmp_path / "out", judge=f"{__name__}:Brightness")
    rows = {(r.metric, r.group): r for r in result.rows}
    assert rows["answered", "all"].score.value == 0 and rows["answered", "all"].control is None
    assert rows["agreement", "all"].score.value == 0 and rows["agreement", "all"].unparsed == 1
    assert rows["agreement, true items", "all"].score.value > 0.3
    assert result.sheet is not None and result.sheet.is_file()


def test_turns_of_a_conversation_are_requests(assembly: Assembly, tmp_path: Path) -> None:
    painted(tmp_path)
    say = [{"type": "text", "text": "here: "}, {"type": "image", "path": "1.png", "caption": "a blue cat"}]
    say += [{"type": "image", "path": "2.png"}]
    talk = [
        {"role": "user", "content": "a dog"},
        {"role": "assistant", "content": [{"type": "image", "path": "0.png"}]},
        {"role": "user", "content": "and a cat"},
        {"role": "assistant", "content": say},
    ]
    path = written(tmp_path, [{"id": "a", "messages": talk}, {"id": "b", "messages": talk[2:]}])
    found = measured(assembly, path, tmp_path / "out", reader="messages")
    drawn = [q for q in found.questions if q.meta["output"] == "drawn"]
    assert [(q.id, q.references) for q in drawn] == [
        ("c#0/a/0/drawn", ("a dog",)),
        ("c#0/a/1/drawn", ("a blue cat",)),
        ("c#1/b/drawn", ("a blue cat",)),
    ]
    own = values(found)
    assert own["c#0/a/1/found"]["condition l2"] != own["c#1/b/found"]["condition l2"], "what came before plays a part"
    whole = Messages(path)[0]
    decoder = assembly.model.ways_out["found"].decoder
    with torch.no_grad():
        runs = assembly.model.conditions(assembly.processor.collate([[assembly.processor(whole)]]))["found"].values
        goals = decoder.goal([""] * 3, decoder.eyes(torch.cat([decoder.transform(i) for i in whole.items]))).values
    for id, k in (("c#0/a/0/found", 0), ("c#0/a/1/found", 1)):
        far = float((runs[k] - goals[k]).norm(dim=-1).mean())
        assert own[id]["condition l2"] == pytest.approx(far, abs=1e-4), "of several items of a turn the first counts"
    coco = {"images": [{"id": 1, "file_name": "2.png"}], "annotations": [{"id": 4, "image_id": 1, "caption": "a bird"}]}
    (tmp_path / "coco.json").write_text(json.dumps(coco), encoding="utf-8")
    said = "{reader: captions, says: item, prompt: 'draw {caption}'}"
    found = measured(assembly, tmp_path / "coco.json", tmp_path / "more", reader=said)
    assert [q.sample.turns[-1].text for q in found.questions] == ["draw a bird"] * 2


def test_what_cannot_be_read_counts_as_wrong_and_is_named(assembly: Assembly, tmp_path: Path) -> None:
    path = written(tmp_path, painted(tmp_path, bad=[3]))
    result = resulting(assembly, path, tmp_path / "out", judge=f"{__name__}:Brightness")
    assert sorted(f["id"] for f in result.failures) == ["r3/drawn", "r3/found"]
    assert all("3.png" in f["reason"] for f in result.failures)
    assert next(r for r in result.rows if r.metric == "answered").score.value == 14 / 16
    only = written(tmp_path, painted(tmp_path, [3], bad=[3]), "only.jsonl")
    with pytest.raises(InputError, match=r"none of 1 requests could be put; .*3\.png"):
        measured(assembly, only, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"extractor": "clop:openai/clip-vit-base-patch32"}, "there is no encoder named 'clop'; did you mean 'clip'"),
        ({"extractor": "clip"}, "extractor=clip: expected an encoder with its weights"),
        ({"extractor": "{type: clip, weights: nowhere/here, pool: true}"}, "clip has no option 'pool'"),
        ({"extractor": "frames:openai/clip-vit-base-patch32"}, "does not look at items by itself"),
        ({"extractor": "{type: clip"}, "not YAML"),
        ({"judge": "nowhere"}, "judge=nowhere: nowhere is not a run"),
        ({"judge": "mmlm.sample:Image"}, "Image is no Judge"),
        ({"judge": "nowhere:Rule"}, "cannot be imported"),
        ({"judge": "mmlm.evaluation.judging:Judge"}, "expected a class that is built without arguments"),
        ({"shown": -1}, "shown=-1: expected how many requests"),
        ({"clip": "no/such-clip"}, "no/such-clip"),
    ],
)
def test_other_models_that_are_not_there_are_told(
    option: dict[str, str], message: str, assembly: Assembly, tmp_path: Path
) -> None:
    path = written(tmp_path, painted(tmp_path))
    with pytest.raises(InputError, match=message):
        measured(assembly, path, tmp_path / "out", **option)
    assert not (tmp_path / "out").exists(), "nothing is made before all is known to be there"


def test_a_clip_without_a_text_tower_is_told(assembly: Assembly, tmp_path: Path, tiny_clip: Path) -> None:
    from pipelines import _VISION
    from transformers import CLIPVisionConfig, CLIPVisionModel

    CLIPVisionModel(CLIPVisionConfig(**_VISION)).save_pretrained(tmp_path / "eyes")
    path = written(tmp_path, painted(tmp_path))
    with pytest.raises(InputError, match="of 'clip_vision_model'; expected a CLIP of transformers with both towers"):
        measured(assembly, path, tmp_path / "out", clip=str(tmp_path / "eyes"))
    (tmp_path / "eyes" / "config.json").write_bytes((tiny_clip / "config.json").read_bytes())
    with pytest.raises(
        InputError, match=r"tensors missing for CLIPModel: .*; expected a CLIP of transformers with both"
    ):
        measured(assembly, path, tmp_path / "out", clip=str(tmp_path / "eyes"))


def test_a_judge_that_sees_nothing_is_told(assembly: Assembly, tmp_path: Path) -> None:
    path = written(tmp_path, painted(tmp_path))
    coco = tmp_path / "coco.json"
    row = {"images": [{"id": 1, "file_name": "2.png"}], "annotations": [{"id": 4, "image_id": 1, "caption": "a bird"}]}
    coco.write_text(json.dumps(row), encoding="utf-8")
    (tmp_path / "t.yaml").write_text(dump(system(coco)), encoding="utf-8")
    assert cli.main(["train", str(tmp_path / "t.yaml"), "--out", str(tmp_path / "blind")]) == 0
    with pytest.raises(InputError, match="expected a run that takes image items in, and this one takes text alone"):
        measured(assembly, path, tmp_path / "out", judge=str(tmp_path / "blind"))


def test_a_system_that_makes_nothing_is_told(tmp_path: Path) -> None:
    path = written(tmp_path, painted(tmp_path))
    with pytest.raises(InputError, match="holds image items, and the system 't' says text alone; evaluate a run"):
        measured(assemble(system(outputs={})), path, tmp_path / "out")


def test_data_without_items_are_told(tmp_path: Path) -> None:
    painted(tmp_path)
    rows = [{"image": "0.png", "question": "what?", "answer": "a dog"}]
    with pytest.raises(InputError, match="holds no item that is asked for; expected captions of pictures, or"):
        GenerationTask(written(tmp_path, rows), reader="qa")


def test_a_whole_run(tmp_path: Path, tiny_clip: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = painted(tmp_path)
    coco = {
        "images": [{"id": r["id"], "file_name": r["image"]} for r in rows],
        "annotations": [{"id": r["id"], "image_id": r["id"], "caption": r["caption"]} for r in rows],
    }
    data = tmp_path / "coco.json"
    data.write_text(json.dumps(coco), encoding="utf-8")
    (tmp_path / "t.yaml").write_text(dump(system(data)), encoding="utf-8")
    assert cli.main(["train", str(tmp_path / "t.yaml"), "--out", str(tmp_path / "run")]) == 0
    arguments = ["eval", str(tmp_path / "run"), "--task", "generation", "--data", str(data)]
    options = ["--set", f"clip={tiny_clip}", f"judge={judging(tmp_path)}", f"extractor=clip:{tiny_clip}", "tokens=8"]
    assert cli.main([*arguments, *options, "--json"]) == 0
    told = json.loads(capsys.readouterr().out.rpartition("\n}")[0].partition("{")[2].join(["{", "}"]))
    rows_found = {(r["group"], r["metric"]): r for r in told["rows"]}
    assert rows_found["all", "answered"]["n"] == 16 and rows_found["all", "condition l2"]["control"] is not None
    assert "agreement/j," in told["metric"] and "clipscore/" in told["metric"] and "frechet/clip:" in told["metric"]
    home = tmp_path / "run" / "evaluations" / "generation-coco"
    assert (home / "sheet.png").is_file() and len((home / "predictions.jsonl").read_text().splitlines()) == 16
    assert cli.main([*arguments, *options, "--out", str(tmp_path / "again"), "--batch", "3"]) == 0
    assert cli.main(["compare", str(home), str(tmp_path / "again")]) == 0
    assert "condition l2" in capsys.readouterr().out
    result = Result("generation", "m", {"data": {"files": ["coco.json"]}}, [], sheet=home / "sheet.png")
    page = report.write(tmp_path / "run", {"generation": result}).read_text(encoding="utf-8")
    assert "href='evaluations/generation-coco/sheet.png'><img alt='' src='data:image/jpeg" in page
    assert cli.main([*arguments, "--set", "extracter=clip:x"]) == 2
    assert "did you mean 'extractor'" in capsys.readouterr().err
