"""Pictures of every mode, as the published processor prepares them; and the processors that are refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from transformers.image_utils import load_image as theirs_load
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from mmlm.errors import InputError
from mmlm.interop import import_folder
from mmlm.sample import Image
from mmlm.training.run import load_run
from tests.interop.llavas import imported, saved
from tests.interop.parity import picture

TOWERS = {"clip": {}, "siglip": {"full": True}, "dinov2": {}}
Transform = Callable[[Image], torch.Tensor]


@pytest.fixture(scope="module", params=[*TOWERS, "padded"])
def both(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Transform]:
    folder = tmp_path_factory.mktemp("pictures")
    if request.param != "padded":
        pair = imported(folder, tower=request.param, **TOWERS[request.param])
        return pair.processor.image_processor, pair.ours.processor.streams["image"].transform
    saved(folder / "theirs")
    size = {"height": 21, "width": 21}
    processor = LlavaImageProcessorPil(do_pad=True, size={"shortest_edge": 21}, crop_size=size)
    file = folder / "theirs" / "processor_config.json"
    said = json.loads(file.read_text())
    file.write_text(json.dumps(said | {"image_processor": json.loads(processor.to_json_string())}))
    import_folder(folder / "theirs", folder / "ours")
    return processor, load_run(folder / "ours", "cpu").processor.streams["image"].transform


def opaque(image: PIL.Image.Image) -> PIL.Image.Image:
    image.putalpha(255)
    return image


SIZES = [(21, 21), (22, 21), (63, 20), (20, 63), (1, 40), (57, 91)]
MODES: dict[str, Callable[[PIL.Image.Image], PIL.Image.Image]] = {
    "RGB": lambda i: i,
    "RGBA": opaque,
    "L": lambda i: i.convert("L"),
    "P": lambda i: i.quantize(7),
    "1": lambda i: i.convert("1"),
    "CMYK": lambda i: i.convert("CMYK"),
}


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_is_prepared_as_published(both: tuple[Any, Transform], mode: str, tmp_path: Path) -> None:
    processor, transform = both
    for seed, (width, height) in enumerate(SIZES):
        path = tmp_path / ("a.tiff" if mode == "CMYK" else "a.png")
        MODES[mode](picture(seed, width, height)).save(path)
        expected = processor(theirs_load(str(path)), return_tensors="pt").pixel_values
        assert torch.equal(transform(Image(path)), expected), (mode, width, height)


@pytest.mark.parametrize("turn", range(1, 9))
def test_turned_pictures_stand_upright_as_there(both: tuple[Any, Transform], turn: int, tmp_path: Path) -> None:
    processor, transform = both
    exif = PIL.Image.Exif()
    exif[274] = turn
    picture(5, 33, 49).save(tmp_path / "a.png", exif=exif)
    expected = processor(theirs_load(str(tmp_path / "a.png")), return_tensors="pt").pixel_values
    assert torch.equal(transform(Image(tmp_path / "a.png")), expected)


def test_where_we_differ_on_purpose(both: tuple[Any, Transform], tmp_path: Path) -> None:
    """Transparent pixels lie on white here, while there the colour beneath them shows; 16 bits are scaled here, and cut
    off at 255 there. From the same 8-bit RGB on, both are equal."""
    processor, transform = both
    image = picture(6, 40, 30)
    image.putalpha(PIL.Image.fromarray((np.arange(1200) % 256).astype(np.uint8).reshape(30, 40)))
    white = PIL.Image.new("RGBA", image.size, (255, 255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    image.save(tmp_path / "a.png")
    expected = processor(white.convert("RGB"), return_tensors="pt").pixel_values
    assert torch.equal(transform(Image(tmp_path / "a.png")), expected)
    grey = np.linspace(0, 65535, 1200).round().astype(np.uint16).reshape(30, 40)
    PIL.Image.fromarray(grey).save(tmp_path / "b.png")
    flat = PIL.Image.fromarray((grey.astype(np.float64) / 257).round().astype(np.uint8)).convert("RGB")
    expected = processor(flat, return_tensors="pt").pixel_values
    level = 1 / 255 / float(min(processor.image_std))
    torch.testing.assert_close(transform(Image(tmp_path / "b.png")), expected, atol=1.01 * level, rtol=0)


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "not resized": ({"do_resize": False}, "do_resize false"),
    "not normalised": ({"do_normalize": False}, "do_normalize false"),
    "not square": ({"do_center_crop": False}, "does not make squares"),
    "cut too large": ({"size": {"shortest_edge": 20}}, "out of smaller pictures"),
    "another size": ({"size": {"shortest_edge": 28}, "crop_size": {"height": 28, "width": 28}}, "both must agree"),
    "another kind": ({"image_processor_type": "ViTImageProcessor"}, "ViTImageProcessor"),
    "code": ({"auto_map": {"AutoImageProcessor": "evil.Evil"}}, "auto_map"),
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("llava") / "theirs"
    saved(folder)
    return folder


@pytest.mark.parametrize("kind", BAD)
def test_other_processors_are_refused(kind: str, original: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(original, tmp_path / "theirs"))
    change, told = BAD[kind]
    said = json.loads((folder / "processor_config.json").read_text())
    said["image_processor"] |= change
    (folder / "processor_config.json").write_text(json.dumps(said))
    with pytest.raises(InputError, match=told):
        import_folder(folder, tmp_path / "ours")


def test_a_flat_file_of_older_versions_is_read(original: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(original, tmp_path / "theirs"))
    said = json.loads((folder / "processor_config.json").read_text())
    (folder / "preprocessor_config.json").write_text(json.dumps(said.pop("image_processor")))
    (folder / "processor_config.json").write_text(json.dumps(said))
    import_folder(original, tmp_path / "a")
    import_folder(folder, tmp_path / "b")
    a, b = (load_run(tmp_path / n, "cpu").processor.streams["image"].transform for n in "ab")
    assert a == b
