"""A config written and read again."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmlm.config import dump, load, parse, tree
from mmlm.config.reading import plain, read_text

easy = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


def again(text: str) -> Any:
    """What a written config says."""
    problems: list[Any] = []
    found = plain(read_text(text, "written.yaml", problems))
    assert problems == []
    return found


def test_a_written_config_is_the_same_config(typical: Path, tmp_path: Path) -> None:
    config = load(typical)
    file = tmp_path / "config.yaml"
    file.write_text(dump(config), encoding="utf-8")
    assert load(file) == config
    assert dump(load(file)) == dump(config)


def test_weights_beside_the_file_stay_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`./` means the folder of the file that says it, wherever the program was started, also through `base`."""
    home, other = tmp_path / "run", tmp_path / "other"
    for folder in (home, other):
        folder.mkdir()
    text = "name: x\nbackbone: {type: causal, weights: ./parts/backbone}\n"
    (home / "config.yaml").write_text(text, encoding="utf-8")
    (other / "config.yaml").write_text("base: ../run/config.yaml\nname: y\n", encoding="utf-8")
    there = str(home / "parts" / "backbone")
    monkeypatch.chdir(tmp_path)
    for name in (
        home / "config.yaml",
        Path("run/config.yaml"),
        Path("other/../run/config.yaml"),
        other / "config.yaml",
    ):
        assert load(name).backbone.weights == there
    config = load(home / "config.yaml")
    assert "weights: ./parts/backbone" in dump(config, home) and "weights: ./parts/backbone" in dump(
        config, Path("run")
    )
    assert f"weights: {there}" in dump(config) and f"weights: {there}" in dump(config, other)
    assert load(home / "config.yaml", ["backbone.weights=./here"]).backbone.weights == "./here"
    home.rename(tmp_path / "moved")
    assert load(Path("moved/config.yaml")).backbone.weights == str(tmp_path / "moved" / "parts" / "backbone")


def test_every_default_is_written(typical: Path) -> None:
    written = again(dump(load(typical)))
    assert written["stages"][0]["warmup"] == 0.03
    assert written["stages"][0]["epochs"] == 1.0
    assert written["inputs"]["image"]["modality"] == "image"
    assert written["seed"] == 0
    assert "epochs" not in written["stages"][1]  # it has steps
    assert written["stages"][1]["clip"] is None  # which is not the default
    assert "options" not in written["inputs"]["image"]["encoder"]


def test_options_that_are_null_are_kept() -> None:
    data = {
        "name": "x",
        "inputs": {
            "image": {"encoder": {"type": "clip", "weights": "w", "resolution": None}, "aligner": {"type": "linear"}}
        },
        "backbone": {"type": "causal", "weights": "w"},
    }
    config = parse(data)
    assert parse(again(dump(config))) == config
    assert again(dump(config))["inputs"]["image"]["encoder"]["resolution"] is None


@easy
@given(
    st.fixed_dictionaries(
        {
            "name": st.text(min_size=1),
            "about": st.text(),
            "system": st.none() | st.text(),
            "seed": st.integers(0, 2**32 - 1),
            "length": st.integers(1, 10**6),
            "rate": st.floats(min_value=1e-12, max_value=1e12),
            "warmup": st.floats(0, 1),
            "prompt": st.text(),
            "path": st.text(min_size=1),
            "tokens": st.lists(st.text(min_size=1)),
        }
    )
)
def test_any_config_is_written_so_that_it_is_read_back(v: dict[str, Any]) -> None:
    config = parse(
        {k: v[k] for k in ("name", "about", "system", "seed", "length")}
        | {
            "backbone": {"type": "causal", "weights": "w", "add_tokens": v["tokens"]},
            "stages": [
                {
                    "name": "one",
                    "data": [{"reader": "captions", "path": v["path"], "prompt": v["prompt"], "ratio": v["rate"]}],
                    "train": {"backbone": {"lr": v["rate"]}},
                    "batch": 2,
                    "warmup": v["warmup"],
                }
            ],
        }
    )
    assert parse(again(dump(config))) == config
    assert parse(tree(config)) == config
