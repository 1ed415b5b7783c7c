"""Linear head and cross-entropy, forward and backward: all logits at once, in chunks, and torch's own fused version.

python benchmarks/loss.py [--states 1024] [--width 576] [--vocabulary 49152] [--frozen] [--bf16]
"""

import argparse
import json
import sys

import torch
import torch.nn.functional as F
from measured import compare, measure, show

import mmlm.blocks.loss as room


def main() -> None:
    """Compare, or be one of those compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--states", type=int, default=1024)
    parser.add_argument("--width", type=int, default=576)
    parser.add_argument("--vocabulary", type=int, default=49152)
    parser.add_argument("--frozen", action="store_true", help="the head is not trained")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--variant", choices=["plain", "chunked", "torch"], help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.variant is None:
        variants = ["plain", "chunked", *(["torch"] if hasattr(F, "linear_cross_entropy") and not given.bf16 else [])]
        medians = compare(__file__, variants, sys.argv[1:])
        head = "frozen" if given.frozen else "trained"
        show(f"{given.states} states of {given.width}, vocabulary {given.vocabulary}, {head} head", medians)
        return
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if given.bf16 else torch.float32
    torch.manual_seed(given.seed)
    states = torch.randn(given.states, given.width, device=device, dtype=dtype, requires_grad=True)
    weight = (
        torch.randn(given.vocabulary, given.width, device=device, dtype=dtype)
        .mul_(0.02)
        .requires_grad_(not given.frozen)
    )
    targets = torch.randint(0, given.vocabulary, (given.states,), device=device)
    if given.variant == "chunked":
        room._native = lambda *_: False

    def work() -> None:
        states.grad = weight.grad = None
        if given.variant == "plain":
            loss = F.cross_entropy(F.linear(states, weight).float(), targets, reduction="sum")
        else:
            loss = room.linear_cross_entropy(states, weight, targets)
        loss.backward()

    print(json.dumps(measure(work, device)))


if __name__ == "__main__":
    main()
