"""BLIP-2 and InstructBLIP of transformers, the other way: which systems they compute, and how those are written."""

from collections.abc import Iterator
from typing import Any

from mmlm.assemble import Assembly
from mmlm.config import PartConfig, SystemConfig
from mmlm.interop.families import blip, llava_export
from mmlm.interop.families.publisher import Misfit, Published, Publisher, Words, general, is_a, stream_of
from mmlm.interop.pictures import prepared
from mmlm.model import MultimodalModel


class Blip2(Publisher):
    """Blip2ForConditionalGeneration."""

    kind, architecture = "blip-2", "Blip2ForConditionalGeneration"
    llm = "language_model."
    named = False  # its processor takes an attribute of the tokenizer for a token with settings, and fails on text
    instructed = False
    names = blip.BLIP2

    def fits(self, config: SystemConfig, model: MultimodalModel) -> list[Misfit]:
        """One stream of the BLIP-2 tower through a Q-Former into slots of a causal LLM or a T5."""
        found = list(general(config, self.modalities))
        taken = stream_of(config, self.modalities[0])
        if taken and taken[0] != self.modalities[0]:
            found.append(Misfit(f"its stream is named {taken[0]}", f"name it `{self.modalities[0]}`"))
        elif taken:
            found += [*self._tower(config, model), *self._former(taken[1].aligner, model)]
        if config.backbone.type not in ("causal", "seq2seq"):
            found.append(Misfit(f"its LLM is a {config.backbone.type}", "backbone.type: causal or seq2seq"))
        elif config.backbone.type == "causal" and model.backbone.softcap:
            found.append(Misfit("its LLM caps its logits", "an OPT, a Llama or a T5"))
        return found

    def _tower(self, config: SystemConfig, model: MultimodalModel) -> Iterator[Misfit]:
        name, stream = stream_of(config, self.modalities[0]) or ("", None)
        part: Any = stream.encoder if stream else ""
        encoder: Any = model.streams[name].eyes
        where = f"inputs.{name}.encoder"
        if "video" in self.modalities:
            if not is_a(part, "frames") or encoder.frames != blip.FRAMES:
                yield Misfit(f"{where} does not look at {blip.FRAMES} frames", f"{where}: frames of a blip2 tower")
                return
            part, encoder = part.encoder, encoder.encoder
        if not is_a(part, "blip2"):
            came = part.type if isinstance(part, PartConfig) else part
            yield Misfit(f"{where} is of type {came}", f"{where}.type: blip2")
            return
        depth = encoder.model.config.num_hidden_layers
        if encoder.dropped or encoder.final_norm or encoder.taps != (depth,):
            why = f"{where} gives other features than all that leave its last block"
            yield Misfit(why, f"{where}: {{layer: -1, class_token: keep, final_norm: false}}")
        pixels = encoder.transform
        if pixels.resize != "squash" or pixels.short != pixels.size:
            yield Misfit(f"{where} cuts or pads pictures ({pixels.resize})", f"{where}.resize: squash")

    def _former(self, aligner: PartConfig, model: MultimodalModel) -> Iterator[Misfit]:
        where = f"inputs.{self.modalities[0]}.aligner"
        if aligner.type != "qformer":
            yield Misfit(f"{where} is of type {aligner.type}", f"{where}.type: qformer")
            return
        if not aligner.options.get("norm_features", True):
            yield Misfit(f"{where} norms no features", f"{where}.norm_features: true")
        built: Any = model.streams[self.modalities[0]].aligner
        reads = built.words is not None
        if reads != self.instructed:
            told = str(self.instructed).lower()
            yield Misfit(f"{where} reads {'the' if reads else 'no'} instruction", f"{where}.instruction: {told}", far=2)
        elif reads and not hasattr(built.tokenize, "weights"):
            yield Misfit(
                f"{where} reads the instruction letter by letter", f"{where}.weights: google-bert/bert-base-uncased"
            )

    def publish(self, assembly: Assembly, words: Words) -> Published:
        """The config and processor of a BLIP-2."""
        import transformers as t

        modality = self.modalities[0]
        _, encoder, aligner = llava_export.parts(assembly, modality)
        blocks: Any = list(aligner.blocks)
        option = assembly.config.inputs[modality].aligner.options.get("every")
        crossed = [i for i, b in enumerate(blocks) if b.cross is not None]
        former: dict[str, Any] = {
            "hidden_size": aligner.queries.shape[1],
            "num_hidden_layers": len(blocks),
            "num_attention_heads": blocks[0].attention.heads,
            "intermediate_size": 4 * aligner.queries.shape[1],
            "encoder_hidden_size": encoder.shape.channels,
            "cross_attention_frequency": option or (crossed[1] if len(crossed) > 1 else len(blocks)),
            "hidden_dropout_prob": aligner.drop.p,
            "attention_probs_dropout_prob": aligner.drop.p,
        }
        if aligner.words is not None:
            former["vocab_size"] = len(aligner.words.weight)
        text = llava_export.text_config(assembly, words)
        config = getattr(t, self.architecture.replace("ForConditionalGeneration", "Config"))(
            vision_config=encoder.model.config.to_dict(),
            qformer_config=former,
            text_config=text,
            num_query_tokens=len(aligner.queries),
            **{f"{modality}_token_index": words.id(modality)},
        )
        pictures = {**prepared(encoder.transform), "image_processor_type": "BlipImageProcessor"}
        for key in ("do_center_crop", "crop_size"):
            del pictures[key]
        processor = self._processor(pictures, words, aligner)
        if words.template is not None:
            processor.chat_template = words.template
        return Published(config, processor, self.names, flat=pictures)

    def _processor(self, pictures: dict[str, Any], words: Words, aligner: Any) -> Any:
        import transformers as t

        made = t.BlipImageProcessor(**llava_export.settings(pictures))
        return t.Blip2Processor(made, words.tokenizer, len(aligner.queries))


class InstructBlip(Blip2):
    """InstructBlipForConditionalGeneration."""

    kind, architecture = "instructblip", "InstructBlipForConditionalGeneration"
    instructed = True
    names = blip.INSTRUCTBLIP

    def _processor(self, pictures: dict[str, Any], words: Words, aligner: Any) -> Any:
        import transformers as t

        made = t.BlipImageProcessor(**llava_export.settings(pictures))
        return t.InstructBlipProcessor(made, words.tokenizer, _reader(aligner), len(aligner.queries))


class InstructBlipVideo(InstructBlip):
    """InstructBlipVideoForConditionalGeneration."""

    kind, architecture = "instructblipvideo", "InstructBlipVideoForConditionalGeneration"
    task = "video-text-to-text"
    modalities = ("video",)
    names = blip.clips(blip.INSTRUCTBLIP)

    def _processor(self, pictures: dict[str, Any], words: Words, aligner: Any) -> Any:
        import transformers as t

        made = t.InstructBlipVideoVideoProcessor(**llava_export.settings(pictures))
        return t.InstructBlipVideoProcessor(made, words.tokenizer, _reader(aligner), len(aligner.queries))


def _reader(aligner: Any) -> Any:
    """The tokenizer of a Q-Former that reads the question."""
    from transformers import BertTokenizer

    return BertTokenizer.from_pretrained(aligner.tokenize.weights.folder(), local_files_only=True)
