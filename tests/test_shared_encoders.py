"""One tower for several streams: named by the other stream, or inside what is around it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from systems import CLIP, LLM

from mmlm.assemble import assemble
from mmlm.config import SystemConfig, dump, load
from mmlm.encoders.frames import FramesEncoder
from mmlm.errors import InputError
from mmlm.interfaces import Encoder
from mmlm.plan import plan
from mmlm.sample import Image, Sample, Turn, Video
from mmlm.training import policy

_TILES = f"{{type: tiles, grids: [[1, 2]], encoder: {{type: clip, weights: {CLIP}, resize: squash}}}}"
_STAGE = """
stages:
  - name: tune
    data: [{reader: qa, path: data.jsonl}]
    train: {inputs.image.encoder: {lr: 1e-3}, inputs.video.aligner: {lr: 1e-3}}
    batch: 2
    steps: 1
"""


def system(folder: Path, video: str = "{type: frames, encoder: image}") -> SystemConfig:
    """Clips through the tower of pictures; the stream of clips stands first."""
    (folder / "c.yaml").write_text(
        "name: c\nscale: tiny\nlength: 512\ninputs:\n"
        f"  video: {{encoder: {video}, aligner: {{type: frame_mlp}}}}\n"
        f"  image: {{encoder: {_TILES}, aligner: {{type: anyres}}}}\n"
        f"backbone: {{type: causal, weights: {LLM}}}\n{_STAGE}",
        encoding="utf-8",
    )
    return load(folder / "c.yaml")


def clip() -> Video:
    return Video(np.random.default_rng(0).integers(0, 256, (4, 30, 20, 3), dtype=np.uint8), 1.0)


def test_frames_go_through_the_tower_of_pictures_whole(tmp_path: Path) -> None:
    assembly = assemble(system(tmp_path))
    image, video = (assembly.model.streams[n].eyes for n in ("image", "video"))
    assert isinstance(video, FramesEncoder) and video.encoder is image.encoder
    assert list(assembly.model.streams) == ["video", "image"]
    example = assembly.processor(Sample((Turn("user", (clip(), "What?")),)), reply=True)
    (placed,) = example.placed
    assert len(placed.units) == video.frames and assembly.processor.collate([[example]]).streams["video"].extents == ()


def test_its_weights_have_one_name_and_one_part(tmp_path: Path) -> None:
    config = system(tmp_path)
    model = assemble(config).model
    assert [p for p in model.parts() if p.endswith(".encoder")] == ["inputs.image.encoder"]
    assert not any(n.startswith("inputs.video.encoder") for n in model.state_dict())
    assert [p.id for p in plan(config).parts][:3] == [
        "inputs.video.aligner",
        "inputs.image.encoder",
        "inputs.image.aligner",
    ]


def test_a_clip_alone_trains_it(tmp_path: Path) -> None:
    config = system(tmp_path)
    assembly = assemble(config)
    policy.apply(assembly.model, config.stages[0])
    example = assembly.processor(Sample((Turn("user", (clip(), "What?")), Turn("assistant", ("A dog.",)))))
    assembly.model(assembly.processor.collate([[example]])).total["text"].backward()
    policy.verify(assembly.model, "tune")
    assembly.model.train()
    assert assembly.model.streams["image"].eyes.training


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    config = system(tmp_path)
    (tmp_path / "again.yaml").write_text(dump(config), encoding="utf-8")
    assert load(tmp_path / "again.yaml") == config
    assert config.inputs["video"].shares == "image" and config.inputs["video"].pretrained is None
    assert config.inputs["image"].shares is None and config.inputs["image"].pretrained == CLIP


class Weighty(FramesEncoder):
    """Frames with weights of their own."""

    def __init__(self, encoder: Encoder, *, frames: int = 2) -> None:
        super().__init__(encoder, frames=frames)
        self.scale = torch.nn.Parameter(torch.ones(1))


def test_what_is_around_it_has_no_weights_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1]))
    config = system(tmp_path, "{type: 'tests.test_shared_encoders:Weighty', encoder: image}")
    with pytest.raises(InputError, match="around the shared encoder of 'image' has weights of its own"):
        assemble(config)


def test_a_picture_among_others_is_cut_otherwise_and_kept_apart(tmp_path: Path) -> None:
    """Alone it is cut into tiles, beside another it is seen whole; a cache of features does not take one for the other."""
    path = tmp_path / "c.yaml"
    system(tmp_path)
    path.write_text(path.read_text().replace("grids: [[1, 2]]", "grids: [[1, 2]], several: pad"))
    assembly = assemble(load(path))
    pictures = [Image(np.random.default_rng(s).integers(0, 256, (20, 60, 3), dtype=np.uint8)) for s in (1, 2)]
    alone = assembly.processor(Sample((Turn("user", (pictures[0], "a")),)), reply=True)
    both = assembly.processor(Sample((Turn("user", (*pictures, "a")),)), reply=True)
    more = assembly.processor(Sample((Turn("user", (pictures[0], clip(), "a")),)), reply=True)
    assert [len(p.units) for p in alone.placed] == [3] and [len(p.units) for p in both.placed] == [1, 1]
    assert [len(p.units) for p in more.placed] == [3, 2]  # a clip is no picture
    assert len({p.key for e in (alone, both) for p in e.placed}) == 3
    from mmlm.caches import FeatureCache

    batch = assembly.processor.collate([[alone], [both], [alone]])
    with torch.no_grad():
        plain = assembly.model.tokens("image", batch.streams["image"])
        assembly.model.cache = FeatureCache()
        torch.testing.assert_close(assembly.model.tokens("image", batch.streams["image"]), plain)
    assert assembly.model.cache.encoded == 3
