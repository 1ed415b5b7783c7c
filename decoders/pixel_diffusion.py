"""The pixel diffusion decoder: a small transformer that makes pictures from noise, trained here and now, on a CPU if need be."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from mmlm.errors import InputError
from mmlm.interfaces import Condition, ConditionShape, Decoder
from mmlm.sample import Image, Item, Modality

from .fitting import Square
from .patches import Patches

_EDGE = 1e-3  # times keep this far from 0 and 1, where the ratio of signal to noise has no bounds


class PixelDiffusion(Decoder):
    """Diffusion in pixels: x_t = a x + s e with a^2 + s^2 = 1 and a / s = shift / tan(pi t / 2), the cosine schedule in
    continuous time (Kingma et al. 2021), moved to more noise by a shift below 1 (Hoogeboom et al. 2023). A transformer
    over patches says the clean picture x, or the velocity v = a e - s x (Salimans & Ho 2022), and looks at the condition.

    Guidance without a classifier (Ho & Salimans 2022): while it learns, the condition of `drop` of the items is replaced by a
    learned one of none, which the sampler extrapolates away from. Samples are drawn by DDIM (Song et al. 2021).
    """

    modality: Modality = "image"
    tiny: ClassVar[dict[str, object]] = {
        "size": 8,
        "patch": 2,
        "channels": 8,
        "depth": 1,
        "heads": 2,
        "steps": 2,
        "drop": 0.5,
        "repeats": 2,
    }

    def __init__(
        self,
        condition: ConditionShape | None = None,
        *,
        size: int = 32,
        length: int = 8,
        width: int = 128,
        patch: int = 4,
        channels: int = 128,
        depth: int = 5,
        heads: int = 4,
        steps: int = 20,
        guidance: float = 2.0,
        drop: float = 0.1,
        prediction: Literal["x", "v"] = "x",
        shift: float = 0.5,
        most: float = 4.0,
        repeats: int = 1,
    ) -> None:
        """
        size: side of the pictures, in pixels.
        length, width: of the condition, where it has no shape already.
        patch: side of the squares of pixels that the transformer takes as one place.
        channels, depth, heads: of the transformer: channels of a place, blocks, heads of their attention.
        steps: of the sampler.
        guidance: w in none + w (condition - none); 1 is no guidance.
        drop: share of items that learn without their condition.
        prediction: what the transformer says, the picture or the velocity.
        shift: of the schedule; 1 is the cosine, less is more noise.
        most: greatest weight of the squared error of the picture, which is a^2 / s^2 + 1 below it.
        repeats: times and noises that each picture is learned at in one step; the LLM thinks once for all of them.
        """
        super().__init__()
        if condition is not None:
            length, width = condition.length, condition.width
        if (
            min(size, patch, length, width, depth, heads, channels, steps, repeats) < 1
            or size % patch
            or channels % heads
        ):
            raise InputError(
                f"decoder pixel_diffusion: expected whole numbers above 0, a size that the patch divides and channels that the "
                f"heads divide; got size {size}, patch {patch}, channels {channels}, heads {heads}"
            )
        if not 0 <= drop < 1 or shift <= 0 or most <= 0:
            raise InputError(
                f"decoder pixel_diffusion: expected 0 <= drop < 1, and shift and most above 0; got drop {drop}, shift "
                f"{shift}, most {most}"
            )
        self.condition = ConditionShape(length, width)
        self.transform, self.size = Square(size), size
        self.steps, self.guidance, self.drop, self.repeats = steps, guidance, drop, repeats
        self.prediction, self.shift, self.most = prediction, shift, most
        self.network = Patches(size, patch, channels, depth, heads, length, width)
        self.none = torch.nn.Parameter(torch.zeros(length, width))

    def denoise(self, units: Float[Tensor, "R 3 size size"], condition: Condition) -> Float[Tensor, " R"]:
        """The mean of min(a^2 / s^2 + 1, most) (x' - x)^2 over `repeats` noises for each picture, one at a random time in each
        of as many equal parts of 0..1."""
        rows, n = len(units), self.repeats
        times = (torch.arange(n, device=units.device) + torch.rand(rows, n, device=units.device)).flatten() / n
        x = units.float().repeat_interleave(n, 0)
        told = condition.values.repeat_interleave(n, 0)
        lost = torch.rand(rows * n, device=units.device) < self.drop
        told = torch.where(lost[:, None, None], self.none.to(told.dtype), told)
        a, s = self._levels(times)
        said = self._picture(a * x + s * torch.randn_like(x), times, told)
        weights = (s.flatten() ** -2).clamp(max=self.most)  # a^2 / s^2 + 1 = 1 / s^2
        return ((said - x).square().flatten(1).mean(1) * weights).view(rows, n).mean(1)

    def decode(self, condition: Condition, seeds: Sequence[int]) -> list[Item]:
        """Pictures as `UInt8 [size, size, 3]`."""
        told = condition.values.float()
        noise = [torch.randn(3, self.size, self.size, generator=torch.Generator().manual_seed(s)) for s in seeds]
        z = torch.stack(noise).to(told.device)
        both = torch.cat([told, self.none.to(told.dtype).expand_as(told)])
        stops = torch.linspace(1, 0, self.steps + 1, device=told.device)
        for time, after in pairwise(stops):
            with_condition, without = self._picture(z.repeat(2, 1, 1, 1), time.expand(2 * len(z)), both).chunk(2)
            x = (without + self.guidance * (with_condition - without)).clamp(-1, 1)
            (a, s), (a_after, s_after) = self._levels(time[None]), self._levels(after[None])
            z = a_after * x + s_after * (z - a * x) / s
        pixels = ((x + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return [Image(np.ascontiguousarray(p)) for p in pixels]

    def _picture(
        self, z: Float[Tensor, "R 3 size size"], times: Float[Tensor, " R"], told: Float[Tensor, "R K E"]
    ) -> Float[Tensor, "R 3 size size"]:
        """The clean picture that the transformer sees in a noisy one."""
        said: Tensor = self.network(z, times, told).float()
        if self.prediction == "x":
            return said
        a, s = self._levels(times)
        return a * z - s * said

    def _levels(self, times: Float[Tensor, " R"]) -> tuple[Float[Tensor, "R 1 1 1"], Float[Tensor, "R 1 1 1"]]:
        """The shares of picture and noise at these times."""
        ratio = self.shift / torch.tan(times.clamp(_EDGE, 1 - _EDGE) * (math.pi / 2))
        s = (ratio.square() + 1).rsqrt()[:, None, None, None]
        return ratio[:, None, None, None] * s, s
