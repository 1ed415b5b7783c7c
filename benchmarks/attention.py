"""Causal attention over packed rows, forward and backward, by each implementation that runs here.

python benchmarks/attention.py [--rows 2] [--length 1024] [--samples 4] [--heads 9] [--groups 3] [--width 64]
"""

import argparse
import json
import sys

import torch
from measured import compare, measure, show

from mmlm.blocks.attention import attention, chosen, forced
from mmlm.blocks.masks import Segments


def main() -> None:
    """Compare, or be one of those compared."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=1024)
    parser.add_argument(
        "--samples", type=int, default=4, help="samples packed in a row; an eighth of the row is padding"
    )
    parser.add_argument("--heads", type=int, default=9)
    parser.add_argument("--groups", type=int, default=3)
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--variant", choices=["reference", "sdpa", "flash"], help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    if given.variant is None:
        name, reason = chosen(device, dtype)
        variants = ["reference", "sdpa", *(["flash"] if name == "flash" else [])]
        medians = compare(__file__, variants, sys.argv[1:])
        show(
            f"{given.rows} rows of {given.length}, {given.samples} samples each, {given.heads}/{given.groups} heads",
            medians,
        )
        print(f"chosen on {device} in {dtype}: {name} ({reason})")
        return
    torch.manual_seed(given.seed)
    heads = (given.heads, given.groups, given.groups)
    q, k, v = (torch.randn(given.rows, h, given.length, given.width, device=device, dtype=dtype) for h in heads)
    parts = [x.requires_grad_() for x in (q, k, v)]
    real = given.length * 7 // 8
    row = torch.arange(given.length, device=device) * given.samples // real + 1
    segments = torch.where(torch.arange(given.length, device=device) < real, row, 0).expand(given.rows, -1)

    def work() -> None:
        with forced(given.variant):
            out = attention(*parts, mask=Segments(segments, segments), causal=True)
        torch.autograd.grad(out.float().sum(), parts)

    print(json.dumps(measure(work, device)))


if __name__ == "__main__":
    main()
