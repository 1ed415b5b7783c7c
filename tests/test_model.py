"""Training mode: awake is what is trained, module by module, and nothing beside it."""

from pathlib import Path

import pytest
import torch
from systems import tiny
from torch import Tensor, nn

from mmlm.aligners.qformer import QFormer
from mmlm.assemble import assemble
from mmlm.batch import Units
from mmlm.interfaces import Encoder, Features, FeatureShape, InputAligner
from mmlm.model import MultimodalModel, Stream

SHAPE = FeatureShape(5, 20)


class Eyes(Encoder):
    """An encoder with a batch norm and a dropout beside it."""

    modality = "image"
    shape = SHAPE

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.BatchNorm1d(20), nn.Dropout(0.5))
        self.top = nn.Linear(20, 20)

    def forward(self, units: Tensor) -> Tensor:
        return self.top(self.stem(units.mT).mT)  # type: ignore[no-any-return]


def system(folder: Path, aligner: InputAligner) -> MultimodalModel:
    """A tiny LLM behind an aligner, all of it frozen."""
    backbone = assemble(tiny("lora", folder)).model.backbone
    return MultimodalModel({"image": Stream(Eyes(), aligner, "slots")}, backbone).requires_grad_(False)


def qformer() -> QFormer:
    torch.manual_seed(0)
    return QFormer(SHAPE, 32, queries=4, layers=3, heads=2, hidden=16, dropout=0.5)


def awake(module: nn.Module) -> set[str]:
    """The modules in training mode that training mode changes: dropouts, batch norms, and attention, whose dropout is a
    function."""
    return {n for n, m in module.named_modules() if m.training and (not list(m.children()) or hasattr(m, "dropout"))}


def test_a_q_former_of_which_only_the_projection_is_trained_has_no_dropout(tmp_path: Path) -> None:
    """As MiniGPT-4 trains it: the same tokens twice, and in evaluation mode."""
    model = system(tmp_path, aligner := qformer())
    aligner.project.requires_grad_(True)
    model.train()
    assert awake(aligner) == {"project"} and aligner.training
    values = Features(torch.randn(2, 5, 20), (1, 1))
    with torch.no_grad():
        first, second = aligner(values), aligner(values)
        model.eval()
        assert torch.equal(first, second) and torch.equal(first, aligner(values))


def test_a_q_former_trained_whole_is_awake_whole(tmp_path: Path) -> None:
    model = system(tmp_path, aligner := qformer())
    aligner.requires_grad_(True)
    model.train()
    assert all(m.training for m in aligner.modules())
    model.eval()
    assert not any(m.training for m in model.modules())


def test_a_dropout_is_awake_where_all_beside_it_is_trained(tmp_path: Path) -> None:
    """One block of three, and of another one only the attention: the latter's own dropout goes by its module."""
    model = system(tmp_path, aligner := qformer())
    first, second, _ = aligner.blocks
    first.requires_grad_(True)
    second.attention.requires_grad_(True)
    model.train()
    assert all(m.training for m in first.modules())
    inside = {f"attention.{n}".rstrip(".") for n, _ in second.attention.named_modules()}
    assert {n for n, m in second.named_modules() if m.training} == {"", *inside}
    assert not aligner.drop.training and not second.drop.training and second.attention.training
    assert not any(m.training for m in aligner.blocks[2].modules())


@pytest.mark.parametrize(
    ("opened", "expected"),
    [
        ((), set()),
        (("top",), {"top"}),
        (("stem",), {"stem.0", "stem.1"}),
        (("stem", "top"), {"stem.0", "stem.1", "top"}),
    ],
)
def test_batch_statistics_of_frozen_modules_stay(opened: tuple[str, ...], expected: set[str], tmp_path: Path) -> None:
    model = system(tmp_path, qformer())
    eyes = model.streams["image"].eyes
    for name in opened:
        eyes.get_submodule(name).requires_grad_(True)
    model.train()
    assert awake(eyes) == expected
    before = eyes.get_buffer("stem.0.running_mean").clone()
    model.tokens("image", Units(torch.randn(2, 5, 20), (1, 1), torch.arange(2), torch.arange(8)))
    assert torch.equal(before, eyes.get_buffer("stem.0.running_mean")) == ("stem" not in opened)


def test_an_llm_with_trained_adapters_is_awake_and_a_frozen_one_is_not(tmp_path: Path) -> None:
    model = system(tmp_path, qformer()).train()
    assert not model.backbone.llm.training
    for name, p in model.backbone.llm.named_parameters():
        p.requires_grad_(".lora_" in name)
    model.train()
    assert all(m.training for m in model.backbone.llm.modules())
