"""The encoder-decoder backbone stored in half precision."""

import torch

from mmlm.backbones.seq2seq import Seq2Seq
from mmlm.conformance.backbones import laid, prompts
from mmlm.weights import Weights


def made(dtype: str) -> Seq2Seq:
    torch.manual_seed(0)
    return Seq2Seq(Weights("google/flan-t5-small", load=False, tiny=True), 61, dtype=dtype)  # type: ignore[arg-type]


def test_bf16_halves_the_weights_and_thinks_nearly_the_same() -> None:
    full, half = made("fp32"), made("bf16")
    assert {p.dtype for p in half.llm.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in full.llm.parameters()} == {torch.float32}
    given = laid([[[5, 17, 9, 30, 2, 41], [8, 8, 25, 12]]])
    losses = []
    for backbone in (full, half):
        states, targets = backbone.read(backbone.embed(given.ids), given)
        assert backbone.logits(states).dtype is torch.float32
        losses.append(backbone.loss(states, targets))
    assert losses[1].dtype is torch.float32
    torch.testing.assert_close(losses[0], losses[1], rtol=2e-2, atol=0)


def test_bf16_replies_and_passes_gradients_on() -> None:
    half = made("bf16").requires_grad_(False)
    asked = prompts([[5, 17, 9], [4, 5, 17, 9]])
    session = half.start(half.embed(asked.ids), asked, None)
    session.advance(torch.tensor([30, 2]))
    assert session.states.dtype is torch.bfloat16 and bool(torch.isfinite(half.logits(session.states)).all())
    given = laid([[[5, 17, 9, 30, 2, 41]]])
    x = half.embed(given.ids).requires_grad_(True)
    with torch.autocast("cpu", torch.bfloat16):
        half.loss(*half.read(x, given)).backward()
    assert x.grad is not None and bool(x.grad[0, :3].any())
