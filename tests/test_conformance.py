"""The check of parts has teeth: a part with one fault fails in the row that is about it, and in no other."""

import json
from pathlib import Path

import pytest

from mmlm.cli import main
from mmlm.conformance import check
from mmlm.errors import InputError

# Parts of a stranger: one that keeps the contract for each kind, and what a fault changes in it.
HEAD = """
import torch
from torch import nn
from mmlm.errors import InputError
from mmlm.interfaces import Encoder, Features, FeatureShape, Graft, InputAligner
from mmlm.media import load_image
from mmlm.sample import Image

TABLE = torch.zeros(4)
"""
ENCODER = '''
class Cut:
    def __init__(self, side): self.side = side
    def __call__(self, item):
        if not isinstance(item, Image): raise InputError("this encoder reads pictures")
        values = torch.tensor(list(load_image(item).resize((self.side, self.side)).tobytes()), dtype=torch.float32)
        return (values.reshape(1, self.side * self.side, 3) / 255)  # CUT

class Part(Encoder):
    """Colours of the cells of a picture."""

    modality = "image"
    tiny = {"side": 3}

    def __init__(self, *, side: int = 8, width: int = 6) -> None:
        super().__init__()
        self.transform = Cut(side)
        self.shape = FeatureShape(side * side, width, (side, side))
        self.linear = nn.Linear(3, width)

    def forward(self, units):
        x = self.linear(units)
        return x  # OUT
'''
ALIGNER = '''
class Part(InputAligner):
    """One token for each unit."""

    def __init__(self, shape: FeatureShape, width: int) -> None:
        super().__init__()
        self.width = width
        self.linear = nn.Linear(shape.channels, width)

    def tokens(self, units: int) -> int:
        return units  # TOKENS

    def forward(self, features: Features):
        x = self.linear(features.values.mean(1))
        return x  # OUT
'''
GRAFT = '''
class Part(Graft):
    """Adds what a position sees of its memory to what leaves the last layer."""

    reads_memory = True

    def __init__(self, backbone, memory_width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(memory_width, backbone.width)
        self.memory = None

    def attach(self, backbone) -> None:
        backbone.layer_list()[-1].register_forward_hook(self.hook)

    def remember(self, memory) -> None:
        self.memory = memory  # REMEMBER

    def hook(self, module, inputs, output):
        if self.memory is None:
            return output
        m = self.memory
        seen = (m.items[:, None] == m.latest[:, :, None]) & (m.items[:, None] > 0)  # SEEN
        x = output[0] if isinstance(output, tuple) else output
        x = x + seen.to(x.dtype) @ self.linear(m.values)
        return (x, *output[1:]) if isinstance(output, tuple) else x
'''
WHOLE = {"encoders": ENCODER, "aligners": ALIGNER, "grafts": GRAFT}

FAULTS = {
    "options": ("encoders", "width: int = 6", "width: complex = 6"),
    "docstring": ("encoders", '"""Colours of the cells of a picture."""', ""),
    "tiny": ("encoders", '{"side": 3}', '{"sides": 3}'),
    "builds": ("encoders", "self.linear = nn", "self.linear = nn.Missing"),
    "modality": ("encoders", '"image"', '"smell"'),
    "units": ("encoders", "/ 255)  # CUT", "/ 255)[:, : -1 if load_image(item).width > 40 else None]"),
    "transform repeats": ("encoders", "/ 255)  # CUT", "/ 255) + torch.rand(())"),
    "transform pickles": ("encoders", "self.side = side", "self.side, self.f = side, lambda x: x"),
    "transform is light": ("encoders", "self.side = side", "self.side, self.f = side, nn.Linear(2, 2)"),
    "transform refuses": ("encoders", 'raise InputError("this encoder reads pictures")', "return torch.zeros(1, 9, 3)"),
    "shape": ("encoders", "return x  # OUT", "return x[:, 1:]"),
    "units apart": ("encoders", "return x  # OUT", "return x + x.mean((0, 1))"),
    "variants": (
        "encoders", "width: int = 6)", "width: int = 6, wide: bool = False)",
        "self.linear = nn", "width += wide; self.linear = nn",
    ),
    "dtype": ("encoders", "return x  # OUT", "return x.float()"),
    "gradients": ("encoders", "self.linear = nn", "self.idle = nn.Linear(2, 2); self.linear = nn"),
    "state": (
        "encoders", "return x  # OUT", "return x + self.shift",
        "self.linear = nn", "self.shift = torch.rand(()); self.linear = nn",
    ),
    "meta device": (
        "encoders", "return x  # OUT", "return x * self.scale",
        "self.linear = nn", "self.scale = nn.Parameter(torch.rand(6, device='cpu')); self.linear = nn",
    ),
    "tokens (4 x 4 + 1)": ("aligners", "return units  # TOKENS", "return units + (units == 3)"),
    "items apart (4 x 4 + 1)": ("aligners", "return x  # OUT", "return x + x.mean(0)"),
    "with memory": ("grafts", "& (m.items[:, None] > 0)  # SEEN", "| (m.items[:, None] == 1)"),
    "without memory": ("grafts", "self.memory = memory  # REMEMBER", "self.memory = memory or self.memory"),
}  # fmt: skip


def written(folder: Path, name: str, text: str) -> str:
    (folder / f"{name}.py").write_text(HEAD + text, encoding="utf-8")
    return f"{name}:Part"


@pytest.mark.parametrize("kind", WHOLE)
def test_a_strangers_part_passes(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    report = check(None, written(tmp_path, f"sound_{kind}", WHOLE[kind]))
    assert report.passed and report.kind == kind, report.table()
    assert f"{len(report.rows)} of {len(report.rows)} rows hold" in report.table()
    assert json.loads(json.dumps(report.as_json()))["passed"] is True


@pytest.mark.parametrize("row", FAULTS)
def test_a_fault_fails_in_its_row(row: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    kind, *changes = FAULTS[row]
    text = WHOLE[kind]
    for old, new in zip(changes[::2], changes[1::2], strict=True):
        assert old in text
        text = text.replace(old, new)
    name = f"faulty_{''.join(c for c in row if c.isalpha())}"
    report = check(None, written(tmp_path, name, text))
    failed = [r.name for r in report.rows if not r.passed]
    assert row in failed, report.table()
    # Some faults cannot be had alone: a transform that does not pickle keeps its module from pickling too.
    assert len(failed) <= 3, report.table()
    assert not report.passed and f"FAILED  {row}" in report.table() and "expected: " in report.table()


def test_the_kind_is_told_by_base_or_shape(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    text = "class Part:\n    def __len__(self): ...\n    def __getitem__(self, i): ...\n    def where(self, i): ...\n"
    assert check(None, written(tmp_path, "a_reader", text)).kind == "readers"
    with pytest.raises(InputError, match="is no part: expected a subclass of Encoder, InputAligner"):
        check(None, written(tmp_path, "no_part", "class Part: ..."))


@pytest.mark.parametrize(
    ("kind", "target", "message"),
    [
        (None, "clip", "expected module:Class"),
        ("encoder", "clip", "did you mean `encoders`"),
        ("encoders", "clipp", "did you mean 'clip'"),
        (None, "no.such.module:Part", "cannot be imported"),
        (None, "mmlm.errors:Nothing", "has no class"),
        (None, "encoders.clip:ClipEncoder", "this folder is the package mmlm.encoders"),
    ],
)
def test_what_is_no_part_is_an_input_error(kind: str | None, target: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        check(kind, target)


def test_a_part_that_asks_for_weights_is_told_which_it_got(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    text = ENCODER.replace("(self, *, side", "(self, weights: Weights, *, side")
    text = text.replace("super().__init__()", 'super().__init__(); self.own = weights.config()["my_side"]')
    target = written(tmp_path, "weighted", "from mmlm.weights import Weights\n" + text)
    assert main(["check-part", target]) == 2
    said = capsys.readouterr().out
    assert "none are named; it takes the shape of openai/clip-vit-base-patch32 (--weights NAME: of others)" in said
    assert "FAILED  builds" in said and "my_side" in said
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text('{"my_side": 3}', encoding="utf-8")
    assert main(["check-part", target, "--weights", str(tmp_path / "mine")]) == 0
    assert "none are named" not in capsys.readouterr().out


def test_weights_for_a_part_without_any_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="--weights x/y: Part asks for no weights; leave them out"):
        check(None, written(tmp_path, "weightless", ENCODER), "x/y")


def test_weights_can_be_named() -> None:
    assert check("encoders", "clip", weights="openai/clip-vit-large-patch14").passed
    report = check("encoders", "clip", weights="nobody/nothing")
    assert not report.passed and "the shape of 'nobody/nothing' is not known" in report.table()
