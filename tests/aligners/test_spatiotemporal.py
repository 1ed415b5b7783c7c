"""The spatiotemporal aligner against its formula, written out clip by clip."""

import pytest
import torch

from mmlm.aligners.spatiotemporal import Spatiotemporal
from mmlm.errors import InputError
from mmlm.interfaces import Features, FeatureShape


def aligner(frames: int = 5, prefix: int = 0) -> Spatiotemporal:
    torch.manual_seed(0)
    return Spatiotemporal(FeatureShape(length=6 + prefix, channels=7, grid=(2, 3), prefix=prefix), 9, frames=frames)


def test_tokens_of_the_published_system() -> None:
    """100 frames of a ViT-L/14 at 224 pixels: 100 + 256 = 356 tokens (Video-ChatGPT, section 3.1)."""
    published = Spatiotemporal(FeatureShape(length=256, channels=1024, grid=(16, 16)), 4096)
    assert published.tokens(100) == 356
    assert sum(p.numel() for p in published.parameters()) == 1024 * 4096 + 4096


def test_forward_keeps_the_promise_and_the_formula() -> None:
    part, values = aligner(), torch.randn(8, 6, 7)
    out = part(Features(values, (3, 5)))
    assert out.shape == (part.tokens(3) + part.tokens(5), 9)
    first, second = out.split([part.tokens(3), part.tokens(5)])
    for clip, got in ((values[:3], first), (values[3:], second)):
        rows = (
            [frame.mean(0) for frame in clip]
            + [torch.zeros(7)] * (5 - len(clip))
            + [clip[:, i].mean(0) for i in range(6)]
        )
        torch.testing.assert_close(got, part.project(torch.stack(rows)))


def test_means_are_over_the_frames_that_are_there() -> None:
    """A short clip is not diluted by the zero rows that fill its temporal tokens."""
    part, values = aligner(), torch.randn(2, 6, 7)
    torch.testing.assert_close(part(Features(values, (2,)))[5:], part.project(values.mean(0)))


def test_prefix_takes_no_part() -> None:
    with_class, without = aligner(prefix=1), aligner()
    values = torch.randn(4, 6, 7)
    marked = torch.cat([torch.full((4, 1, 7), 1e6), values], 1)
    torch.testing.assert_close(with_class(Features(marked, (4,))), without(Features(values, (4,))))


def test_clips_do_not_see_each_other() -> None:
    part, values = aligner(), torch.randn(7, 6, 7)
    alone = torch.cat([part(Features(values[:4], (4,))), part(Features(values[4:], (3,)))])
    torch.testing.assert_close(part(Features(values, (4, 3))), alone)


def test_a_clip_that_does_not_fit_is_refused() -> None:
    with pytest.raises(InputError, match="6 frames came, expected at most 5"):
        aligner()(Features(torch.randn(9, 6, 7), (3, 6)))


def test_frames_must_be_positive() -> None:
    with pytest.raises(InputError, match="at least 1"):
        aligner(frames=0)
