"""Taps and position embeddings."""

import pytest
import torch
import torch.nn.functional as F

from mmlm.encoders.towers import interpolated, taps
from mmlm.errors import InputError


@pytest.mark.parametrize(
    ("layer", "expected"),
    [(-1, (5,)), (-2, (4,)), (0, (0,)), (5, (5,)), (-6, (0,)), ([-2, -1], (4, 5)), ([3, 1], (3, 1))],
)
def test_layers_are_counted_as_hidden_states(layer: int | list[int], expected: tuple[int, ...]) -> None:
    assert taps(layer, 5) == expected


@pytest.mark.parametrize("layer", [6, -7, [1, 9], []])
def test_layers_outside_are_refused(layer: int | list[int]) -> None:
    with pytest.raises(InputError, match="expected 0 to 5, or -6 to -1"):
        taps(layer, 5)
    with pytest.raises(InputError, match="expected 1 to 5, or -5 to -1"):
        taps(0, 5, first=1)


def test_a_tiny_stack_takes_the_nearest() -> None:
    assert taps([23, -20, -2], 4, tiny=True) == (4, 0, 3)
    assert taps(-20, 4, tiny=True, first=1) == (1,)


@pytest.mark.parametrize("prefix", [0, 1, 5])
@pytest.mark.parametrize("side", [3, 7, 10])
def test_interpolation_is_bicubic_and_keeps_the_prefix(prefix: int, side: int) -> None:
    positions = torch.randn(prefix + 36, 8)
    found = interpolated(positions, prefix, side)
    plane = positions[prefix:].reshape(1, 6, 6, 8).permute(0, 3, 1, 2)
    expected = F.interpolate(plane, size=(side, side), mode="bicubic", align_corners=False)
    assert torch.equal(found[:prefix], positions[:prefix])
    torch.testing.assert_close(found[prefix:], expected.permute(0, 2, 3, 1).reshape(-1, 8), atol=1e-6, rtol=1e-6)


def test_the_same_grid_keeps_every_value() -> None:
    positions = torch.randn(1 + 49, 4)
    assert torch.equal(interpolated(positions, 1, 7), positions)


def test_positions_that_are_no_square_are_refused() -> None:
    with pytest.raises(InputError, match="not a square grid"):
        interpolated(torch.randn(1 + 48, 4), 1, 9)
