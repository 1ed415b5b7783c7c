"""Part of the conformance room: the contract of backbones."""

import torch
from torch import Tensor

from mmlm.backbones.backbone import Backbone
from mmlm.batch import IGNORE, Batch
from mmlm.conformance.building import VOCABULARY, Maker
from mmlm.conformance.modules import check_module
from mmlm.conformance.report import Sheet, equal, need

PROMPT = 3
ONE, TWO = [5, 17, 9, 30, 2, 41], [8, 8, 25, 12]  # two samples: a prompt of three ids each, then what is learnt


def laid(rows: list[list[list[int]]]) -> Batch:
    """Samples in rows, padded on the right; all but each sample's first three ids are learnt."""
    width = max(sum(map(len, row)) for row in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels, positions, segments = torch.full_like(ids, IGNORE), torch.zeros_like(ids), torch.zeros_like(ids)
    for r, row in enumerate(rows):
        at = 0
        for s, sample in enumerate(row, start=1):
            here = slice(at, at + len(sample))
            ids[r, here], positions[r, here], segments[r, here] = torch.tensor(sample), torch.arange(len(sample)), s
            labels[r, at + PROMPT : at + len(sample)] = torch.tensor(sample[PROMPT:])
            at += len(sample)
    return Batch(ids, positions, segments, labels)


def prompts(samples: list[list[int]]) -> Batch:
    """One sample a row, padded on the left: what a reply begins with."""
    width = max(map(len, samples))
    ids = torch.tensor([[0] * (width - len(s)) + s for s in samples])
    segments = torch.tensor([[0] * (width - len(s)) + [1] * len(s) for s in samples])
    positions = (segments.cumsum(1) - 1).clamp(min=0)
    return Batch(ids, positions, segments, torch.full_like(ids, IGNORE))


def read(backbone: Backbone, batch: Batch) -> tuple[Tensor, Tensor]:
    """States and targets of a batch of plain text."""
    return backbone.read(backbone.embed(batch.ids), batch)


def check_backbone(maker: Maker, sheet: Sheet) -> None:
    """States of packed, padded and single samples agree; a reply token by token agrees with them; rows can be added."""
    if not sheet.row(
        "builds", "a small instance, as the assembler builds it", lambda: type(maker(vocabulary=VOCABULARY)).__name__
    ):
        return
    part: Backbone = maker(vocabulary=VOCABULARY)

    def described() -> str:
        need(part.rows >= VOCABULARY, f"{part.rows} rows for a vocabulary of {VOCABULARY}")
        need(
            min(part.width, part.layers, part.heads, part.intermediate) >= 1,
            f"width {part.width}, layers {part.layers}",
        )
        out = part.embed(torch.tensor([[1, VOCABULARY - 1]]))
        need(list(out.shape) == [1, 2, part.width], f"embed gives {list(out.shape)}, but width is {part.width}")
        return f"width {part.width}, {part.layers} layers, {part.rows} rows"

    def learnt() -> str:
        states, targets = read(part, laid([[ONE]]))
        need(targets.tolist() == ONE[PROMPT:], f"the targets {targets.tolist()} for {ONE[PROMPT:]}")
        need(list(states.shape) == [len(targets), part.width], f"states of the shape {list(states.shape)}")
        logits = part.logits(states)
        need(
            logits.dtype is torch.float32 and logits.shape[-1] == part.rows,
            f"logits {list(logits.shape)} of {logits.dtype}",
        )
        return f"{len(targets)} states, logits over {part.rows} ids"

    def same(rows: list[list[list[int]]]) -> str:
        got, targets = read(part, laid(rows))
        need(targets.tolist() == ONE[PROMPT:] + TWO[PROMPT:], f"the targets {targets.tolist()}")
        return equal(got, torch.cat([read(part, laid([[s]]))[0] for s in (ONE, TWO)]), 1e-4)

    with torch.no_grad():
        sheet.row("dimensions", "width, layers and rows fit the embedding", described)
        sheet.row("read", "one state of width D for each supervised token, in order; logits in fp32", learnt)
        sheet.row("packed", "samples packed into one row give the states they give alone", lambda: same([[ONE, TWO]]))
        sheet.row(
            "padded", "samples padded to one length give the states they give alone", lambda: same([[ONE], [TWO]])
        )
        sheet.row("token by token", "a reply reads the states that training reads", lambda: said(part))
        sheet.row(
            "added rows", "new ids have rows of their own, the LLM stays", lambda: _added(maker(vocabulary=VOCABULARY))
        )
    check_module(
        sheet,
        lambda seed: maker(seed, vocabulary=VOCABULARY),
        lambda p, dtype: p.head(read(p, laid([[ONE], [TWO]]))[0]),
    )


def said(part: Backbone) -> str:
    """Replies to two prompts of different lengths, fed with known ids, against the states that learning them reads."""
    samples = [ONE, [4, *ONE]]
    batch = prompts([ONE[:PROMPT], [4, *ONE[:PROMPT]]])
    session = part.start(part.embed(batch.ids), batch, None)
    learnt = [laid([[s]]) for s in samples]
    learnt[1].labels[0, PROMPT] = IGNORE  # the longer prompt has four ids
    expected = [read(part, b)[0] for b in learnt]
    worst = equal(session.states, torch.stack([e[0] for e in expected]), 1e-4)
    for k, token in enumerate(ONE[PROMPT:-1], start=1):
        session.advance(torch.tensor([token] * 2))
        worst = equal(session.states, torch.stack([e[k] for e in expected]), 1e-4)
    return worst


def _added(part: Backbone) -> str:
    """Two ids more than the tokenizer has: embedded and said, and nothing of the LLM is another than before."""
    before = {n: p.detach().clone() for n, p in part.llm.named_parameters()}
    ids, states = torch.tensor([[1, VOCABULARY - 1]]), torch.randn(3, part.width)
    embedded, logits = part.embed(ids), part.logits(states)
    part.add_rows(VOCABULARY, 2)
    after = dict(part.llm.named_parameters())
    need(
        before.keys() == after.keys() and all(torch.equal(after[n], p) for n, p in before.items()),
        "an LLM that changed",
    )
    need(part.rows >= VOCABULARY + 2, f"{part.rows} rows for {VOCABULARY + 2} ids")
    need(torch.equal(part.embed(ids), embedded), "other embeddings of the LLM's own ids")
    out = part.embed(torch.tensor([[VOCABULARY, VOCABULARY + 1]]))
    need(list(out.shape) == [1, 2, part.width], f"new ids embedded as {list(out.shape)}")
    said = part.logits(states)
    need(said.shape[-1] == part.rows, f"logits over {said.shape[-1]} ids of {part.rows}")
    equal(said[:, :VOCABULARY], logits[:, :VOCABULARY])
    return f"{VOCABULARY} to {VOCABULARY + 2} ids"
