"""The fused loss equals cross-entropy over all logits, whoever computes it."""

import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import TypeCheckError
from torch import Tensor

import mmlm.blocks.loss as room
from mmlm.batch import IGNORE
from mmlm.blocks.loss import Rows, linear_cross_entropy
from mmlm.errors import InputError


@pytest.fixture(params=["torch's own", "chunked"])
def version(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "chunked":
        monkeypatch.setattr(room, "_native", lambda *_: False)
    elif not hasattr(F, "linear_cross_entropy"):
        pytest.skip("this torch has no linear_cross_entropy")
    return str(request.param)


def given(dtype: torch.dtype = torch.float32, bias: bool = True) -> tuple[list[Tensor], Tensor]:
    torch.manual_seed(0)
    parts = [torch.randn(37, 11, dtype=dtype), torch.randn(101, 11, dtype=dtype)]
    parts += [torch.randn(101, dtype=dtype)] if bias else []
    targets = torch.randint(0, 101, (37,))
    targets[[0, 8, 36]] = IGNORE
    return [p.requires_grad_() for p in parts], targets


def plain(parts: list[Tensor], targets: Tensor, softcap: float | None = None, scale: float = 1.0) -> Tensor:
    logits = F.linear(parts[0] * scale, *parts[1:]).float()
    logits = softcap * torch.tanh(logits / softcap) if softcap else logits
    return F.cross_entropy(logits, targets, ignore_index=IGNORE, reduction="sum")


def ours(parts: list[Tensor], targets: Tensor, **how: Any) -> Tensor:
    return linear_cross_entropy(*parts[:2], targets, bias=parts[2] if len(parts) > 2 else None, **how)


@pytest.mark.parametrize("how", [{}, {"scale": 0.3}, {"softcap": 1.7}, {"softcap": 3.0, "scale": 2.0}])
@pytest.mark.parametrize("chunk", [None, 1, 5, 37, 64])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.usefixtures("version")
def test_equals_cross_entropy_over_all_logits(how: dict[str, float], chunk: int | None, bias: bool) -> None:
    parts, targets = given(bias=bias)
    out, expected = ours(parts, targets, chunk=chunk, **how), plain(parts, targets, **how)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-6)
    found = torch.autograd.grad(2.5 * out, parts)
    for a, b in zip(found, torch.autograd.grad(2.5 * expected, parts), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("version")
@pytest.mark.parametrize("trained", [(True, False), (False, True), (False, False)])
def test_frozen_parts_get_no_gradient(trained: tuple[bool, bool]) -> None:
    parts, targets = given(bias=False)
    for part, wanted in zip(parts, trained, strict=True):
        part.requires_grad_(wanted)
    out = ours(parts, targets)
    assert out.requires_grad == any(trained)
    if any(trained):
        out.backward()
    assert [p.grad is not None for p in parts] == list(trained)
    with torch.no_grad():
        torch.testing.assert_close(ours(parts, targets), plain(parts, targets))


@pytest.mark.usefixtures("version")
def test_half_precision_still_sums_in_full() -> None:
    parts, targets = given(torch.bfloat16)
    out = ours(parts, targets, chunk=5)
    assert out.dtype == torch.float32
    torch.testing.assert_close(out, plain(parts, targets), rtol=1e-5, atol=1e-5)
    found = torch.autograd.grad(out, parts)
    for a, b in zip(found, torch.autograd.grad(plain(parts, targets), parts), strict=True):
        assert a.dtype == torch.bfloat16
        torch.testing.assert_close(a, b, atol=2e-2, rtol=2e-2)


@pytest.mark.usefixtures("version")
def test_autocast_is_heard() -> None:
    parts, targets = given()
    with torch.autocast("cpu", torch.bfloat16):
        out, expected = ours(parts, targets), plain(parts, targets)
    assert out.dtype == torch.float32 and parts[0].dtype == torch.float32
    torch.testing.assert_close(out, expected, rtol=1e-4, atol=1e-4)
    for a, b in zip(torch.autograd.grad(out, parts), torch.autograd.grad(expected, parts), strict=True):
        assert a.dtype == torch.float32
        torch.testing.assert_close(a, b, atol=5e-2, rtol=5e-2)


@pytest.mark.usefixtures("version")
def test_no_token_at_all() -> None:
    parts, targets = given(bias=False)
    out = linear_cross_entropy(parts[0][:0], parts[1], targets[:0])
    out.backward()
    assert out == 0 and (parts[0].grad == 0).all()
    none = linear_cross_entropy(*parts, torch.full_like(targets, IGNORE))
    assert none == 0 and (torch.autograd.grad(none, parts)[1] == 0).all()


def test_logits_of_all_tokens_never_stand_in_memory() -> None:
    """Counted in tensors made, not in bytes of the process: none is as large as [M, V]."""
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = [0]

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for x in out if isinstance(out, tuple | list) else [out]:
                if isinstance(x, Tensor):
                    largest[0] = max(largest[0], x.numel())
            return out

    states, weight = torch.randn(400, 8, requires_grad=True), torch.randn(300, 8, requires_grad=True)
    targets = torch.randint(0, 300, (400,))
    for softcap in (None, 2.0):
        largest[0] = 0
        with Watch(), warnings.catch_warnings():
            linear_cross_entropy(states, weight, targets, softcap=softcap, chunk=20).backward()
        assert largest[0] <= 20 * 300, f"a tensor of {largest[0]} elements"


@pytest.mark.parametrize("how", [{}, {"scale": 0.3}, {"softcap": 1.7}])
@pytest.mark.parametrize("chunk", [None, 5])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("first", [101, 90, 99, 0], ids=["behind", "inside", "across", "from the first"])
def test_rows_in_a_table_of_their_own_are_as_rows_of_the_head(
    first: int, bias: bool, chunk: int | None, how: dict[str, float]
) -> None:
    parts, targets = given(bias=bias)
    own = [torch.randn(4, 11, requires_grad=True)] + ([torch.randn(4, requires_grad=True)] if bias else [])
    targets[1:5] = torch.arange(first, first + 4)
    tables = [torch.cat([t[:first], r, t[first + 4 :]]) for t, r in zip(parts[1:], own, strict=True)]
    out = ours(parts, targets, chunk=chunk, added=Rows(first, *own), **how)
    expected = plain([parts[0], *tables], targets, **how)
    torch.testing.assert_close(out, expected, atol=1e-5, rtol=1e-6)
    found = torch.autograd.grad(2.5 * out, [*parts, *own])
    for a, b in zip(found, torch.autograd.grad(2.5 * expected, [*parts, *own]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_added_rows_alone_can_learn() -> None:
    """No gradient of the frozen head is made, and no copy of it."""
    parts, targets = given(bias=False)
    states, weight = (p.detach() for p in parts)
    rows = torch.randn(4, 11, requires_grad=True)
    ours([states, weight], targets, added=Rows(101, rows)).backward()
    assert rows.grad is not None and bool(rows.grad.any())
    with torch.autocast("cpu", torch.bfloat16):
        out = ours([states, weight], targets, added=Rows(101, rows))
    torch.testing.assert_close(out, plain([states, torch.cat([weight, rows])], targets), rtol=1e-2, atol=0)


def test_shapes_that_do_not_go_together_are_refused() -> None:
    with pytest.raises((InputError, TypeCheckError)):  # the latter where shapes are checked at every call
        linear_cross_entropy(torch.randn(3, 4), torch.randn(5, 6), torch.zeros(3, dtype=torch.long))
