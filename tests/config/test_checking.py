"""All mistakes at once, each with its line."""

import subprocess
import sys
from pathlib import Path

import pytest

from mmlm.config import load
from mmlm.config.problems import got, nearest
from mmlm.errors import InputError

HERE = Path(__file__).parent

FIVE = """\
name: five-mistakes
tempalte: plain
inputs:
  image:
    encoder: {type: clop, weights: w}
    aligner: {type: mlp, dept: 2}
backbone: {type: causal, weights: w}
stages:
  - name: align
    data: [{reader: llava, path: p}]
    train: {inputs.image.alinger: {lr: 1e-3}}
    batch: many
"""


def write(folder: Path, text: str) -> Path:
    """A config file."""
    file = folder / "c.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def mistakes(file: Path) -> list[str]:
    """What is told of a file, without the file's folder."""
    with pytest.raises(InputError) as e:
        load(file)
    return [line.removeprefix(f"{file.parent}/") for line in str(e.value).splitlines()]


def test_five_mistakes_are_five_messages(tmp_path: Path) -> None:
    assert mistakes(write(tmp_path, FIVE)) == [
        "c.yaml:2: tempalte: expected a key of this block, got the unknown key `tempalte`; did you mean `template`?",
        "c.yaml:5: inputs.image.encoder.type: expected one of clip, eva, frames, siglip, whisper or module:Class, "
        "got 'clop'; did you mean `clip`?",
        "c.yaml:6: inputs.image.aligner.dept: expected an option of aligner mlp, got the unknown option `dept`; "
        "did you mean `depth`?",
        "c.yaml:11: stages.0.train.inputs.image.alinger: expected the id of a part, got `inputs.image.alinger`; "
        "did you mean `inputs.image.aligner`?",
        "c.yaml:12: stages.0.batch: expected an integer, got 'many' (a string)",
    ]


def test_mistakes_of_reading_come_with_the_others(tmp_path: Path) -> None:
    text = FIVE.replace("name: five-mistakes", "name: &n five").replace("depth", "dept") + "    batch: 3\nseed: *n\n"
    told = mistakes(write(tmp_path, text))
    assert [line.split(":")[1] for line in told] == ["1", "2", "5", "6", "11", "12", "13", "14"]
    assert told[6] == "c.yaml:13: stages.0.batch: expected a key once, got it again; it stands already at line 12"
    assert told[7] == "c.yaml:14: seed: expected a plain value, got *n: write the value out, or quote the text"


def test_a_key_in_the_wrong_place_is_told_its_home(tmp_path: Path) -> None:
    text = FIVE.replace("tempalte: plain", "lr: 1e-3").replace("clop", "clip, depth: 3").replace("dept:", "depth:")
    told = mistakes(write(tmp_path, text.replace("alinger", "aligner").replace("many", "8\n    layer: -2")))
    assert told == [
        "c.yaml:2: lr: expected a key of this block (one of name, about, template, system, inputs, backbone, outputs, stages, "
        "scale, seed, length, published), got the unknown key `lr`; `lr` exists at stages.0.train.inputs.image.aligner.lr",
        "c.yaml:5: inputs.image.encoder.depth: expected an option of encoder clip (one of layer, class_token, fit, "
        "resolution, dropout, flip, mean, taps, registers), got the unknown option `depth`; "
        "`depth` exists at inputs.image.aligner.depth",
        "c.yaml:13: stages.0.layer: expected a key of this block (one of name, data, validation, train, objectives, batch, "
        "micro_batch, epochs, steps, schedule, warmup, floor, weight_decay, betas, eps, clip, pack, length, precision, "
        "gradient_checkpointing, cache_features, cache_states, save_every, log_every, validate_every, workers, max_bad, template), "
        "got the unknown key `layer`; `layer` exists at inputs.image.encoder.layer",
    ]


def test_a_misspelt_required_key_is_told_once(tmp_path: Path) -> None:
    text = FIVE.replace("name: five", "nmae: five").replace("backbone:", "backbnoe:").replace("reader:", "raeder:")
    told = mistakes(write(tmp_path, text))
    assert [line.split(":")[1] for line in told].count("1") == 1
    assert not [line for line in told if "got nothing" in line and "reader" not in line]


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("batch: many", "batch: 1e2", "expected an integer, got 100.0; write 100"),
        ("batch: many", "batch: '8'", "expected an integer, got '8' (a string); numbers stand without quotes"),
        ("batch: many", "batch: true", "expected an integer, got true"),
        ("batch: many", "batch: 0", "expected a number >= 1, got 0"),
        ("batch: many", "batch: [8]", "expected an integer, got a list of 1"),
        ("batch: many", "batch: {a: 8}", "expected an integer, got a mapping (a)"),
        ("batch: many", "batch: 8\n    pack: no", "expected true or false, got 'no' (a string); write false"),
        ("batch: many", "batch: 8\n    betas: [0.9]", "stages.0.betas.1: expected one more entry, got nothing"),
        (
            "batch: many",
            "batch: 8\n    schedule: cosin",
            "expected one of cosine, linear, constant, got 'cosin'; did you mean `cosine`?",
        ),
        ("name: five-mistakes", "name: 5", "expected a string, got 5; put it in quotes"),
        ("name: five-mistakes", "name: ''", "expected a string that is not empty, got '' (a string)"),
        ("lr: 1e-3", "lr: -1", "expected a number > 0, got -1"),
        ("lr: 1e-3", "lr: .nan", "expected a finite number, got nan"),
        ("lr: 1e-3", "lr: 1e-", "expected a number, got '1e-' (a string)"),
    ],
)
def test_how_values_are_told(tmp_path: Path, old: str, new: str, told: str) -> None:
    assert old in FIVE
    assert told in "\n".join(mistakes(write(tmp_path, FIVE.replace(old, new))))


def test_nearest_words() -> None:
    assert nearest("lnier", ["linear", "cosine"]) == ["linear"]
    assert nearest("rl", ["lr", "weight_decay"]) == ["lr"]
    assert nearest("Class-Token", ["class_token", "layer"]) == ["class_token"]
    assert nearest("aligner", ["inputs.image.aligner", "backbone"]) == ["inputs.image.aligner"]
    assert nearest("zzz", ["linear", "cosine"]) == []
    assert nearest("x", []) == []
    assert len(nearest("aligner", ["inputs.a.aligner", "inputs.b.aligner", "inputs.c.aligner"])) == 2


def test_values_in_messages_are_short() -> None:
    assert len(got("x" * 10_000)) < 90
    assert len(got({str(i): i for i in range(1000)})) < 60
    assert len(got({"x" * 10_000: 1})) < 60
    assert nearest("x" * 10_000, ["x"]) == []


SCRIPT = """
import sys
sys.path[:0] = [{here!r}, {root!r}]
from mmlm import registry
registry.KINDS = {{k: f"shelf.{{k}}" for k in ("encoders", "aligners", "backbones", "grafts", "readers", "output_aligners", "decoders")}}
from mmlm.config import dump, load
config = load({file!r})
dump(config)
print([m for m in ("torch", "transformers", "shelf.encoders.clip") if m in sys.modules])
"""


def test_a_check_imports_no_part(typical: Path) -> None:
    script = SCRIPT.format(here=str(HERE), root=str(HERE.parents[1]), file=str(typical))
    done = subprocess.run([sys.executable, "-W", "error", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
