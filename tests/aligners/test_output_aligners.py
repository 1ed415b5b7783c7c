"""Output aligners in the forms of published systems, against modules built as their authors build them."""

import pytest
import torch
from torch import nn

from mmlm.aligners.outputs.linear import Linear
from mmlm.aligners.outputs.mlp import Mlp
from mmlm.aligners.outputs.queries import Queries
from mmlm.errors import InputError
from mmlm.interfaces import ConditionShape


def test_minigpt5_has_two_layers_before_and_none_behind() -> None:
    full = Queries(4096, 8, ConditionShape(77, 1024), project=2, out=False, heads=8, ffn=4096)
    assert sum(p.numel() for p in full.parameters()) == 5_244_928 + 117_575_680 + 77 * 1024
    torch.manual_seed(0)
    fc = nn.Sequential(nn.Linear(11, 6), nn.GELU(), nn.Linear(6, 6))
    encoder = nn.TransformerEncoder(
        nn.TransformerEncoderLayer(6, 2, 9, 0.0, batch_first=True, norm_first=True), 2, nn.LayerNorm(6), False
    )
    mapping = nn.Transformer(6, 2, 2, 2, 9, 0.0, batch_first=True, norm_first=True, custom_encoder=encoder)
    prompt, states = torch.randn(5, 6), torch.randn(3, 4, 11)
    ours = Queries(11, 4, ConditionShape(5, 6), project=2, out=False, hidden=99, depth=2, heads=2, ffn=9)
    held = {f"project.{n}": v for n, v in fc.state_dict().items()}
    held |= {f"transformer.{n}": v for n, v in mapping.state_dict().items()} | {"queries": prompt}
    ours.load_state_dict(held)
    expected = mapping(src=fc(states), tgt=prompt.repeat(3, 1, 1))
    torch.testing.assert_close(ours(states).values, expected)


def test_codi2_has_a_norm_inside() -> None:
    full = Mlp(4096, 1, ConditionShape(1, 1024), inner_norm=True)
    assert sum(p.numel() for p in full.parameters()) == 5_246_976
    torch.manual_seed(0)
    decode = nn.Sequential(nn.Linear(9, 5), nn.GELU(), nn.LayerNorm(5, eps=1e-5), nn.Linear(5, 5))
    nn.init.normal_(decode[2].weight)
    ours = Mlp(9, 2, ConditionShape(2, 5), inner_norm=True)
    for mine, theirs in zip(
        ours.parameters(), (*decode[0].parameters(), *decode[3].parameters(), *decode[2].parameters()), strict=True
    ):
        assert mine.shape == theirs.shape
        mine.data.copy_(theirs)
    states = torch.randn(3, 2, 9)
    torch.testing.assert_close(ours(states).values, decode(states))


@pytest.mark.parametrize("options", [{"project": 3}, {"heads": 3, "out": False}, {"hidden": 6, "heads": 4}])
def test_what_does_not_divide_is_told(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="expected heads that divide the width, and 1 or 2 layers"):
        Queries(8, 4, ConditionShape(5, 10), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", [Linear, Mlp])
def test_of_a_run_of_any_length_the_last_states_are_used(kind: type[Linear] | type[Mlp]) -> None:
    torch.manual_seed(0)
    ours = kind(7, 0, ConditionShape(3, 5))
    states, seen = torch.randn(3, 4, 7), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 0, 0, 0]]).bool()
    values = ours(states, seen).values
    of_fixed = kind(7, 3, ConditionShape(3, 5))
    of_fixed.load_state_dict(ours.state_dict())
    torch.testing.assert_close(values[:1], of_fixed(states[:1, 1:]).values)
    torch.testing.assert_close(values[1:2], of_fixed(states[1:2]).values)
    torch.testing.assert_close(values[2, 2], of_fixed(states[2:, :3]).values[0, 0])
    assert not values[2, :2].any(), "before a short run there is nothing"
    values.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in ours.parameters())
