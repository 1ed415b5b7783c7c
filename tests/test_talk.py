"""Talking to a run that finds pictures: what it may find comes from a folder or from captions."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Pillow

from mmlm import cli, talk
from mmlm.assemble import Assembly
from mmlm.config import dump, parse
from mmlm.training.run import load_run

FOUND = {
    "modality": "image",
    "aligner": {"type": "linear"},
    "decoder": {
        "type": "retrieval",
        "width": 6,
        "encoder": {"type": "clip", "weights": "openai/clip-vit-base-patch32"},
    },
}
DRAWN = {"modality": "image", "aligner": {"type": "queries"}, "decoder": {"type": "pixel_diffusion"}}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures with captions, and two runs of which one finds and one draws."""
    home = tmp_path_factory.mktemp("talk")
    (home / "pictures" / "inner").mkdir(parents=True)
    images, annotations = [], []
    for i in range(3):
        values = np.random.default_rng(i).integers(0, 256, (9, 9, 3), dtype=np.uint8)
        name = f"inner/{i}.PNG" if i == 2 else f"{i}.png"
        Pillow.fromarray(values).save(home / "pictures" / name)
        images.append({"id": i, "file_name": f"pictures/{name}"})
        annotations.append({"id": i, "image_id": i, "caption": f"thing {i}"})
    (home / "pictures" / "notes.txt").write_text("no picture")
    (home / "empty").mkdir()
    (home / "broken").mkdir()
    (home / "broken" / "broken.png").write_bytes(b"no picture")
    for name in ("lost", "broken"):
        table = {"images": [images[0], {"id": 9, "file_name": f"{name}/{name}.png"}], "annotations": []}
        (home / f"{name}.json").write_text(json.dumps(table))
    (home / "other.json").write_text(json.dumps({"pictures": images}))
    (home / "none.json").write_text(json.dumps({"images": [], "annotations": []}))
    (home / "captions.json").write_text(json.dumps({"images": images, "annotations": annotations[:2]}))
    for name, way, part in (("finds", FOUND, "decoder.project"), ("draws", DRAWN, "aligner")):
        stage = {
            "name": "a",
            "data": [{"reader": "captions", "path": str(home / "captions.json"), "says": "item"}],
            "train": {f"outputs.out.{part}": {"lr": 1e-3}, "backbone.added": {"lr": 1e-3}},
            "objectives": {"out.contrast" if name == "finds" else "out.denoise": 1.0},
            "batch": 2,
            "steps": 1,
        }
        llm = {"type": "causal", "weights": "HuggingFaceTB/SmolLM2-135M-Instruct"}
        head = {"name": name, "scale": "tiny", "length": 128, "backbone": llm, "outputs": {"out": way}}
        (home / f"{name}.yaml").write_text(dump(parse({**head, "stages": [stage]})), encoding="utf-8")
        assert cli.main(["train", str(home / f"{name}.yaml"), "--out", str(home / name)]) == 0
    return home


def speaking(assembly: Assembly) -> Assembly:
    """The assembly, which asks for a picture at once."""
    first = assembly.processor.outputs["out"].ids[0]
    backbone, plain = assembly.model.backbone, assembly.model.backbone.logits

    def logits(states):  # type: ignore[no-untyped-def]
        found = plain(states).clone()
        found[:, first] = 1e4
        return found

    backbone.logits = logits  # type: ignore[method-assign]
    return assembly


@pytest.mark.parametrize("index", ["pictures", "captions.json"])
def test_what_is_found_is_named_or_kept(
    index: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talk, "load_run", lambda run: speaking(load_run(run)))
    said = talk.once(home / "finds", "a thing", [], 6, 0.0, 1.0, index=home / index)
    (line, *_) = [s for s in said.splitlines() if s.startswith("[image: ")]
    found = Path(line[len("[image: ") : -1])
    assert found.is_file() and found.is_relative_to(home / "pictures") and "not kept" not in said
    kept = talk.once(home / "finds", "a thing", [], 6, 0.0, 1.0, keep=tmp_path, index=home / index)
    assert str(tmp_path / "000.png") in kept
    assert np.array_equal(np.asarray(Pillow.open(tmp_path / "000.png")), np.asarray(Pillow.open(found)))


def test_a_reply_of_no_named_length_fits_its_context_and_holds_as_many_items_as_asked(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(talk, "load_run", lambda run: speaking(load_run(run)))
    lines = talk.once(home / "draws", "a thing", [], None, 0.0, 1.0, most=2, keep=tmp_path).splitlines()
    assert [line.startswith("[image: ") for line in lines[:2]] == [True, True] and len(list(tmp_path.iterdir())) == 2
    assert "the reply asked for more items than the 2 that it may hold" in lines[-1]


def test_without_an_index_nothing_is_found(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(talk, "load_run", lambda run: speaking(load_run(run)))
    assert "there is nothing to be found; name a folder of items (--index)" in talk.once(
        home / "finds", "a thing", [], 6, 0.0, 1.0
    )


@pytest.mark.parametrize(
    ("run", "index", "message"),
    [
        ("finds", "nowhere", "there is no such file or folder; expected a folder of items, or COCO captions"),
        ("finds", "finds/vocabulary", "captions; it holds no image, which the output 'out' is to find"),
        ("finds", "empty", "it holds no image, which"),
        ("finds", "finds.yaml", "finds.yaml"),
        ("finds", "pictures/0.png", "0.png"),
        ("finds", "other.json", "other.json: expected the lists 'images' and"),
        ("finds", "none.json", "none.json: the list 'images' is empty"),
        ("finds", "lost.json", "lost.json: expected a folder of items, or COCO captions; /"),
        ("finds", "broken.json", "broken.png"),
        ("finds", "broken", "broken.png"),
        ("draws", "pictures", "finds items (a decoder retrieval would); it says out"),
    ],
)
@pytest.mark.parametrize("command", ["reply", "chat"])
def test_an_index_that_does_not_fit_is_one_message(
    command: str, run: str, index: str, message: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        command,
        str(home / run),
        "--index",
        str(home / index),
        *(["--text", "a"] if command == "reply" else []),
    ]
    assert cli.main(arguments) == 2
    shown = capsys.readouterr()
    said = shown.err.replace("attention on cpu: sdpa (flash needs CUDA, not cpu)\n", "")
    assert message in said and said.count("\n") == 1 and "Traceback" not in shown.out
