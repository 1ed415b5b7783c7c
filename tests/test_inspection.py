"""What `mmlm inspect` says of runs, checkpoints, model folders and files, damaged and hostile ones too."""

import json
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from mmlm.config import dump, load
from mmlm.errors import InputError
from mmlm.inspection import header, inspect
from mmlm.training import checkpoint
from mmlm.training.manifest import damage

CONFIG = """
name: probe
scale: tiny
inputs:
  image:
    encoder: {type: clip, weights: openai/clip-vit-base-patch32}
    aligner: {type: "mmlm.aligners.spatiotemporal:Spatiotemporal"}
backbone: {type: causal, weights: HuggingFaceTB/SmolLM2-135M}
stages:
  - {name: align, data: [{reader: qa, path: d.jsonl}], train: {inputs.image.aligner: {lr: 1e-3}}, batch: 2, steps: 4}
  - {name: tune, data: [{reader: qa, path: d.jsonl}], train: {backbone: {lr: 1e-3}}, batch: 2, steps: 6}
  - {name: last, data: [{reader: qa, path: d.jsonl}], train: {backbone: {lr: 1e-3}}, batch: 2, steps: 6}
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that was interrupted in its second stage."""
    (tmp_path / "probe.yaml").write_text(CONFIG, encoding="utf-8")
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.yaml").write_text(dump(load(tmp_path / "probe.yaml")), encoding="utf-8")
    written(folder, 0, "align", 4, 4)
    written(folder, 1, "tune", 3, 6)
    return folder


def written(run: Path, index: int, stage: str, step: int, total: int) -> Path:
    weights = {
        "inputs.image.aligner.projection.weight": torch.zeros(4, 3),
        "inputs.image.aligner.projection.bias": torch.zeros(4),
        "backbone.grafts.xattn.gate": torch.zeros(1),
        "backbone.added.embedding": torch.zeros(2, 3),
        "backbone.llm.model.layers.0.q.lora_A.weight": torch.zeros(2, 5),
    }
    state = {
        "stage": stage,
        "stage_index": index,
        "step": step,
        "total": total,
        "trained": ["inputs.image.aligner"],
        "lent": {"backbone": "ab12", "backbone.head": "cd34", "inputs.image.encoder": "ef56"},
        "config": {"name": "probe", "backbone": {"grafts": {"small": {"type": "lora"}}}},
    }
    files = {"weights": weights, "optimizer": {"m": torch.ones(3)}}
    return checkpoint.write(run / "checkpoints", f"{index:02d}-{stage}-{step:08d}", files, state).path


def test_a_run_is_told(run: Path) -> None:
    found = inspect(run)
    assert found.kind == "run" and not found.warnings
    facts = found.facts
    assert facts["stages"] == ["align: done", "tune: at step 3 of 6", "last: not begun"]
    assert facts["newest checkpoint"] == "checkpoints/01-tune-00000003"
    assert facts["holds"] == {
        "backbone.added": "6 values in 1 tensors",
        "backbone.grafts.small": "10 values in 1 tensors",
        "backbone.grafts.xattn": "1 values in 1 tensors",
        "inputs.image.aligner": "16 values in 2 tensors",
    }
    assert facts["borrows"] == {
        "backbone": "HuggingFaceTB/SmolLM2-135M, hash ab12",
        "backbone.head": "HuggingFaceTB/SmolLM2-135M, hash cd34",
        "inputs.image.encoder": "openai/clip-vit-base-patch32, hash ef56",
    }
    assert (facts["template"], facts["scale"], facts["quarantined"]) == ("chat", "tiny", "no sample")
    assert "is a run of the system 'probe'" in found.table()
    assert json.loads(json.dumps(found.as_json()))["facts"]["stages"][0] == "align: done"


def test_a_run_without_a_checkpoint_and_with_bad_samples(run: Path) -> None:
    for path in (run / "checkpoints").iterdir():
        (path / "manifest.json").unlink()
    (run / "checkpoints" / ".01-tune-00000006.draft").mkdir()
    bad = {"stage": "align", "step": 0, "origin": "d.jsonl#3", "reason": "it is no picture"}
    (run / "quarantine.jsonl").write_text((json.dumps(bad) + "\n") * 2, encoding="utf-8")
    found = inspect(run)
    assert found.facts["quarantined"] == "1 samples, 2 times (quarantine.jsonl); the last: d.jsonl#3: it is no picture"
    assert found.facts["stages"] == ["align: not begun", "tune: not begun", "last: not begun"]
    assert len(found.warnings) == 3 and "no complete checkpoint" in found.warnings[0]
    assert "2 of 2 checkpoints are not whole" in found.warnings[1] and ".draft" in found.warnings[2]


def test_a_run_with_a_broken_config_is_still_told(run: Path) -> None:
    (run / "config.yaml").write_text("name: [\n", encoding="utf-8")
    found = inspect(run)
    assert found.kind == "run" and "its config cannot be used" in found.warnings[0]
    assert found.facts["newest checkpoint"] == "checkpoints/01-tune-00000003"


DAMAGES: dict[str, Callable[[Path], object]] = {
    "nothing": lambda p: None,
    "cut short": lambda p: p.write_bytes(p.read_bytes()[:-1]),
    "one byte": lambda p: p.write_bytes(bytes([p.read_bytes()[0] ^ 1]) + p.read_bytes()[1:]),
    "emptied": lambda p: p.write_bytes(b""),
    "a list": lambda p: p.write_bytes(b"[]"),
    "deleted": Path.unlink,
}


@pytest.mark.parametrize("file", ["weights.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("how", DAMAGES)
def test_damage_is_judged_as_training_judges_it(run: Path, file: str, how: str) -> None:
    path = run / "checkpoints" / "01-tune-00000003"
    DAMAGES[how](path / file)
    assert (damage(path) is None) == (how == "nothing")
    found = inspect(run)
    newest, _ = checkpoint.newest(run / "checkpoints")
    assert newest is not None and found.facts["newest checkpoint"] == str(newest.path.relative_to(run))
    assert ("damaged" in found.facts) == (how != "nothing")


def test_a_manifest_cannot_point_elsewhere(run: Path) -> None:
    path = run / "checkpoints" / "01-tune-00000003"
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["../../config.yaml"] = {"sha256": "", "bytes": 0}
    (path / "manifest.json").write_text(json.dumps(manifest))
    assert damage(path) == "../../config.yaml is missing"


def test_a_checkpoint_is_told_alone(run: Path) -> None:
    path = run / "checkpoints" / "01-tune-00000003"
    found = inspect(path)
    assert (found.kind, found.facts["step"], found.facts["system"]) == ("checkpoint", "3 of 6", "probe")
    (path / "optimizer.safetensors").unlink()
    found = inspect(path)
    assert found.warnings == ("optimizer.safetensors is missing",) and "not whole" in found.sentence


def model(folder: Path, config: dict[str, Any], **files: dict[str, torch.Tensor]) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    for name, tensors in files.items():
        save_file(tensors, folder / f"{name}.safetensors")
    return folder


def test_a_model_folder_is_told(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(3, 5), "b": torch.zeros(7, dtype=torch.bfloat16)}
    found = inspect(model(tmp_path, {"model_type": "llama", "architectures": ["LlamaForCausalLM"]}, model=tensors))
    assert found.kind == "model folder" and not found.warnings
    expected = {"type": "llama", "architectures": "LlamaForCausalLM", "tensors": 2, "parameters": 22}
    assert expected.items() <= found.facts.items()
    assert found.facts["stored as"] == "BF16 (7), F32 (15)"


def test_dangers_of_a_model_folder_are_told(tmp_path: Path) -> None:
    config = {"model_type": "x", "text_config": {"auto_map": {"AutoModel": "modeling.Evil"}}}
    model(tmp_path, config, model={"a": torch.zeros(1)})
    for name in ("modeling.py", "pytorch_model.bin", "training_args.pt"):
        (tmp_path / name).write_bytes(b"")
    warnings = inspect(tmp_path).warnings
    assert "auto_map" in warnings[0] and "never run: modeling.py" in warnings[1]
    assert "never read: pytorch_model.bin, training_args.pt" in warnings[2]


def test_shards_are_counted_by_their_index(tmp_path: Path) -> None:
    model(
        tmp_path, {"model_type": "x"}, one={"a": torch.zeros(2)}, two={"b": torch.zeros(3)}, stray={"a": torch.zeros(9)}
    )
    with pytest.raises(InputError, match="'a' stands in another file"):
        inspect(tmp_path)
    index = {"weight_map": {"a": "one.safetensors", "b": "two.safetensors", "c": "three.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    found = inspect(tmp_path)
    assert found.facts["parameters"] == 5
    assert found.warnings == ("the index names files that are not here: three.safetensors",)


def test_folders_of_timm_and_peft(tmp_path: Path) -> None:
    found = inspect(model(tmp_path / "timm", {"architecture": "resnet18"}, model={"a": torch.zeros(1)}))
    assert "timm" in found.sentence and found.facts["type"] == "resnet18"
    adapter = model(tmp_path / "peft", {}, adapter_model={"a": torch.zeros(4)})
    (adapter / "adapter_config.json").write_text('{"peft_type": "LORA", "base_model_name_or_path": "base"}')
    found = inspect(adapter)
    assert (found.kind, found.facts["made for"], found.facts["parameters"]) == ("adapter folder", "base", 4)


def test_a_header_agrees_with_the_library(tmp_path: Path) -> None:
    kinds = [
        torch.float64,
        torch.float32,
        torch.float16,
        torch.bfloat16,
        torch.int64,
        torch.int8,
        torch.uint8,
        torch.bool,
    ]
    tensors = {f"t{i}": torch.zeros(i, 3, dtype=k) for i, k in enumerate(kinds)} | {"scalar": torch.tensor(1.0)}
    save_file(tensors, tmp_path / "w.safetensors", metadata={"format": "pt"})
    theirs = load_file(tmp_path / "w.safetensors")
    assert {n: t.shape for n, t in header(tmp_path / "w.safetensors").items()} == {
        n: tuple(t.shape) for n, t in theirs.items()
    }
    assert inspect(tmp_path / "w.safetensors").facts["parameters"] == sum(t.numel() for t in theirs.values())


def raw(text: str, data: int = 0, announce: int | None = None) -> bytes:
    encoded = text.encode()
    return struct.pack("<Q", len(encoded) if announce is None else announce) + encoded + bytes(data)


def entry(shape: str = "[2]", offsets: str = "[0, 8]", dtype: str = '"F32"') -> str:
    return f'{{"dtype": {dtype}, "shape": {shape}, "data_offsets": {offsets}}}'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "announces a header of 0"),
        (b"1234567", "has 7 bytes"),
        (raw("{}", announce=1 << 62), "announces a header of"),
        (raw("{", 8), "Expecting property name"),
        (raw("[]"), "no JSON object"),
        (raw('{"a": 1}'), "'a' has no dtype"),
        (raw(f'{{"a": {entry()}}}', 7), "take 8 bytes, but 7 follow"),
        (raw(f'{{"a": {entry()}}}', 9), "take 8 bytes, but 9 follow"),
        (raw(f'{{"a": {entry()}, "a": {entry()}}}', 8), "'a' stands twice"),
        (raw(f'{{"a": {entry()}, "b": {entry()}}}', 8), "'b' begins at byte 0"),
        (raw(f'{{"a": {entry(offsets="[8, 16]")}}}', 16), "'a' begins at byte 8"),
        (raw(f'{{"a": {entry(offsets="[8, 0]")}}}', 8), "'a' has the shape"),
        (raw(f'{{"a": {entry(shape="[3]")}}}', 8), "'a' has the shape"),
        (raw(f'{{"a": {entry(shape="[-2]")}}}', 8), "'a' has no dtype"),
        (raw(f'{{"a": {entry(shape="[true, 2]")}}}', 8), "'a' has no dtype"),
        (raw(f'{{"a": {entry(dtype="7")}}}', 8), "'a' has no dtype"),
        (raw(f'{{"a": {entry(shape="[" + "9" * 5000 + "]")}}}', 8), "integer string conversion"),
        (raw("[" * 100_000), "recursion"),
        (struct.pack("<Q", 2) + b"\xff\xfe", "can't decode"),
    ],
)  # fmt: skip
def test_a_hostile_header_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as e:
        inspect(path)
    assert str(path) in str(e.value)


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scratch") / "w.safetensors"


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.binary(max_size=20), st.booleans())
def test_any_bytes_are_a_header_or_an_input_error(scratch: Path, body: bytes, data: bytes, sized: bool) -> None:
    scratch.write_bytes((struct.pack("<Q", len(body)) + body if sized else body) + data)
    try:
        assert isinstance(header(scratch), dict)
    except InputError as e:
        assert str(scratch) in str(e)


def test_files_of_records_are_told(tmp_path: Path) -> None:
    row = {"id": "1", "image": "a.png", "conversations": []}
    cases = {
        "a.jsonl": ("".join(json.dumps(row) + "\n" for _ in range(3)), "JSON Lines", 3, ["llava"]),
        "b.json": (json.dumps([row, row]), "a JSON list", 2, ["llava"]),
        "c.json": (json.dumps([{"question": "?", "answer": "!"}]), "a JSON list", 1, ["qa"]),
    }
    for name, (text, form, count, readers) in cases.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
        facts = inspect(tmp_path / name).facts
        assert (facts["form"], facts["records"], facts["readers that may fit"]) == (form, count, readers)
    (tmp_path / "coco.json").write_text(
        json.dumps({"images": [{}, {}], "annotations": [{}]}, indent=1), encoding="utf-8"
    )
    facts = inspect(tmp_path / "coco.json").facts
    assert facts["lists"] == {"images": "2 records", "annotations": "1 records"}
    assert facts["readers that may fit"] == ["captions"]


def test_a_picture_is_told(tmp_path: Path) -> None:
    PIL.Image.new("RGB", (31, 17)).save(tmp_path / "a.png")
    assert inspect(tmp_path / "a.png").facts["size"] == "31 x 17 pixels"


def test_what_is_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "weights.bin").write_bytes(b"x")
    (tmp_path / "broken.json").write_text("{")
    cases = {
        tmp_path: "holds broken.json, notes.txt, weights.bin",
        tmp_path / "nowhere": "does not exist",
        tmp_path / "notes.txt": "no file that mmlm can describe",
        tmp_path / "weights.bin": "looks like a pickle",
        tmp_path / "broken.json": "broken.json",
    }
    for path, message in cases.items():
        with pytest.raises(InputError, match=message):
            inspect(path)


def test_a_config_alone_is_no_run(run: Path) -> None:
    config = (run / "config.yaml").read_bytes()
    alone = run.parent / "alone"
    alone.mkdir()
    (alone / "config.yaml").write_bytes(config)
    with pytest.raises(InputError, match=r"this one holds config\.yaml"):
        inspect(alone)
    (alone / ".lock").touch()
    assert inspect(alone).kind == "run"


def test_control_characters_do_not_reach_the_terminal(tmp_path: Path) -> None:
    found = inspect(model(tmp_path, {"model_type": "\x1b]0;owned\x07\x1b[31m"}, model={"a": torch.zeros(1)}))
    assert "\x1b" not in found.table() and "\\x1b]0;owned\\x07" in found.table()


def test_looking_needs_no_torch(run: Path) -> None:
    look = f"from mmlm.inspection import inspect; inspect(Path({str(run)!r})).table()"
    code = f"import sys; from pathlib import Path; {look}; sys.exit('torch' in sys.modules)"
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr or "torch was imported"
