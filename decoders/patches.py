"""The room of the small transformer that the pixel diffusion decoder denoises with."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mmlm.blocks.mlp import MLP
from mmlm.blocks.multihead import MultiHead
from mmlm.blocks.norms import norm

_WAVES = 64  # sines and cosines that a time is told by
_FASTEST = 1000.0


class Patches(nn.Module):
    """A transformer over squares of `patch` x `patch` pixels (DiT, Peebles & Xie 2023, arXiv 2212.09748). The squares look at the
    vectors of the condition (PixArt-alpha, Chen et al. 2023, arXiv 2310.00426), which stay as they came: what a vector says goes
    with no other, so that words are drawn together that were learned apart. The time scales and shifts every block.

    Told to predict the clean picture or the velocity it gives that; it does not know which.
    """

    def __init__(self, size: int, patch: int, channels: int, depth: int, heads: int, length: int, width: int) -> None:
        """size: side of the pictures. channels: of a square. length, width: of the condition."""
        super().__init__()
        self.patch, self.side = patch, size // patch
        self.enter, self.tell = nn.Linear(3 * patch**2, channels), nn.Linear(width, channels)
        self.told_norm = norm("layer", width)
        self.places = nn.Parameter(torch.randn(self.side**2, channels) * 0.5)
        self.told_places = nn.Parameter(torch.randn(length, channels) * 0.5)
        self.time = nn.Sequential(nn.Linear(_WAVES, channels), nn.SiLU(), nn.Linear(channels, channels))
        self.blocks = nn.ModuleList(Block(channels, heads) for _ in range(depth))
        self.norm, self.leave = norm("layer", channels), nn.Linear(channels, 3 * patch**2)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(self.leave.bias)

    def forward(
        self, x: Float[Tensor, "R 3 S S"], times: Float[Tensor, " R"], condition: Float[Tensor, "R K E"]
    ) -> Float[Tensor, "R 3 S S"]:
        """times: in 0 (clean) .. 1 (noise)."""
        kind = self.places.dtype
        x, condition = x.to(kind), condition.to(kind)
        squares = self.enter(F.pixel_unshuffle(x, self.patch).flatten(2).transpose(1, 2))
        h = squares + self.places
        told = self.tell(self.told_norm(condition)) + self.told_places
        time = F.silu(self.time(_waves(times).to(kind)))[:, None]
        for block in self.blocks:
            h = block(h, told, time)
        said = self.leave(self.norm(h)).transpose(1, 2)
        return F.pixel_shuffle(said.unflatten(2, (self.side, self.side)), self.patch)


class Block(nn.Module):
    """x + g attention(norm(x)), then + look(norm(x), told), then + g' mlp(norm(x)), where the time gives g and g' and scales and
    shifts what they work on. It begins as a block that hears nothing of the time."""

    def __init__(self, channels: int, heads: int) -> None:
        super().__init__()
        self.attention_norm, self.ffn_norm = (nn.LayerNorm(channels, elementwise_affine=False) for _ in range(2))
        self.look_norm = norm("layer", channels)
        self.attention, self.look = (
            MultiHead(channels, heads=heads, head_width=channels // heads, bias=True) for _ in range(2)
        )
        self.ffn = MLP(channels, 3 * channels)
        self.time = nn.Linear(channels, 6 * channels)
        nn.init.zeros_(self.time.weight)
        nn.init.zeros_(self.time.bias)

    def forward(
        self, x: Float[Tensor, "R T C"], told: Float[Tensor, "R K C"], time: Float[Tensor, "R 1 C"]
    ) -> Float[Tensor, "R T C"]:
        scale, shift, gate, ffn_scale, ffn_shift, ffn_gate = self.time(time).chunk(6, dim=-1)
        y = self.attention_norm(x) * (1 + scale) + shift
        x = x + (1 + gate) * self.attention(y, y)
        x = x + self.look(self.look_norm(x), told)
        y = self.ffn_norm(x) * (1 + ffn_scale) + ffn_shift
        return x + (1 + ffn_gate) * self.ffn(y)  # type: ignore[no-any-return]


def _waves(times: Float[Tensor, " R"]) -> Float[Tensor, "R F"]:
    """Times as sines and cosines of falling speed (Vaswani et al. 2017)."""
    speeds = torch.exp(torch.arange(_WAVES // 2, device=times.device) * (-2 * math.log(_FASTEST) / _WAVES)) * _FASTEST
    angles = times[:, None].float() * speeds
    return torch.cat([angles.sin(), angles.cos()], dim=-1)
