"""Rotary position embedding (Su et al. 2021), in the layout of Llama: the two halves of a head are rotated together."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def angles(positions: Int[Tensor, "B T"], width: int, base: float = 10_000.0) -> Float[Tensor, "B T {width//2}"]:
    """position * base^(-2i / width) for each pair i of a head of `width`, in fp32."""
    pairs = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32)
    return positions.float()[:, :, None] * base ** (-pairs / width)


def rotate(x: Float[Tensor, "B H T E"], by: Float[Tensor, "B T half"]) -> Float[Tensor, "B H T E"]:
    """Rotate pair i of each head, its i-th and its (E/2 + i)-th number, by the angle `by[..., i]`."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = (f(by)[:, None].to(x.dtype) for f in (torch.cos, torch.sin))
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
