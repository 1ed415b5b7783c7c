"""Evaluation room: an assembled system as an answerer."""

import hashlib
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import torch

from mmlm.assemble import Assembly
from mmlm.evaluation.answerer import Said
from mmlm.reply import Decoding, likelihood, reply
from mmlm.sample import Sample
from mmlm.training.run import load_run


class Assembled:
    """Answers with an assembly. Its fingerprint is the run's, or of the weights themselves where there is no run."""

    def __init__(self, assembly: Assembly) -> None:
        self.assembly = assembly

    @cached_property
    def fingerprint(self) -> str:
        return f"{self.assembly.fingerprint or _of_weights(self.assembly)} {self.settings['dtype']}"

    @property
    def settings(self) -> Mapping[str, str]:
        weight = next(self.assembly.model.parameters())
        return {
            "system": self.assembly.config.name,
            "template": self.assembly.config.template,
            "dtype": str(weight.dtype).removeprefix("torch."),
            "device": weight.device.type,
        }

    def reply(self, samples: Sequence[Sample], decoding: Decoding) -> Sequence[Said]:
        return reply(self.assembly, samples, decoding)

    def likelihood(
        self, samples: Sequence[Sample], replies: Sequence[Sequence[str]]
    ) -> Sequence[Sequence[tuple[float, int]]]:
        return likelihood(self.assembly, samples, replies)


def opened(run: Path, limit: int) -> tuple[Assembled, Decoding]:
    """The system in a run folder, and greedy decoding of at most `limit` tokens."""
    return Assembled(load_run(run)), Decoding(limit=limit)


def _of_weights(assembly: Assembly) -> str:
    """SHA-256 over the config and every tensor, by name."""
    whole = hashlib.sha256(assembly.config.model_dump_json().encode())
    for name, tensor in sorted(assembly.model.state_dict().items()):
        whole.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        whole.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()
