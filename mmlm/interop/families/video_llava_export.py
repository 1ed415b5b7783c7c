"""Video-LLaVA of transformers, the other way: pictures and clips through two towers of one kind, and one projector."""

from typing import Any

from mmlm.assemble import Assembly
from mmlm.config import SystemConfig
from mmlm.interop.families import llava_export as llava
from mmlm.interop.families import video_llava
from mmlm.interop.families.publisher import Misfit, Published, Publisher, Words, general, is_a, stream_of
from mmlm.interop.pictures import prepared
from mmlm.model import MultimodalModel


class VideoLlava(Publisher):
    """VideoLlavaForConditionalGeneration."""

    kind, architecture = "video_llava", "VideoLlavaForConditionalGeneration"
    task = "video-text-to-text"
    modalities = ("image", "video")
    llm, body = "model.language_model.", "backbone.llm.model."

    def fits(self, config: SystemConfig, model: MultimodalModel) -> list[Misfit]:
        """A LLaVA with a second stream of frames, whose tower and aligner are like those of pictures."""
        found = [*general(config, self.modalities), *llava.spoken(config), *llava.llm(config, model.backbone)]
        image, video = stream_of(config, "image"), stream_of(config, "video")
        for taken in (image, video):
            if taken:
                found += llava.tower(config, model, taken[1].modality)
                found += llava.projector(taken[0], taken[1].aligner)
        if image is None or video is None:
            return found
        if (image[0], video[0]) != ("image", "video"):
            found.append(Misfit("its streams have names of their own", "name them `image` and `video`"))
        elif not found:
            found += self._alike(config, model)
        return found

    def _alike(self, config: SystemConfig, model: MultimodalModel) -> list[Misfit]:
        """What must be the same of pictures and of frames."""
        found = []
        eye, (_, frame) = self._eye(model), _frames(model)
        wrong = not is_a(config.inputs["video"].encoder, "frames") or eye.transform != frame.transform
        theirs = {k: v for k, v in _said(eye).items() if v != _said(frame)[k]}
        if wrong or theirs or eye.taps != frame.taps:
            what = ", ".join(theirs) or "another preparation or other layers"
            found.append(
                Misfit(f"frames are seen otherwise than pictures ({what})", "the same encoder in both, with frames")
            )
        if getattr(frame, "dropped", False):
            found.append(Misfit("frames lose their class feature", "inputs.video.encoder.encoder.class_token: keep"))
        if eye.transform.resize != "crop":
            found.append(Misfit("pictures are not cut to squares", "inputs.image.encoder.resize: crop"))
        aligners = [config.inputs[n].aligner for n in self.modalities]
        if aligners[0] != aligners[1] or any(
            f"inputs.{n}.aligner" in s.train for s in config.stages for n in self.modalities
        ):
            why = "its two aligners are trained apart, where the class has one for pictures and clips"
            found.append(Misfit(why, "leave inputs.image.aligner and inputs.video.aligner out of `train`"))
        return found

    @staticmethod
    def _eye(model: MultimodalModel) -> Any:
        return model.streams["image"].eyes

    def publish(self, assembly: Assembly, words: Words) -> Published:
        """The config and processor of a Video-LLaVA."""
        import transformers as t

        _, eye, aligner = llava.parts(assembly, "image")
        frames, frame = _frames(assembly.model)
        vision, text = eye.model.config.to_dict(), llava.text_config(assembly, words)
        strategy = "default" if eye.dropped else "full"
        config = t.VideoLlavaConfig(
            vision_config=vision,
            text_config=text,
            image_token_index=words.id("image"),
            video_token_index=words.id("video"),
            image_seq_length=aligner.tokens(1),
            video_seq_length=frames * frame.shape.length,
            vision_feature_layer=llava.layers(assembly, "image", eye),
            vision_feature_select_strategy=strategy,
            **llava.sewn(aligner, assembly.config.inputs["image"].aligner, text),
        )
        pictures = {**prepared(eye.transform), "image_processor_type": "VideoLlavaImageProcessor"}
        said = llava.settings(pictures)
        processor = t.VideoLlavaProcessor(
            t.VideoLlavaImageProcessor(**said),
            t.VideoLlavaVideoProcessor(**said),
            words.tokenizer,
            vision["patch_size"],
            strategy,
            words.tokens["image"],
            words.tokens["video"],
            words.template,
            int(llava.class_token(vision)),
        )
        blank = llava.unused("inputs.image.encoder.model", eye.model)
        blank |= llava.unused("inputs.video.encoder.encoder.model", frame.model)
        older = llava.older(vision, "image_tower.", "video_tower.")
        return Published(config, processor, video_llava.NAMES, blank, pictures, older)


def _frames(model: MultimodalModel) -> tuple[int, Any]:
    """How many frames of a clip are seen, and the encoder that sees them."""
    eyes: Any = model.streams["video"].eyes
    return int(getattr(eyes, "frames", 1)), getattr(eyes, "encoder", eyes)


def _said(encoder: Any) -> dict[str, Any]:
    """What the config of a tower says, that its weights are shaped by."""
    found: dict[str, Any] = encoder.model.config.to_dict()
    return {k: v for k, v in found.items() if k not in ("_name_or_path", "dtype", "architectures")}
