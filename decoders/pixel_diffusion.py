"""The pixel diffusion decoder: a small U-Net that makes pictures from noise, trained here and now, on a CPU if need be."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Float
from PIL.Image import Resampling
from torch import Tensor

from mmlm.errors import InputError, missing_extra
from mmlm.interfaces import Condition, ConditionShape, Decoder
from mmlm.media import load_image
from mmlm.sample import Image, Item, Modality


@dataclass(frozen=True, slots=True)
class Square:
    """A picture to one unit in -1 .. 1, `Float [1, 3, size, size]`: its middle square, made smaller."""

    size: int

    def __call__(self, item: Item) -> Float[Tensor, "1 3 size size"]:
        """Raises InputError where `item` is not a picture, or cannot be read."""
        if not isinstance(item, Image):
            raise InputError(f"this decoder makes pictures; came {item.modality}")
        picture = load_image(item)
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        picture = picture.crop((left, top, left + side, top + side)).resize((self.size, self.size), Resampling.BICUBIC)
        return torch.from_numpy(np.asarray(picture, dtype=np.float32)).permute(2, 0, 1)[None] / 127.5 - 1


class PixelDiffusion(Decoder):
    """Denoising diffusion in pixels (Ho et al. 2020) by the U-Net of diffusers, which reads the condition by
    cross-attention. Guidance without a classifier (Ho & Salimans 2022): while it learns, the condition of `drop` of the
    items is replaced by a learned one of none, which the sampler extrapolates away from.

    Samples are drawn by DDIM (Song et al. 2021) in `steps` steps.
    """

    modality: Modality = "image"
    tiny: ClassVar[dict[str, object]] = {
        "size": 8,
        "channels": [8, 16],
        "blocks": 1,
        "steps": 2,
        "heads": 2,
        "drop": 0.5,
    }

    def __init__(
        self,
        *,
        size: int = 32,
        length: int = 8,
        width: int = 128,
        channels: list[int] | None = None,
        blocks: int = 1,
        heads: int = 4,
        times: int = 1000,
        steps: int = 30,
        guidance: float = 3.0,
        drop: float = 0.1,
        prediction: str = "v",
        snr: float | None = 5.0,
    ) -> None:
        """
        size: side of the pictures, in pixels.
        length, width: of the condition.
        channels: of each level of the U-Net, from fine to coarse; [64, 128, 128] where nothing is said.
        blocks: residual blocks of a level.
        heads: of the attention.
        times: steps of the noise schedule (cosine, Nichol & Dhariwal 2021).
        steps: of the sampler.
        guidance: w in none + w (condition - none); 1 is no guidance.
        drop: share of items that learn without their condition.
        prediction: what the U-Net says, the noise ("eps") or the velocity ("v", Salimans & Ho 2022).
        snr: gamma of the min-SNR weights (Hang et al. 2023); null weighs all times alike.
        """
        try:
            from diffusers import DDIMScheduler, UNet2DConditionModel
        except ImportError as e:
            raise missing_extra("diffusers", "generate", "decoder pixel_diffusion") from e
        super().__init__()
        levels = channels or [64, 128, 128]
        if prediction not in ("eps", "v") or not 0 <= drop < 1 or size % 2 ** (len(levels) - 1):
            raise InputError(
                f"decoder pixel_diffusion: prediction {prediction!r}, drop {drop}, size {size} with {len(levels)} levels; "
                f"expected eps or v, 0 <= drop < 1, and a size that {2 ** (len(levels) - 1)} divides"
            )
        self.condition = ConditionShape(length, width)
        self.transform, self.size = Square(size), size
        self.steps, self.guidance, self.drop, self.snr, self.velocity = steps, guidance, drop, snr, prediction == "v"
        coarse = len(levels) - 1
        self.unet: Any = UNet2DConditionModel(
            sample_size=size,
            in_channels=3,
            out_channels=3,
            block_out_channels=tuple(levels),
            layers_per_block=blocks,
            down_block_types=("DownBlock2D",) + ("CrossAttnDownBlock2D",) * coarse,
            up_block_types=("CrossAttnUpBlock2D",) * coarse + ("UpBlock2D",),
            cross_attention_dim=width,
            attention_head_dim=heads,
            norm_num_groups=8,
        )
        self.none = torch.nn.Parameter(torch.zeros(length, width))
        self.scheduler: Any = DDIMScheduler(
            num_train_timesteps=times,
            beta_schedule="squaredcos_cap_v2",
            prediction_type="v_prediction" if self.velocity else "epsilon",
            timestep_spacing="trailing",
            rescale_betas_zero_snr=self.velocity,
        )

    def denoise(self, units: Float[Tensor, "R 3 size size"], condition: Condition) -> Float[Tensor, " R"]:
        """The mean squared error of the U-Net at one random time for each picture, weighed by min-SNR."""
        rows, device = len(units), units.device
        times = torch.randint(0, self.scheduler.config.num_train_timesteps, (rows,), device=device)
        noise = torch.randn_like(units)
        lost = torch.rand(rows, device=device) < self.drop
        told = torch.where(lost[:, None, None], self.none.to(condition.values.dtype), condition.values)
        said = self.unet(self.scheduler.add_noise(units, noise, times), times, told).sample
        meant = self.scheduler.get_velocity(units, noise, times) if self.velocity else noise
        error = (said.float() - meant).square().mean((1, 2, 3))
        if self.snr is None:
            return error  # type: ignore[no-any-return]
        kept = self.scheduler.alphas_cumprod.to(device)[times]
        ratio = kept / (1 - kept)
        return error * ratio.clamp(max=self.snr) / (ratio + 1 if self.velocity else ratio.clamp(min=1e-8))  # type: ignore[no-any-return]

    def decode(self, condition: Condition, seeds: Sequence[int]) -> list[Item]:
        """Pictures as `UInt8 [size, size, 3]`."""
        told = condition.values.float()
        size, device = self.size, told.device
        noise = [torch.randn(3, size, size, generator=torch.Generator().manual_seed(s)) for s in seeds]
        x = torch.stack(noise).to(device)
        both = torch.cat([told, self.none.expand_as(told)])
        self.scheduler.set_timesteps(self.steps, device=device)
        for time in self.scheduler.timesteps:
            with_condition, without = self.unet(torch.cat([x, x]), time, both).sample.chunk(2)
            said = without + self.guidance * (with_condition - without)
            x = self.scheduler.step(said, time, x).prev_sample
        pixels = ((x.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        return [Image(np.ascontiguousarray(p)) for p in pixels]
