"""The set of stamps: made from a small package here, and compared with the prepared set where both are at hand."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageChops
import PIL.ImageStat
import pytest

from mmlm.data import stamps as make
from mmlm.data.forms import SPLITS, split_of
from mmlm.errors import InputError
from mmlm.training.readers.captions import Captions
from mmlm.training.readers.messages import Messages
from mmlm.training.readers.qa import Qa

NAMES = {
    "animals/birds/owl": "An owl.",
    "animals/birds/cartoon/tux": "Tux—the mascot!",
    "animals/mammals/cow": "A brown cow.",
    "food/fruit/apple": "An apple.",
    "vehicles/bus": "A bus.",
}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A folder like the package's, with five captioned stamps and some of what is left out."""
    folder = tmp_path / "source"
    for k, (name, caption) in enumerate(NAMES.items()):
        file = folder / f"{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        PIL.Image.new("RGBA", (300 + 100 * k, 30), (200, 30, 40, 255 * (k % 2))).save(file)
        file.with_suffix(".txt").write_text(f"{caption}\nde.utf8=Etwas.\n", encoding="utf-8")
    (folder / "animals/birds/owl.ogg").write_bytes(b"hoot")
    (folder / "animals/birds/owl_desc.ogg").write_bytes(b"an owl")
    (folder / "animals/birds/owl_desc_fr.ogg").write_bytes(b"un hibou")
    (folder / "animals/birds/owl_mirror.png").write_bytes((folder / "animals/birds/owl.png").read_bytes())
    (folder / "vehicles/car.svg").write_text("<svg/>")
    (folder / "vehicles/car.txt").write_text("A car.\n")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def glance(picture: PIL.Image.Image) -> PIL.Image.Image:
    """The brightness of a picture in 16 x 16 areas."""
    return picture.convert("L").resize((16, 16), PIL.Image.Resampling.BOX)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_pictures_and_sounds(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = make(out, source)
    found = rows(out / "stamps.jsonl")
    assert [r["id"] for r in found] == [name.replace("/", "__") for name in sorted(NAMES)]
    assert found[1] == {
        "id": "animals__birds__owl",
        "image": "images/animals__birds__owl.jpg",
        "caption": "An owl.",
        "category": "animals",
        "path": ["animals", "birds"],
        "style": "photo_or_drawing",
        "speech": "audio/animals__birds__owl.speech.ogg",
        "sound": "audio/animals__birds__owl.sound.ogg",
        "split": split_of("animals__birds__owl"),
    }
    assert found[0]["style"] == "cartoon" and found[0]["path"] == ["animals", "birds"]
    assert (out / found[1]["speech"]).read_bytes() == b"an owl" and (out / found[1]["sound"]).read_bytes() == b"hoot"
    with PIL.Image.open(out / found[1]["image"]) as owl:
        assert owl.size == (256, 26) and owl.mode == "RGB" and min(owl.getpixel((5, 5))) > 250
    assert "1 pictures without a caption, 1 that are drawn as SVG only" in report.table()
    assert "General Public License" in (out / "LICENSE.txt").read_text()


def test_two_runs_are_the_same_bytes(source: Path, tmp_path: Path) -> None:
    make(tmp_path / "one", source)
    make(tmp_path / "two", source)
    make(tmp_path / "two", source)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_readers_read_what_was_made(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out, source)
    found = rows(out / "stamps.jsonl")
    for split in {r["split"] for r in found}:
        mine = [r for r in found if r["split"] == split]
        assert [s.turns[1].text for s in Messages(out / f"{split}.jsonl")] == [r["caption"] for r in mine]
        assert len(Captions(out / f"captions-{split}.json")) == len(Qa(out / f"qa-{split}.jsonl")) == len(mine)
    assert {r["answer"] for s in SPLITS for r in rows(out / f"qa-{s}.jsonl")} == {"animal", "food", "vehicle"}
    spoken = [r for s in SPLITS for r in rows(out / f"speech-{s}.jsonl")]
    assert [(r["audio"], r["answer"]) for r in spoken] == [("audio/animals__birds__owl.speech.ogg", "An owl.")]


def test_questions_of_presence(source: Path, tmp_path: Path) -> None:
    make(tmp_path / "out", source)
    asked = [r for s in SPLITS for r in rows(tmp_path / f"out/pope-{s}.jsonl")]
    captions = {r["id"]: r["caption"] for r in rows(tmp_path / "out/stamps.jsonl")}
    assert len(asked) == 8  # Tux is no "A thing."
    for question in asked:
        thing = question["question"].removeprefix("Is there ").removesuffix(" in the picture?")
        there = captions[question["id"].rpartition("/")[0]].lower() == f"{thing}."
        assert question["answer"] == ("yes" if there else "no")


@pytest.mark.parametrize("inside", ["", "stamps", "usr/share/tuxpaint/stamps"])
def test_the_folder_is_found(source: Path, tmp_path: Path, inside: str) -> None:
    if inside:
        (tmp_path / "package" / inside).parent.mkdir(parents=True)
        source.rename(tmp_path / "package" / inside)
        source = tmp_path / "package"
    assert len(make(tmp_path / "out", source).rows) == 3 and len(rows(tmp_path / "out/stamps.jsonl")) == 5


def test_sources_that_are_none(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="apt-get download tuxpaint-stamps-default"):
        make(tmp_path / "out", tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="expected pictures"):
        make(tmp_path / "out", tmp_path / "empty")
    for text in (b"\n", b"", b"\xff.\n"):
        (source / "vehicles/bus.txt").write_bytes(text)
        with pytest.raises(InputError, match=r"bus.txt:1: expected a caption"):
            make(tmp_path / "out", source)
    (tmp_path / "x.deb").write_bytes(b"not a package")
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(InputError, match="dpkg-deb, which opens"):
        make(tmp_path / "out", tmp_path / "x.deb")


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
def test_a_package_is_opened_and_nothing_else_of_it_kept(source: Path, tmp_path: Path) -> None:
    root = tmp_path / "root"
    shutil.copytree(source, root / "usr/share/tuxpaint/stamps")
    (root / "etc").mkdir()
    (root / "etc/other.png").write_bytes(b"x")
    (root / "DEBIAN").mkdir()
    control = "Package: p\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b.c>\nDescription: d\n"
    (root / "DEBIAN/control").write_text(control)
    package = tmp_path / "p.deb"
    subprocess.run(
        ["dpkg-deb", "--build", "--root-owner-group", str(root), str(package)], check=True, capture_output=True
    )
    make(tmp_path / "one", source)
    make(tmp_path / "two", package)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    package.write_bytes(b"not a package")
    with pytest.raises(InputError, match="expected a Debian package"):
        make(tmp_path / "two", package)


@pytest.mark.slow
def test_the_prepared_set_is_what_the_package_gives(stamps: Path, tmp_path: Path) -> None:
    """The prepared set holds train and val; ids, captions, splits, pictures and sounds are those that we make."""
    packages = sorted(Path("/var/cache/apt/archives").glob("tuxpaint-stamps-default_*.deb"))
    source = next((p for p in (Path("/usr/share/tuxpaint/stamps"), *packages) if p.exists()), None)
    if source is None:
        pytest.skip("the package tuxpaint-stamps-default is neither installed nor downloaded")
    make(tmp_path, source)
    made = rows(tmp_path / "stamps.jsonl")
    assert [r for r in made if r["split"] != "test"] == rows(stamps / "stamps.jsonl")
    assert len(made) == 785
    faint = []
    for row in rows(stamps / "stamps.jsonl"):
        with PIL.Image.open(stamps / row["image"]) as theirs, PIL.Image.open(tmp_path / row["image"]) as ours:
            assert theirs.size == ours.size
            # Pixels of a JPEG differ between encoders and processors (by 12 levels on average where colours are
            # strong); the brightness of a 16 x 16 view does not, by more than 10 of 255, and shows any wrong picture.
            difference = PIL.ImageStat.Stat(PIL.ImageChops.difference(glance(theirs), glance(ours)))
            assert difference.extrema[0][1] < 40, row["id"]
            faint.append(difference.mean[0])
        for key in ("speech", "sound"):
            if key in row:
                assert (stamps / row[key]).read_bytes() == (tmp_path / row[key]).read_bytes()
    assert sum(faint) / len(faint) < 1.5, "the pictures are blurred, moved or of another scale"
