"""Stable Diffusion as decoders of pictures: 1.x and 2.x, and XL."""

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mmlm.errors import InputError
from mmlm.interfaces import Condition, ConditionShape
from mmlm.sample import Item
from mmlm.weights import Weights

from .pictures import Pictures, items, looking


class Steerable(Pictures):
    """Pictures steered by the checkpoint's own encoding of text, or by a condition of another shape.

    Where another `width` is asked for, no text encoder is read, and goals and the negative "text" are refused. The tensors of
    the UNet that read the condition are then new and random where the checkpoint's are of another shape, and no others are
    (`folder.new` names them); a stage that trains the decoder, by `denoise` or `reconstruct`, makes them.
    """

    def __init__(
        self,
        weights: Weights,
        condition: ConditionShape | None = None,
        *,
        length: int | None = None,
        width: int | None = None,
        **options: Any,
    ) -> None:
        """
        length: how many vectors the condition is; null is as many as the text encoder gives, 77, and needed with a `width`.
            Encodings of text are cut off there (DreamLLM steers the 2.1 of 1024 by 64, Dong et al. 2024).
        width: of one vector; null is the text encoder's. Emu steers the 1.5 of 768 by 32 vectors of 5120 (Sun et al. 2023).
        """
        if condition is not None and (length or width):
            raise InputError(
                f"decoder of a {self.pipeline}: length {length}, width {width}; expected neither, as the vectors that the LLM is "
                f"fed have {condition.length} x {condition.width}"
            )
        if condition is not None:
            length, width = condition.length, condition.width
        self.length, self.width = length, width
        if min(1 if length is None else length, 1 if width is None else width) < 1 or (width and not length):
            raise InputError(
                f"decoder of a {self.pipeline}: length {length}, width {width}; expected both from 1 on, and a `length` where "
                f"there is a `width`"
            )
        if width and options.get("negative", "text") == "text":
            raise InputError(
                f"decoder of a {self.pipeline}: vectors of width {width} are no encoding of text, so that there is none of the "
                f"empty text to steer away from; set `negative` to zeros or learned"
            )
        super().__init__(weights, **options)

    def _texts(self, longest: int) -> int:
        """The length of the condition, where text encoders give `longest` vectors."""
        self.longest = longest
        if self.length and self.length > longest and self.negative == "text":
            raise InputError(
                f"decoder of a {self.pipeline}: length {self.length}, but its text encoder gives {longest} vectors, for the "
                f"empty text too; set `negative` to zeros or learned, or a smaller `length`"
            )
        return self.length or longest

    @property
    def encodes(self) -> Literal["captions", "none"]:
        """Captions, unless the condition has another width than their encoding, or is longer."""
        return "none" if self.width or self.condition.length > self.longest else "captions"

    def goal(self, captions: Sequence[str], units: Float[Tensor, "R ..."] | None) -> Condition:
        """The pipeline's own encoding of the captions: padded to the full length, and cut off there. Raises InputError where
        the condition is no encoding of text."""
        if self.width:
            raise InputError(
                f"decoder of a {self.pipeline}: vectors of width {self.width} are no encoding of text; train it by `denoise`"
            )
        if self.condition.length > self.longest:
            raise InputError(
                f"decoder of a {self.pipeline}: its text encoder gives {self.longest} vectors, the condition has "
                f"{self.condition.length}; train it by `denoise`, or set a smaller `length`"
            )
        return super().goal(captions, units)

    def _cut(self, condition: Condition) -> Condition:
        """An encoding of text, cut off at the condition's length."""
        return Condition(condition.values[:, : self.condition.length], condition.pooled)


class StableDiffusion(Steerable):
    """Stable Diffusion 1.x and 2.x (Rombach et al. 2022, arXiv 2112.10752), as diffusers' StableDiffusionPipeline has them.

    It predicts noise or velocity, as the checkpoint's scheduler says. The condition is what its CLIP text encoder says last,
    `[77, 768]` for 1.5 and `[77, 1024]` for 2.1, or what `length` and `width` say. Pictures have the UNet's own size.
    """

    pipeline = "StableDiffusionPipeline"

    def __init__(
        self, weights: Weights, condition: ConditionShape | None = None, *, checker: bool = True, **options: Any
    ) -> None:
        """
        checker: ask the checkpoint's safety checker, where there is one, about every picture. One that it flags comes out
            black, with the caption "withheld by the safety checker". Without it nothing is checked; the license of the
            checkpoint says where that is allowed.
        """
        self.checker = checker
        super().__init__(weights, condition, **options)

    def _build(self) -> None:
        from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
        from transformers import CLIPTextModel

        self.text_encoder = None
        if self.width and self.length:
            self._pictures({"cross_attention_dim": self.width})
            self.condition = ConditionShape(self.length, self.width)
        else:
            self.text_encoder = self.folder.transformers("text_encoder", CLIPTextModel)
            text = self.text_encoder.config
            self._pictures(cross_attention_dim=text.hidden_size)
            self._fits(text.hidden_size)
            self.condition = ConditionShape(self._texts(text.max_position_embeddings), text.hidden_size)
        checked = self.checker and self.folder.has("safety_checker")
        self.safety_checker = (
            self.folder.transformers("safety_checker", StableDiffusionSafetyChecker) if checked else None
        )

    def _pipe(self) -> Any:
        from diffusers import StableDiffusionPipeline
        from transformers import CLIPTokenizer

        return StableDiffusionPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            tokenizer=self.folder.tokenizer("tokenizer", CLIPTokenizer) if self.text_encoder else None,
            unet=self.unet,
            scheduler=self._sampler(),
            safety_checker=self.safety_checker,
            feature_extractor=looking(self.safety_checker.config.vision_config) if self.safety_checker else None,
            requires_safety_checker=self.safety_checker is not None,
        )

    def _encoded(self, pipe: Any, captions: list[str]) -> tuple[Condition, Condition]:
        told, none = super()._encoded(pipe, captions)
        return self._cut(told), self._cut(none)

    def _say(self, noisy: Float[Tensor, "R C H W"], times: Tensor, condition: Condition) -> Float[Tensor, "R C H W"]:
        return self.unet(noisy, times, condition.values).sample  # type: ignore[no-any-return]

    def _made(self, pipe: Any, condition: Condition, none: Condition, **how: Any) -> list[Item]:
        made = pipe(prompt_embeds=condition.values, negative_prompt_embeds=none.values, output_type="np", **how)
        return items(made.images, made.nsfw_content_detected)


class StableDiffusionXL(Steerable):
    """Stable Diffusion XL (Podell et al. 2023, arXiv 2307.01952), as diffusers' StableDiffusionXLPipeline has it.

    The condition is what two CLIP text encoders say last but one, side by side, `[77, 2048]`, and the pooled vector of the
    second, `[1280]`. Where `length` and `width` say another one, the pooled vector is its mean (Emu2, Sun et al. 2024: 64
    vectors of 1792). The size that the UNet is told is that of the pictures, uncropped. There is no safety checker.
    """

    pipeline = "StableDiffusionXLPipeline"

    def _build(self) -> None:
        from transformers import CLIPTextModel, CLIPTextModelWithProjection

        self.text_encoder = self.text_encoder_2 = None
        # The UNet reads the pooled vector beside six numbers of the size, each embedded; shrunk, in 8 channels.
        asked = self.folder.weights.of("unet").config().get("addition_time_embed_dim")
        size = 6 * (8 if self.folder.weights.tiny else asked or 0)
        if self.width and self.length:
            self._pictures(
                {"cross_attention_dim": self.width, "projection_class_embeddings_input_dim": self.width + size}
            )
            self.condition = ConditionShape(self.length, self.width)
            return
        self.text_encoder = self.folder.transformers("text_encoder", CLIPTextModel)
        self.text_encoder_2 = self.folder.transformers("text_encoder_2", CLIPTextModelWithProjection)
        one, two = self.text_encoder.config, self.text_encoder_2.config
        width, pooled = one.hidden_size + two.hidden_size, two.projection_dim
        self._pictures(cross_attention_dim=width, projection_class_embeddings_input_dim=pooled + size)
        self._fits(width)
        self._fits(pooled + size, "projection_class_embeddings_input_dim")
        self.condition = ConditionShape(self._texts(one.max_position_embeddings), width, pooled)

    def _pipe(self) -> Any:
        from diffusers import StableDiffusionXLPipeline
        from transformers import CLIPTokenizer

        read = self.folder.tokenizer
        return StableDiffusionXLPipeline(
            vae=self.vae,
            text_encoder=self.text_encoder,
            text_encoder_2=self.text_encoder_2,
            tokenizer=read("tokenizer", CLIPTokenizer) if self.text_encoder else None,
            tokenizer_2=read("tokenizer_2", CLIPTokenizer) if self.text_encoder_2 else None,
            unet=self.unet,
            scheduler=self._sampler(),
            force_zeros_for_empty_prompt=bool(self.folder.index.get("force_zeros_for_empty_prompt", True)),
        )

    def _encoded(self, pipe: Any, captions: list[str]) -> tuple[Condition, Condition]:
        values, none, pooled, no_pooled = pipe.encode_prompt(captions, device=self.unet.device)
        return self._cut(Condition(values, pooled)), self._cut(Condition(none, no_pooled))

    def _say(self, noisy: Float[Tensor, "R C H W"], times: Tensor, condition: Condition) -> Float[Tensor, "R C H W"]:
        size = torch.tensor([self.size, self.size, 0, 0, self.size, self.size], device=noisy.device, dtype=noisy.dtype)
        more = {"text_embeds": _pooled(condition), "time_ids": size.repeat(len(noisy), 1)}
        return self.unet(noisy, times, condition.values, added_cond_kwargs=more).sample  # type: ignore[no-any-return]

    def _made(self, pipe: Any, condition: Condition, none: Condition, **how: Any) -> list[Item]:
        made = pipe(
            prompt_embeds=condition.values,
            negative_prompt_embeds=none.values,
            pooled_prompt_embeds=_pooled(condition),
            negative_pooled_prompt_embeds=_pooled(none),
            output_type="np",
            **how,
        )
        return items(made.images)


def _pooled(condition: Condition) -> Float[Tensor, "R F"]:
    """The pooled vector: the condition's own, or else the mean of its vectors."""
    return condition.values.mean(1) if condition.pooled is None else condition.pooled
