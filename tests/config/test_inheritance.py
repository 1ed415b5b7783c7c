"""`base:` and the names of shipped configs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from mmlm.config import load, shipped
from mmlm.config.inheritance import find
from mmlm.errors import InputError

Write = Callable[[str, str], Path]

PARENT = """
name: parent
inputs:
  image:
    encoder: {type: clip, weights: w, layer: -3, fit: pad}
    aligner: {type: mlp, depth: 2}
  video:
    encoder: {type: frames, frames: 4, encoder: {type: clip, weights: w}}
    aligner: {type: linear}
backbone: {type: causal, weights: w, grafts: {lora: {type: lora, rank: 4}}, add_tokens: [<a>, <b>]}
stages:
  - {name: align, data: [{reader: llava, path: p}], train: {backbone: {lr: 1}}, batch: 8, clip: 0.5}
seed: 7
"""


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a config into a folder of its own."""

    def put(name: str, text: str) -> Path:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
        return tmp_path / name

    put("parent.yaml", PARENT)
    return put


def test_mappings_merge_and_the_rest_replaces(write: Write) -> None:
    child = write(
        "child.yaml",
        "base: parent.yaml\nname: child\n"
        "inputs: {image: {encoder: {layer: -1}, before: hello}}\n"
        "backbone: {add_tokens: [<c>]}\n",
    )
    config = load(child)
    encoder = config.inputs["image"].encoder
    assert not isinstance(encoder, str)
    assert encoder.options == {"layer": -1, "fit": "pad"}
    assert config.inputs["image"].before == "hello"
    assert list(config.inputs) == ["image", "video"]
    assert config.backbone.add_tokens == ["<c>"]
    assert config.name == "child"
    assert config.seed == 7


def test_null_takes_an_inherited_key_away(write: Write) -> None:
    child = write(
        "child.yaml",
        "base: parent.yaml\nseed: null\n"
        "inputs: {video: null, image: {encoder: {fit: null}}}\n"
        "backbone: {grafts: {lora: {rank: null}}}\n",
    )
    config = load(child)
    assert config.seed == 0
    assert list(config.inputs) == ["image"]
    assert config.inputs["image"].encoder.options == {"layer": -3}  # type: ignore[union-attr]
    assert config.backbone.grafts["lora"].options == {}
    assert load(write("c2.yaml", "base: parent.yaml\nbackbone: {grafts: null}")).backbone.grafts == {}


def test_null_stays_where_the_field_may_be_null(write: Write) -> None:
    parent = write("p.yaml", PARENT.replace("depth: 2", "depth: 2, pool: 2") + "system: Be brief.\n")
    config = load(write("c.yaml", f"base: {parent.name}\nsystem: null\ninputs: {{image: {{aligner: {{pool: null}}}}}}"))
    assert config.system is None
    assert config.inputs["image"].aligner.options == {"depth": 2, "pool": None}
    assert load(parent, ["stages.align.clip=null"]).stages[0].clip is None


def test_null_that_inherits_nothing_is_a_mistake(write: Write) -> None:
    with pytest.raises(InputError) as e:
        load(write("child.yaml", PARENT.replace("seed: 7", "seed: null")))
    assert str(e.value).endswith("seed: expected an integer, got null")


def test_a_required_key_taken_away_is_missed(write: Write) -> None:
    with pytest.raises(InputError, match=r"backbone\.type: expected this key, got nothing"):
        load(write("child.yaml", "base: parent.yaml\nbackbone: {type: null}"))


def test_bases_have_bases_beside_them(write: Write) -> None:
    write("deep/middle.yaml", "base: ../parent.yaml\nname: middle\nseed: 8\n")
    assert load(write("top.yaml", "base: deep/middle.yaml\nname: top\n")).seed == 8


def test_mistakes_are_told_where_they_stand(write: Write) -> None:
    write("parent.yaml", PARENT.replace("layer: -3", "layer: x"))
    with pytest.raises(InputError) as e:
        load(write("child.yaml", "base: parent.yaml\nname: child\nsed: 3\n"))
    folder = write("x", "").parent
    assert str(e.value).splitlines() == [
        f"{folder}/child.yaml:3: sed: expected a key of this block, got the unknown key `sed`; did you mean `seed`?",
        f"{folder}/parent.yaml:5: inputs.image.encoder.layer: expected an integer, got 'x' (a string)",
    ]


def test_an_inherited_option_of_another_part_says_how_to_drop_it(write: Write) -> None:
    with pytest.raises(InputError) as e:
        load(write("child.yaml", "base: parent.yaml\ninputs: {image: {aligner: {type: linear}}}"))
    assert "parent.yaml:6: inputs.image.aligner.depth: expected an option of aligner linear, which has none" in str(
        e.value
    )
    assert "`depth: null` takes it away" in str(e.value)


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"a.yaml": "base: a.yaml"}, "a.yaml -> a.yaml"),
        (
            {"a.yaml": "base: b.yaml", "b.yaml": "base: c.yaml", "c.yaml": "base: ./a.yaml"},
            "a.yaml -> b.yaml -> c.yaml -> a.yaml",
        ),
        ({"a.yaml": "name: x\nbase: nowhere.yaml"}, "a.yaml:2: base: expected a config file"),
        ({"a.yaml": "base: [x]"}, "a.yaml:1: base: expected a file or a shipped config, got a list of 1"),
    ],
)
def test_bases_that_lead_nowhere(write: Write, files: dict[str, str], told: str) -> None:
    for name, text in files.items():
        write(name, text)
    with pytest.raises(InputError) as e:
        load(write("a.yaml", files["a.yaml"]))
    assert told in str(e.value)


def test_an_endless_chain_of_bases_ends(write: Write) -> None:
    for i in range(40):
        write(f"{i}.yaml", f"base: {i + 1}.yaml")
    with pytest.raises(InputError, match="expected bases that end"):
        load(write("0.yaml", "base: 1.yaml"))


def test_shipped_configs_have_names(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    known = {n: Path(f"/somewhere/systems/{n}.yaml") for n in ("llava-1.5-7b", "blip2")}
    monkeypatch.setattr("mmlm.config.inheritance.shipped", lambda: known)
    assert find("llava-1.5-7b") == known["llava-1.5-7b"]
    assert find("llava-1.5-7b.yaml") == known["llava-1.5-7b"]
    assert find("systems/blip2") == known["blip2"]
    with pytest.raises(InputError, match=r"which does not exist; did you mean `llava-1\.5-7b`\?"):
        find("llava-1.5-7")
    with pytest.raises(InputError, match="which is a folder"):
        find(write("x.yaml", "").parent)


def test_a_base_may_be_a_shipped_config(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    parent = write("elsewhere/shipped.yaml", PARENT)
    monkeypatch.setattr("mmlm.config.inheritance.shipped", lambda: {"shipped": parent})
    assert load(write("child.yaml", "base: shipped\nname: child")).seed == 7


def test_the_project_ships_configs() -> None:
    assert all(path.is_file() and path.suffix == ".yaml" for path in shipped().values())
