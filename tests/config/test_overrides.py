"""Overrides from the command line."""

import contextlib
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mmlm.config import load, parse, tree
from mmlm.errors import InputError


def value(config: Any, path: str) -> Any:
    """What stands at a path of a config."""
    found = tree(config)
    for step in path.split("."):
        found = found[int(step) if isinstance(found, list) else step]
    return found


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths of everything in a config."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


@pytest.mark.parametrize(
    ("override", "path", "expected"),
    [
        ("seed=3", "seed", 3),
        ("scale=tiny", "scale", "tiny"),
        ("about=no", "about", "no"),
        ("about='1'", "about", "1"),
        ("about=a = b", "about", "a = b"),
        ("stages.0.batch=8", "stages.0.batch", 8),
        ("stages.align.batch=8", "stages.0.batch", 8),
        ("stages.-1.micro_batch=8", "stages.1.micro_batch", 8),
        ("stages.tune.betas.1=0.99", "stages.1.betas", [0.9, 0.99]),
        ("stages.tune.betas=[0.8, 0.9]", "stages.1.betas", [0.8, 0.9]),
        ("stages.tune.clip=1e-1", "stages.1.clip", 0.1),
        ("stages.align.clip=null", "stages.0.clip", None),
        ("inputs.image.encoder.layer=-1", "inputs.image.encoder.layer", -1),
        ("inputs.image.encoder.resolution=448", "inputs.image.encoder.resolution", 448),
        ("inputs.video.encoder.encoder.layer=3", "inputs.video.encoder.encoder.layer", 3),
        ("inputs.image.encoder={type: eva, weights: w}", "inputs.image.encoder", {"type": "eva", "weights": "w"}),
        ("backbone.grafts.more={type: lora}", "backbone.grafts.more", {"type": "lora"}),
        ("backbone.weights=/a/folder", "backbone.weights", "/a/folder"),
        ("stages.0.data.0.path=other.json", "stages.0.data.0.path", "other.json"),
        ("published.note=checked", "published.note", "checked"),
    ],
)
def test_what_overrides_set(typical: Path, override: str, path: str, expected: object) -> None:
    found = value(load(typical, [override]), path)
    assert found == expected
    assert type(found) is type(expected)


def test_part_ids_have_dots_of_their_own(typical: Path) -> None:
    config = load(
        typical,
        [
            "stages.tune.train.inputs.image.aligner.lr=1",
            "stages.tune.train.backbone.lr=2",
            "stages.tune.train.backbone.weight_decay=0",
            "stages.align.train.inputs.video.encoder.lr=3",
            "stages.align.train.backbone.embeddings={lr: 4}",
            "~stages.tune.train.backbone.grafts.gates",
        ],
    )
    align, tune = ({p: t.lr for p, t in s.train.items()} for s in config.stages)
    assert align == {"inputs.image.aligner": 1e-3, "inputs.video.encoder": 3, "backbone.embeddings": 4}
    assert tune == {"inputs.image.aligner": 1, "backbone": 2}
    assert config.stages[1].train["backbone"].weight_decay == 0


def test_overrides_follow_one_another(typical: Path) -> None:
    config = load(
        typical,
        [
            "~stages.0",
            "stages.0.name=only",
            "~published",
            "backbone.grafts={}",
            "~inputs.video",
            "~stages.0.train.backbone.grafts.gates",
        ],
    )
    assert [s.name for s in config.stages] == ["only"]
    assert config.published is None
    assert list(config.inputs) == ["image", "patches"]


def test_a_block_that_is_not_there_is_made(typical: Path) -> None:
    config = load(
        typical,
        [
            "~published",
            "published.source=here",
            "published.tokens.image=5",
            "~backbone.grafts",
            "~inputs.video",
            "~stages.tune.train.backbone.grafts.gates",
        ],
    )
    assert config.published is not None
    assert config.published.tokens == {"image": 5}


def test_deleting_goes_back_to_the_default(typical: Path) -> None:
    assert load(typical, ["~stages.tune.clip"]).stages[1].clip == 1.0
    assert load(typical, ["~stages.tune.betas"]).stages[1].betas == (0.9, 0.999)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("sed=3", "command line: sed: expected a key of this block, got the unknown key `sed`; did you mean `seed`?"),
        ("seed=x", "command line: seed: expected an integer, got 'x' (a string)"),
        ("stages.0.bach=3", "did you mean `batch`?"),
        (
            "stages.algn.batch=3",
            "command line: stages.algn: expected an index or one of align, tune, got 'algn'; did you mean `align`?",
        ),
        ("stages.2.batch=3", "command line: stages.2: expected an index below 2, the length of the list, got 2"),
        ("inputs.image.encoder.laier=1", "did you mean `layer`?"),
        ("inputs.imge.encoder.layer=1", "command line: inputs.imge: there is no `imge` here; did you mean `image`?"),
        ("backbone.grafts.lra.rank=1", "there is no `lra` here; did you mean `lora`?"),
        ("bakbone.weights=x", "did you mean `backbone`?"),
        ("stages.tune.train.inputs.image.alinger.lr=1", "did you mean `inputs.image.aligner`?"),
        (
            "name.first=x",
            "command line: name.first: there is no `first`: name is 'llava-1.5-7b' (a string), which has no keys",
        ),
        ("inputs.patches.encoder.layer=1", "inputs.patches.encoder is 'image' (a string), which has no keys"),
        ("stages.tune.betas.5=1", "command line: stages.1.betas.5: expected an index below 2"),
        ("stages.align.betas.5=1", "expected a list, got a mapping (5)"),
        ("~sed", "command line: sed: there is no `sed` to delete"),
        ("~stages.align.stepz", "there is no `stepz` to delete"),
        ("~stages.tune.stepz", "there is no `stepz` to delete; did you mean `steps`?"),
        ("~inputs.image.encoder.depht.x", "there is no `depht` to delete"),
        ("seed", "command line: expected key.path=value or ~key.path, got 'seed'"),
        ("=3", "expected key.path=value or ~key.path, got '=3'"),
        ("a..b=1", "expected key.path with a word between the dots, got 'a..b'"),
        ("~", "expected key.path with a word between the dots, got ''"),
        ("seed=[1", "expected a YAML value in 'seed=[1'"),
        ("seed=*x", "expected a plain value, got *x"),
        ("seed=1\n---\n2", "expected a YAML value in 'seed=1\\n---\\n2'"),
        ("base=other.yaml", "got the unknown key `base`"),
    ],
)
def test_what_overrides_get_wrong(typical: Path, override: str, told: str) -> None:
    with pytest.raises(InputError) as e:
        load(typical, [override])
    assert told in str(e.value)
    assert "command line" in str(e.value)


def test_all_mistakes_of_overrides_and_file_come_together(typical: Path, tmp_path: Path) -> None:
    file = tmp_path / "c.yaml"
    file.write_text(
        typical.read_text(encoding="utf-8").replace("schedule: linear", "schedule: linaer"), encoding="utf-8"
    )
    with pytest.raises(InputError) as e:
        load(file, ["sed=1", "seed=x", "stages.9.batch=1"])
    lines = str(e.value).splitlines()
    assert len(lines) == 4
    assert lines[0].startswith(f"{file}:") and "`linear`" in lines[0]
    assert all(line.startswith("command line: ") for line in lines[1:])


def test_no_override_makes_a_fault(typical: Path) -> None:
    data = tree(load(typical))
    draw = random.Random(0)
    taken = 0
    for path in [".".join(map(str, p)) for p in places(data)]:
        forms = [f"{path}=x", f"{path}=", f"{path}=[]", f"~{path}", f"{path}.x=1", f"~{path}.x", f"{path}.0={{}}"]
        for text in draw.sample(forms, 2):
            with contextlib.suppress(InputError):
                parse(data, [text])
                taken += 1
    assert taken > 20


def test_plain_mappings_are_a_config_too(typical: Path) -> None:
    config = load(typical)
    assert parse(tree(config)) == config
    assert parse(tree(config), ["seed=5"]).seed == 5
    with pytest.raises(InputError, match="a notebook: seed: expected an integer"):
        parse({**tree(config), "seed": "x"}, origin="a notebook")
