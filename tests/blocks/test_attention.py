"""All ways to compute attention agree, forward and backward, and nothing sees what it should not."""

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

import mmlm.blocks.attention as attending
import mmlm.blocks.choice as choice
from mmlm.blocks.attention import attention, chosen, forced
from mmlm.blocks.masks import Dense, Segments, band
from mmlm.errors import InputError

PADDED_LEFT = torch.tensor([[0, 0, 1, 1, 1, 1, 1], [1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0, 0]])
PADDED_RIGHT = PADDED_LEFT.flip(1)
PACKED = torch.tensor([[1, 1, 2, 2, 2, 3, 0], [5, 5, 5, 5, 2, 2, 2], [0, 4, 4, 0, 7, 0, 0]])
WHOLE = torch.ones(3, 7, dtype=torch.long)
MEMORY = torch.tensor([[1, 1, 2, 0, 0], [2, 2, 1, 1, 1], [0, 0, 0, 0, 0]])


def varlen(
    q: Tensor, k: Tensor, v: Tensor, q_starts: Tensor, k_starts: Tensor, longest_q: int, longest_k: int, *, scale: float,
    window_size: tuple[int, int], enable_gqa: bool = False,
) -> Tensor:  # fmt: skip
    """What torch's varlen_attn promises, written plainly: the causal diagonal ends at the last key of each sequence."""
    assert longest_q == int(q_starts.diff().max()) and longest_k == int(k_starts.diff().max())
    assert q_starts.dtype == k_starts.dtype == torch.int32 and len(q_starts) == len(k_starts)
    assert enable_gqa == (q.shape[1] != k.shape[1])
    out = []
    for i in range(len(q_starts) - 1):
        a, b = (x[s[i] : s[i + 1]].transpose(0, 1) for x, s in ((q, q_starts), (k, k_starts)))
        c = v[k_starts[i] : k_starts[i + 1]].transpose(0, 1)
        b, c = (x.repeat_interleave(len(a) // len(x), 0) for x in (b, c))
        ahead = torch.arange(b.shape[1] - a.shape[1], b.shape[1])[:, None] - torch.arange(b.shape[1])
        seen = torch.ones_like(ahead).bool()
        if window_size[1] >= 0:
            seen &= ahead >= -window_size[1]
        if window_size[0] >= 0:
            seen &= ahead <= window_size[0]
        assert bool(seen.any(-1).all())
        out.append(((a @ b.mT * scale).masked_fill(~seen, -torch.inf).softmax(-1) @ c).transpose(0, 1))
    return torch.cat(out)


@pytest.fixture
def flash(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flash as if it ran here: the kernel written plainly, behind the same door."""
    monkeypatch.setattr(attending, "varlen", lambda: varlen)
    monkeypatch.setattr(choice, "_no_flash", lambda *_: None)


def rows(queries: int, keys: int, *, heads: int = 6, groups: int = 2, width: int = 5) -> list[Tensor]:
    torch.manual_seed(0)
    shapes = ((3, heads, queries, width), (3, groups, keys, width), (3, groups, keys, width))
    return [torch.randn(s, requires_grad=True) for s in shapes]


def run(name: Any, parts: list[Tensor], **how: Any) -> list[Tensor]:
    """The output and the gradients of q, k and v."""
    with forced(name):
        out = attention(*parts, **how)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    return [out, *torch.autograd.grad((out * weights).sum(), parts)]


def by_hand(parts: list[Tensor], seen: Tensor, scale: float) -> Tensor:
    """One query at a time, over the keys it sees."""
    q, k, v = parts
    out = torch.zeros(*q.shape[:3], v.shape[-1])
    for b in range(len(q)):
        for h in range(q.shape[1]):
            g = h // (q.shape[1] // k.shape[1])
            for i in range(q.shape[2]):
                mine = seen[b, i]
                if mine.any():
                    out[b, h, i] = (k[b, g, mine] @ q[b, h, i] * scale).softmax(0) @ v[b, g, mine]
    return out


def layouts() -> list[Any]:
    return list(_layouts())


def _layouts() -> Iterator[Any]:
    for name, segments in {"left": PADDED_LEFT, "right": PADDED_RIGHT, "packed": PACKED, "whole": WHOLE}.items():
        for causal in (False, True):
            yield pytest.param(segments, segments, causal, None, id=f"{name}-{'causal' if causal else 'both'}")
        yield pytest.param(segments, segments, True, 2, id=f"{name}-window")
        yield pytest.param(segments[:, -3:], segments, True, None, id=f"{name}-last-3")
        yield pytest.param(segments[:, -1:], segments, True, 3, id=f"{name}-last-1-window")
        yield pytest.param(segments, MEMORY, False, None, id=f"{name}-cross")


@pytest.mark.parametrize(("queries", "keys", "causal", "window"), layouts())
@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.usefixtures("flash")
def test_all_ways_agree(queries: Tensor, keys: Tensor, causal: bool, window: int | None, groups: int) -> None:
    parts = rows(queries.shape[1], keys.shape[1], groups=groups)
    own = queries is keys
    seen = (queries[:, :, None] == keys[:, None]) & (queries != 0)[:, :, None]
    if causal:
        seen &= band(queries.shape[1], keys.shape[1], window, torch.device("cpu"))
    expected = by_hand(parts, seen, 0.3)
    how = {"causal": causal, "window": window, "scale": 0.3}
    first = run("reference", parts, mask=Segments(queries, keys), **how)
    torch.testing.assert_close(first[0], expected, atol=1e-5, rtol=1e-5)
    for name in ("sdpa", "flash"):
        for x, y in zip(run(name, parts, mask=Segments(queries, queries if own else keys), **how), first, strict=True):
            torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)
    for name in ("reference", "sdpa"):
        for x, y in zip(run(name, parts, mask=seen[:, None], scale=0.3), first, strict=True):
            torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)
            assert x.isfinite().all()


@pytest.mark.parametrize("sizes", [(7, 7), (3, 7), (1, 7)])
@pytest.mark.parametrize("window", [None, 2, 7])
@pytest.mark.usefixtures("flash")
def test_without_a_mask(sizes: tuple[int, int], window: int | None) -> None:
    parts = rows(*sizes)
    seen = band(*sizes, window, torch.device("cpu")).expand(3, -1, -1)
    expected = by_hand(parts, seen, 5**-0.5)
    for name in ("reference", "sdpa", "flash"):
        torch.testing.assert_close(run(name, parts, causal=True, window=window)[0], expected, atol=1e-5, rtol=1e-5)
    everything = by_hand(parts, torch.ones(3, *sizes, dtype=torch.bool), 5**-0.5)
    for name in ("reference", "sdpa", "flash"):
        torch.testing.assert_close(run(name, parts)[0], everything, atol=1e-5, rtol=1e-5)


def test_a_row_that_sees_nothing_is_zero_and_teaches_nothing() -> None:
    parts = rows(7, 7)
    for name in ("reference", "sdpa"):
        out, *grads = run(name, parts, mask=Segments(PADDED_LEFT, PADDED_LEFT), causal=True)
        assert (out[0, :, :2] == 0).all() and (out[2] == 0).all()
        for grad in grads:
            assert grad.isfinite().all() and (grad[2] == 0).all() and (grad[0, :, :2] == 0).all()


def test_bias_and_cap() -> None:
    parts = rows(7, 7)
    bias = torch.randn(1, 6, 7, 7, generator=torch.Generator().manual_seed(2))
    mask = Segments(PACKED, PACKED)
    plain = run("reference", parts, mask=mask, causal=True, bias=bias)
    for x, y in zip(run("sdpa", parts, mask=mask, causal=True, bias=bias), plain, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-5)
    q, k, v = parts
    k, v = k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)
    scores = torch.tanh(q @ k.mT * 5**-0.5 / 0.7) * 0.7
    expected = scores.masked_fill(~band(7, 7, None, q.device), -torch.inf).softmax(-1) @ v
    torch.testing.assert_close(attention(*parts, causal=True, softcap=0.7), expected, atol=1e-5, rtol=1e-5)


def test_dropout_drops_and_keeps_the_mean() -> None:
    q, k = torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 4000, 4)
    v = torch.ones(1, 1, 4000, 4)
    for name in ("reference", "sdpa"):
        torch.manual_seed(0)
        with forced(name):
            out = attention(q, k, v, dropout=0.5)
        assert 0.9 < out.mean() < 1.1 and out.ne(1).any()


def test_half_precision_is_summed_in_full() -> None:
    parts = [p.detach().bfloat16() for p in rows(7, 7)]
    with forced("reference"):
        out = attention(*parts, mask=Segments(PACKED, PACKED), causal=True)
        exact = attention(*(p.double() for p in parts), mask=Segments(PACKED, PACKED), causal=True)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out, exact.bfloat16(), atol=0, rtol=1e-2)


def test_nothing_in_nothing_out() -> None:
    q, k, v = (p.detach() for p in rows(7, 7))
    assert attention(q[:0], k[:0], v[:0]).shape == (0, 6, 7, 5)
    assert (attention(q, k[:, :, :0], v[:, :, :0]) == 0).all()


def test_segments_are_worked_out_once() -> None:
    segments = Segments(PACKED, PACKED)
    assert segments.dense(True) is segments.dense(True)
    assert segments.dense(True) is not segments.dense(False)
    assert segments.groups is segments.groups
    # Queries and keys that are the same sequences are so by identity: kernels look at that.
    assert segments.groups.query_starts is segments.groups.key_starts
    assert segments.groups.query_starts.tolist() == [0, 2, 5, 6, 9, 13, 15, 16]


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"mask": Segments(PACKED, MEMORY)}, "segments are for"),
        ({"mask": torch.ones(3, 1, 7, 6, dtype=torch.bool)}, "does not fit scores"),
        ({"mask": Dense.of(torch.ones(1, 1, 1, 7, dtype=torch.bool)), "causal": True}, "dense mask says by itself"),
        ({"window": 2}, "a window is a limit on causal attention"),
    ],
)
def test_contradictions_are_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        attention(*rows(7, 7), **how)


def test_shapes_that_do_not_go_together_are_refused() -> None:
    with pytest.raises(InputError, match="6 query heads cannot share 4 key heads"):
        attention(*rows(7, 7, groups=4))
    with pytest.raises(InputError, match="causal with 7 queries and 5 keys"):
        attention(*rows(7, 5), causal=True)
    with pytest.raises((InputError, TypeCheckError)):  # the latter where shapes are checked at every call
        Segments(PACKED, PACKED[:2])


def test_the_choice_is_said_once_and_aloud(caplog: pytest.LogCaptureFixture) -> None:
    choice.say.cache_clear()
    with caplog.at_level(logging.INFO, logger="mmlm.blocks.choice"):
        for _ in range(3):
            attention(*rows(7, 7), mask=Segments(PACKED, PACKED), causal=True)
    assert [r.message for r in caplog.records] == ["attention on cpu: sdpa (flash needs CUDA, not cpu)"]


def test_the_choice_can_be_made_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMLM_ATTENTION", raising=False)
    assert chosen("cpu") == ("sdpa", "flash needs CUDA, not cpu")
    monkeypatch.setenv("MMLM_ATTENTION", "reference")
    assert chosen("cpu")[0] == "reference"
    with forced("sdpa"):
        assert chosen("cpu")[0] == "sdpa"
        with pytest.raises(InputError, match="only the reference implementation knows softcap"):
            attention(*rows(7, 7), softcap=1.0)
    monkeypatch.setenv("MMLM_ATTENTION", "flash")
    with pytest.raises(InputError, match=r"flash was asked for .* but flash needs CUDA, not cpu"):
        chosen("cpu")
    monkeypatch.setenv("MMLM_ATTENTION", "fast")
    with pytest.raises(InputError, match="expected auto, reference, sdpa, flash"):
        chosen("cpu")


@pytest.mark.usefixtures("flash")
def test_flash_is_chosen_for_segments_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MMLM_ATTENTION", raising=False)
    calls: list[int] = []
    counted: Callable[..., Tensor] = lambda *a, **k: calls.append(1) or varlen(*a, **k)  # noqa: E731
    monkeypatch.setattr(attending, "varlen", lambda: counted)
    parts = rows(7, 7, groups=6)
    attention(*parts, mask=Segments(PACKED, PACKED), causal=True)
    assert len(calls) == 1
    for how in (
        {},
        {"causal": True},
        {"mask": torch.ones(3, 1, 7, 7, dtype=torch.bool)},
        {"mask": Segments(PACKED, PACKED), "dropout": 0.1},
        {"mask": Segments(PACKED, PACKED), "softcap": 2.0},
        {"mask": Segments(PACKED, PACKED), "bias": torch.zeros(1, 1, 7, 7)},
    ):
        attention(*parts, **how)
    assert len(calls) == 1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("queries", "keys", "causal", "window"), layouts())
def test_flash_on_the_device(queries: Tensor, keys: Tensor, causal: bool, window: int | None) -> None:
    queries, keys = queries.cuda(), keys.cuda()
    parts = [p.detach().cuda().bfloat16().requires_grad_() for p in rows(queries.shape[1], keys.shape[1], width=16)]
    mask = Segments(queries, queries if queries is keys else keys)
    found = []
    for name in ("flash", "reference"):
        with forced(name):
            out = attention(*parts, mask=mask, causal=causal, window=window)
        found.append([out, *torch.autograd.grad(out.float().square().sum(), parts)])
    for x, y in zip(*found, strict=True):
        torch.testing.assert_close(x, y, atol=3e-2, rtol=3e-2)
