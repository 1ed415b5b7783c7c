"""Batches: what a prompt is answered does not depend on what it is batched with, in each of the three ways to see."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ledger import record, share
from systems import tiny

from mmlm.assemble import Assembly, assemble
from mmlm.batch import IGNORE
from mmlm.reply import Decoding, Reply, reply
from mmlm.sample import Image, Part, Sample, Turn

WAYS = {"slots": "mlp", "memory": "memory", "seq2seq slots": "seq2seq"}
PROMPTS = share(64, 10)
SIZES = [n for n in (2, 8, 64) if n <= PROMPTS]
ALLOWED = {
    "slots": 1e-5,
    "memory": 1e-5,
    "seq2seq slots": 5e-5,
}  # of a log-probability; T5's logits are ten times larger
WORDS = [
    "what is seen",
    "in this",
    "picture",
    "and",
    "how many",
    "of them",
    "stand near",
    "the red bus",
    "on",
    "the beach",
]


def prompt(seed: int) -> Sample:
    """Between no item and four, anywhere in a question of between one word and twelve."""
    random = np.random.default_rng(seed)
    parts: list[Part] = [" ".join(random.choice(WORDS, random.integers(1, 13))) + "?"]
    for _ in range(seed % 5):
        shape = (*random.integers(3, 60, 2), 3)
        parts.insert(int(random.integers(0, len(parts) + 1)), Image(random.integers(0, 256, shape, dtype=np.uint8)))
    return Sample((Turn("user", tuple(parts)),), str(seed), f"test:{seed}")


def in_training(assembly: Assembly, asked: Sample, said: Reply) -> torch.Tensor:
    """The log-probabilities that the forward of training gives to what was said."""
    example = assembly.processor(replace(asked, turns=(*asked.turns, Turn("assistant", ("x",)))))
    at = next(i for i, label in enumerate(example.labels) if label != IGNORE)
    forced = replace(example, ids=[*example.ids[:at], *said.ids], labels=[IGNORE] * at + [*said.ids])
    with torch.no_grad():
        states, targets = assembly.model.states(assembly.processor.collate([[forced]]))
        return assembly.model.backbone.logits(states).log_softmax(-1).gather(-1, targets[:, None]).squeeze(-1)


@pytest.mark.parametrize("way", WAYS)
def test_a_reply_does_not_depend_on_its_batch(way: str, tmp_path: Path) -> None:
    assembly = assemble(tiny(WAYS[way], tmp_path, "length=512"))
    torch.manual_seed(0)
    with torch.no_grad():
        for p in assembly.model.parameters():
            if p.ndim < 2:  # gates start at zero, which would hide every fault
                p.add_(torch.randn_like(p) * 0.3)
    prompts = [prompt(seed) for seed in range(PROMPTS)]
    decoding = Decoding(limit=4)
    alone = [reply(assembly, [p], decoding)[0] for p in prompts]
    differences = [
        float((in_training(assembly, p, r) - torch.tensor(r.logprobs)).abs().max())
        for p, r in zip(prompts, alone, strict=True)
    ]
    for size in SIZES:
        made = [r for i in range(0, PROMPTS, size) for r in reply(assembly, prompts[i : i + size], decoding)]
        for one, other in zip(alone, made, strict=True):
            assert (other.ids, other.finish, other.prompt_tokens) == (one.ids, one.finish, one.prompt_tokens)
            differences.append(float(np.abs(np.subtract(other.logprobs, one.logprobs)).max()))
    assert max(differences) <= ALLOWED[way]
    record(
        f"injection {way}", "batch invariance: batches of 1, 2, 8, 64", len(differences), max(differences), ALLOWED[way]
    )
