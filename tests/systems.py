"""Small systems for tests, one of each kind: every part random and tiny, every path real."""

from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from mmlm.config import SystemConfig, load

CLIP = "openai/clip-vit-base-patch32"
LLM = "HuggingFaceTB/SmolLM2-135M-Instruct"

_IMAGE = f"{{type: clip, weights: {CLIP}}}"
_STAGES = """
stages:
  - name: align
    data: [{{reader: qa, path: {data}}}]
    train: {{{align}}}
    batch: 4
    steps: 4
    save_every: 1
    log_every: 1
    warmup: 0.25
  - name: tune
    data: [{{reader: qa, path: {data}}}]
    train: {{{tune}}}
    batch: 4
    steps: 4
    save_every: 2
    log_every: 1
    warmup: 1
    micro_batch: 2
"""
_ALIGNER = "inputs.image.aligner: {lr: 1e-2}"
_KINDS = {
    "mlp": (
        f"inputs: {{image: {{encoder: {_IMAGE}, aligner: {{type: mlp, depth: 2}}}}}}\nbackbone: {{type: causal, weights: {LLM}}}",
        _ALIGNER,
        _ALIGNER + ", backbone: {lr: 1e-2}",
    ),
    "qformer": (
        f"inputs: {{image: {{encoder: {_IMAGE}, aligner: {{type: qformer, queries: 5, instruction: true}}}}}}\n"
        "backbone: {type: causal, weights: facebook/opt-2.7b}",
        _ALIGNER,
        _ALIGNER,
    ),
    "memory": (
        f"inputs: {{image: {{encoder: {_IMAGE}, aligner: {{type: resampler, latents: 3}}, into: memory, marker: <image>}}}}\n"
        f"backbone: {{type: causal, weights: {LLM}, add_tokens: [<image>], "
        "grafts: {xattn: {type: gated_cross_attention, every: 2, offset: 1}}}",
        _ALIGNER + ", backbone.grafts.xattn: {lr: 1e-2}",
        _ALIGNER + ", backbone.grafts.xattn: {lr: 1e-2}",
    ),
    "lora": (
        f"inputs: {{image: {{encoder: {_IMAGE}, aligner: {{type: linear}}}}}}\n"
        f"backbone: {{type: causal, weights: {LLM}, grafts: {{lora: {{type: lora, rank: 2, dropout: 0.1}}}}}}",
        _ALIGNER,
        _ALIGNER + ", backbone.grafts.lora: {lr: 1e-2}",
    ),
    "seq2seq": (
        f"inputs: {{image: {{encoder: {_IMAGE}, aligner: {{type: qformer, queries: 5}}}}}}\n"
        "backbone: {type: seq2seq, weights: google/flan-t5-xl}",
        _ALIGNER,
        _ALIGNER + ", backbone: {lr: 1e-2}",
    ),
    "alibi": (
        f"inputs: {{image: {{encoder: {_IMAGE}, aligner: {{type: mlp}}}}}}\nbackbone: {{type: causal, weights: mosaicml/mpt-7b}}",
        _ALIGNER,
        _ALIGNER + ", backbone: {lr: 1e-2}",
    ),
    "senses": (
        f"inputs:\n  image: {{encoder: {_IMAGE}, aligner: {{type: mlp}}}}\n"
        f"  video: {{encoder: {{type: frames, frames: 2, encoder: {_IMAGE}}}, aligner: {{type: mlp}}}}\n"
        "  audio: {encoder: {type: whisper, weights: openai/whisper-tiny, downsample: 50}, aligner: {type: linear}}\n"
        f"backbone: {{type: causal, weights: {LLM}}}",
        "inputs.image.aligner: {lr: 1e-2}, inputs.video.aligner: {lr: 1e-2}, inputs.audio.aligner: {lr: 1e-2}",
        "inputs.image.aligner: {lr: 1e-2}, inputs.video.aligner: {lr: 1e-2}, inputs.audio.aligner: {lr: 1e-2}, backbone: {lr: 1e-2}",
    ),
}
KINDS = tuple(_KINDS)


def tiny(kind: str, folder: Path, *overrides: str, data: Path | None = None) -> SystemConfig:
    """The config of a tiny system, written into `folder` and read back; trains on `data` where given."""
    text, align, tune = _KINDS[kind]
    stages = _STAGES.format(data=data, align=align, tune=tune) if data else ""
    path = folder / f"{kind}.yaml"
    path.write_text(f"name: {kind}\nscale: tiny\ntemplate: chat\nlength: 256\n{text}\n{stages}", encoding="utf-8")
    return load(path, overrides)


def pictures(folder: Path, n: int = 7) -> list[Path]:
    """`n` random pictures of odd sizes."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    paths = []
    for i in range(n):
        path = folder / f"{i}.png"
        Pillow.fromarray(random.integers(0, 256, (17 + 3 * i, 31 - 2 * i, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths
