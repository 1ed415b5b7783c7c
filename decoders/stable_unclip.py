"""Stable Diffusion 2.1 unCLIP as decoder of pictures, steered by a picture's own encoding."""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mmlm.errors import InputError
from mmlm.interfaces import Condition, ConditionShape
from mmlm.sample import Item

from .pictures import Pictures, items, looking


class StableUnclip(Pictures):
    """Stable Diffusion 2.1 unCLIP (Ramesh et al. 2022, arXiv 2204.06125), as diffusers' StableUnCLIPImg2ImgPipeline has it:
    it makes a picture again from what CLIP says of it (SEED-LLaMA, Ge et al. 2023; CoDi-2, Tang et al. 2023).

    The condition is one vector, `[1, 1024]`, CLIP's embedding of a picture; the text beside it is empty. Its negative is
    zeros. There is no safety checker.
    """

    pipeline = "StableUnCLIPImg2ImgPipeline"

    def _build(self) -> None:
        from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
        from transformers import CLIPTextModel, CLIPVisionModelWithProjection

        if self.negative == "learned":
            raise InputError("decoder stable_unclip: negative is 'learned', but its pipeline steers away from zeros")
        self.text_encoder = self.folder.transformers("text_encoder", CLIPTextModel)
        self.image_encoder = self.folder.transformers("image_encoder", CLIPVisionModelWithProjection)
        text, width = self.text_encoder.config, self.image_encoder.config.projection_dim
        self._pictures(cross_attention_dim=text.hidden_size, projection_class_embeddings_input_dim=2 * width)
        self._fits(text.hidden_size)
        self._fits(2 * width, "projection_class_embeddings_input_dim")
        self.image_normalizer = self.folder.model("image_normalizer", StableUnCLIPImageNormalizer, embedding_dim=width)
        self._image_noise = self.folder.scheduler("image_noising_scheduler")
        self.condition = ConditionShape(1, width)

    def _pipe(self) -> Any:
        from diffusers import StableUnCLIPImg2ImgPipeline
        from transformers import CLIPTokenizer

        return StableUnCLIPImg2ImgPipeline(
            feature_extractor=looking(self.image_encoder.config),
            image_encoder=self.image_encoder,
            image_normalizer=deepcopy(self.image_normalizer),  # the pipeline sets new parameters into it
            image_noising_scheduler=self._image_noise,
            tokenizer=self.folder.tokenizer("tokenizer", CLIPTokenizer),
            text_encoder=self.text_encoder,
            unet=self.unet,
            scheduler=self._sampler(),
            vae=self.vae,
        )

    @property
    def encodes(self) -> Literal["items"]:
        """Pictures: no words steer it."""
        return "items"

    def goal(self, captions: Sequence[str], units: Float[Tensor, "R 3 H W"] | None) -> Condition:
        """What CLIP says of the pictures themselves. Raises InputError where there are none."""
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        if units is None:
            raise InputError("decoder stable_unclip: its goals are encodings of pictures; this stage has none")
        side, kind = self.image_encoder.config.image_size, self.image_encoder.dtype
        seen = F.interpolate(units.float(), (side, side), mode="bicubic", antialias=True).clamp(-1, 1) / 2 + 0.5
        mean, std = (torch.tensor(v, device=seen.device).view(3, 1, 1) for v in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
        return Condition(self.image_encoder(((seen - mean) / std).to(kind)).image_embeds[:, None])

    def _none(self, like: Condition) -> Condition:
        return Condition(torch.zeros_like(like.values))

    def _say(self, noisy: Float[Tensor, "R C H W"], times: Tensor, condition: Condition) -> Float[Tensor, "R C H W"]:
        pipe, vectors = self._pipe(), condition.values[:, 0]
        with torch.no_grad():
            text = self._encoded(pipe, [""])[0].rows([0] * len(vectors))
        # The negative is zeros whole: also in place of the level of noise, which stands beside the vector.
        labels = pipe.noise_image_embeddings(vectors, 0) * (vectors != 0).any(-1, keepdim=True)
        return self.unet(noisy, times, self._cast(text).values, class_labels=labels.to(noisy.dtype)).sample  # type: ignore[no-any-return]

    def _made(self, pipe: Any, condition: Condition, none: Condition, **how: Any) -> list[Item]:
        text, empty = (c.rows([0] * len(condition)) for c in self._encoded(pipe, [""]))
        made = pipe(
            image_embeds=condition.values[:, 0],
            prompt_embeds=text.values,
            negative_prompt_embeds=empty.values,
            output_type="np",
            **how,
        )
        return items(made.images)
