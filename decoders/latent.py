"""The room of what decoders on diffusers have in common: latent diffusion (Rombach et al. 2022), steered by a condition."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mmlm.errors import InputError
from mmlm.interfaces import Condition, Decoder
from mmlm.sample import Item
from mmlm.weights import Weights

from .folder import Folder, quiet
from .noise import denoising

Negative = Literal["text", "zeros", "learned"]
Precision = Literal["fp32", "bf16"]


class Latent(Decoder):
    """A pretrained pipeline of diffusers as decoder: its UNet, and fixed around it a VAE, text encoders and what else makes
    media of latents. Media are made by the pipeline's own sampling loop, goals by its own encoding of text. What a stage may
    train is the UNet (`outputs.<stream>.decoder.unet`) and a learned negative (`.none`, `.none_pooled`).

    Guidance without a classifier (Ho & Salimans 2022) steers away from a negative condition, which also stands in for the
    condition of a share `drop` of the items while it learns.
    """

    pipeline: ClassVar[str]
    fixed: ClassVar[tuple[str, ...]] = (
        "vae",
        "text_encoder",
        "text_encoder_2",
        "image_encoder",
        "image_normalizer",
        "safety_checker",
        "vocoder",
    )
    tiny: ClassVar[dict[str, object]] = {"steps": 2}

    def __init__(
        self,
        weights: Weights,
        *,
        steps: int = 50,
        guidance: float = 7.5,
        negative: Negative = "text",
        drop: float = 0.0,
        snr: float | None = None,
        precision: Precision = "fp32",
    ) -> None:
        """
        steps: of the sampler.
        guidance: w in none + w (condition - none); 1 is no guidance.
        negative: what guidance steers away from: the pipeline's own encoding of the empty text ("text"), zeros (MiniGPT-5,
            Zheng et al. 2023), or a learned condition that starts from zeros (MM-Interleaved, Tian et al. 2024).
        drop: share of items that learn with the negative in place of their condition.
        snr: gamma of the min-SNR weights (Hang et al. 2023); null weighs all times alike.
        precision: of the weights; conditions are cast to it.
        """
        super().__init__()
        if not 0 <= drop < 1 or steps < 1 or guidance < 1 or (snr is not None and snr <= 0):
            raise InputError(
                f"a decoder made of a {self.pipeline}: drop {drop}, steps {steps}, guidance {guidance}, snr {snr}; expected 0 <= drop < 1, "
                f"steps and guidance from 1 on, and snr above 0 or null"
            )
        self.steps, self.guidance, self.negative, self.drop, self.snr = steps, guidance, negative, drop, snr
        self.folder = Folder(weights, self.pipeline)
        self.vae: Any = None
        self.unet: Any = None
        self.scheduler = self.folder.scheduler()
        with self.folder.told("*"):  # configs of models that do not say what a pipeline needs
            self._build()
        self._learning = self._schedule()
        shape = self.condition
        if negative == "learned":
            self.none = nn.Parameter(torch.zeros(shape.length, shape.width))
            self.none_pooled = nn.Parameter(torch.zeros(shape.pooled)) if shape.pooled else None
        if precision == "bf16":
            self.to(torch.bfloat16)
        if weights.load:
            with quiet():
                self._pipe()  # so that a tokenizer that cannot be read is told now

    @abstractmethod
    def _build(self) -> None:
        """Make the models, `condition` and `transform`."""

    @abstractmethod
    def _pipe(self) -> Any:
        """The pipeline of diffusers around the models."""

    @abstractmethod
    def _encoded(self, pipe: Any, captions: list[str]) -> tuple[Condition, Condition]:
        """The pipeline's encoding of captions, and its negative for each."""

    @abstractmethod
    def _say(self, noisy: Float[Tensor, "R ..."], times: Tensor, condition: Condition) -> Float[Tensor, "R ..."]:
        """What the UNet says of noisy latents."""

    @abstractmethod
    def _made(self, pipe: Any, condition: Condition, none: Condition, **how: Any) -> list[Item]:
        """The items that the pipeline makes; `how` are arguments that every pipeline takes."""

    def _latents(self, units: Float[Tensor, "R ..."]) -> Float[Tensor, "R ..."]:
        """Latents of media, drawn from what the VAE says of them."""
        return self.vae.encode(units).latent_dist.sample() * self.vae.config.scaling_factor  # type: ignore[no-any-return]

    def _schedule(self) -> Any:
        """The schedule to learn by: that of the sampler, as denoising diffusion has it (Ho et al. 2020)."""
        from diffusers import DDPMScheduler

        if (kind := self.scheduler.config.get("prediction_type", "epsilon")) not in ("epsilon", "v_prediction"):
            raise InputError(
                f"{self.folder.weights.name}/scheduler predicts {kind!r}; expected epsilon or v_prediction"
            )
        with torch.device("cpu"), quiet():
            return DDPMScheduler.from_config(self.scheduler.config)

    def _fits(self, width: int, what: str = "cross_attention_dim") -> None:
        """InputError where the UNet does not read what the text encoder gives."""
        if (asked := self.unet.config[what]) != width:
            raise InputError(
                f"{self.folder.weights.name}: the UNet is steered by vectors of {asked} ({what}), but the encoders give {width}"
            )

    def goal(self, captions: Sequence[str], units: Float[Tensor, "R ..."] | None) -> Condition:
        """The pipeline's own encoding of the captions: padded to the full length, and cut off there."""
        with quiet():
            return self._encoded(self._pipe(), list(captions))[0]

    def _none(self, like: Condition) -> Condition:
        """The negative of each row."""
        if self.negative == "text":
            with torch.no_grad():
                return self._encoded(self._pipe(), [""])[1].rows([0] * len(like))
        if self.negative == "zeros":
            return Condition(
                torch.zeros_like(like.values), None if like.pooled is None else torch.zeros_like(like.pooled)
            )
        pooled = None if self.none_pooled is None else self.none_pooled.expand(len(like), -1).to(like.values.dtype)
        return Condition(self.none.expand_as(like.values).to(like.values.dtype), pooled)

    def _cast(self, condition: Condition) -> Condition:
        kind = self.unet.dtype
        return Condition(condition.values.to(kind), None if condition.pooled is None else condition.pooled.to(kind))

    def denoise(self, units: Float[Tensor, "R ..."], condition: Condition) -> Float[Tensor, " R"]:
        """The mean squared error of the UNet at one random time for each item, on its latents."""
        with torch.no_grad():
            x = self._latents(units.to(self.vae.dtype))
        told = self._cast(condition)
        if self.drop or self.negative == "learned":
            told = _mixed(told, self._cast(self._none(told)), torch.rand(len(told), device=x.device) < self.drop)

        def say(noisy: Tensor, times: Tensor) -> Tensor:
            return self._say(noisy.to(self.unet.dtype), times, told)

        return denoising(say, self._learning, x, self.snr)

    def decode(self, condition: Condition, seeds: Sequence[int]) -> list[Item]:
        """The items, each from the noise of its own seed, in the pipeline's own loop."""
        generators = [torch.Generator().manual_seed(s) for s in seeds]
        with torch.no_grad(), quiet():
            told = self._cast(condition)
            none = self._cast(self._none(told))
            pipe = self._pipe()
            pipe.set_progress_bar_config(disable=True)
            return self._made(
                pipe,
                told,
                none,
                num_inference_steps=self.steps,
                guidance_scale=self.guidance,
                generator=generators,
            )

    def _sampler(self) -> Any:
        """A fresh copy of the scheduler, for the loop changes it."""
        return type(self.scheduler).from_config(self.scheduler.config)


def _mixed(told: Condition, none: Condition, lost: Tensor) -> Condition:
    """The condition, of the rows that are `lost` the negative."""
    values = torch.where(lost[:, None, None], none.values, told.values)
    if told.pooled is None or none.pooled is None:
        return Condition(values)
    return Condition(values, torch.where(lost[:, None], none.pooled, told.pooled))
