"""The gradients of one optimiser step, as the training loop has them before it clips. Run as a program, it is one of two ranks."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mmlm.assemble import Assembly, assemble
from mmlm.config import SystemConfig, load
from mmlm.training import loop


def opened(config: SystemConfig, **how: Any) -> Assembly:
    """The system with no vector at a plain value: gates start at zero, which would hide what lies behind them."""
    found = assemble(config, **how)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in found.model.parameters():
            if p.ndim < 2:
                p.add_(torch.randn(p.shape, generator=random) * 0.3)
    return found


def gradients(config: SystemConfig, out: Path) -> dict[str, torch.Tensor]:
    """Train a step of the first stage into `out`, and give the gradients that the optimiser got."""
    found: dict[str, torch.Tensor] = {}
    verify = loop.StageRun._verify

    def kept(self: loop.StageRun, batches: list[Any]) -> None:
        verify(self, batches)
        named = self.plain.named_parameters()
        found.update({n: p.grad.detach().clone() for n, p in named if p.grad is not None})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop.StageRun, "_verify", kept)
        patch.setattr(loop, "assemble", opened)
        loop.Trainer(config, out).run(config.stages[0].name)
    return found


def main(path: str, out: str, sizes: Sequence[str]) -> None:
    """Write the gradients with each size of micro-batch, the same on each rank, into `out`."""
    for size in sizes:
        config = load(path, [f"stages.0.micro_batch={size}"])
        found = gradients(config, Path(out) / f"run-{size}")
        assert torch.distributed.get_world_size() == 2
        if torch.distributed.get_rank() == 0:
            save_file(found, Path(out) / f"{size}.safetensors")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
