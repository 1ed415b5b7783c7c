"""Norms by name, so that a part can say which it has; the arithmetic is torch's own."""

from typing import Literal

from torch import nn

Norm = Literal["layer", "rms"]


def norm(kind: Norm, width: int, eps: float = 1e-5) -> nn.Module:
    """LayerNorm (Ba et al. 2016) or RMSNorm (Zhang and Sennrich 2019) over the last dimension, with a learned scale."""
    return nn.LayerNorm(width, eps=eps) if kind == "layer" else nn.RMSNorm(width, eps=eps)
