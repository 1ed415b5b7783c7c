"""Our squares against those of the published image processors, value by value."""

import json
import pickle
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from open_clip.transform import image_transform
from timm.data import create_transform
from transformers import BitImageProcessor, CLIPImageProcessor
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from mmlm.encoders import clip, dinov2, siglip
from mmlm.encoders.pixels import BICUBIC, BILINEAR, Pixels, published
from mmlm.errors import InputError
from mmlm.media import load_image
from mmlm.sample import Audio, Image
from mmlm.weights import Weights

SIZES = [(640, 480), (333, 481), (224, 224), (225, 224), (37, 100), (1, 1), (3, 500)]
CLIP = Pixels(224, 224, clip.MEAN, clip.STD)
SIGLIP = Pixels(224, 224, siglip.FAMILY.mean, siglip.FAMILY.std, resize="squash")


def picture(width: int, height: int, mode: str = "RGB") -> PIL.Image.Image:
    coarse = np.random.default_rng(width).integers(0, 256, (height // 6 + 1, width // 6 + 1, 4), dtype=np.uint8)
    return PIL.Image.fromarray(coarse).resize((width, height), BILINEAR).convert(mode)


def png(image: PIL.Image.Image, path: Path) -> Path:
    image.save(path, "TIFF" if image.mode == "CMYK" else "PNG")
    return path


def bit(kind: type) -> object:
    family = dinov2.FAMILY
    return kind(size={"shortest_edge": 256}, image_mean=list(family.mean), image_std=list(family.std))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("family", ["clip", "siglip", "dinov2"])
def test_equal_to_the_published_processor(family: str, size: tuple[int, int]) -> None:
    """The processors that use Pillow, as all did when these towers were trained, are matched to the last bit."""
    ours, theirs = {
        "clip": (CLIP, CLIPImageProcessorPil()),
        "siglip": (SIGLIP, SiglipImageProcessorPil()),
        "dinov2": (dinov2.FAMILY, bit(BitImageProcessorPil)),
    }[family]
    image = picture(*size)
    expected = theirs(image, return_tensors="pt").pixel_values
    torch.testing.assert_close(ours(Image(np.asarray(image))), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "CMYK"])
def test_equal_in_every_mode(mode: str, tmp_path: Path) -> None:
    path = png(picture(301, 200, mode), tmp_path / "a")
    seen = PIL.Image.open(path).convert("RGBA" if mode in ("LA", "P", "RGBA") else "RGB")
    if seen.mode == "RGBA":  # what is transparent lies on white, which not every version of the processor does
        seen = PIL.Image.alpha_composite(PIL.Image.new("RGBA", seen.size, "white"), seen).convert("RGB")
    expected = CLIPImageProcessorPil()(seen, return_tensors="pt").pixel_values
    torch.testing.assert_close(CLIP(Image(path)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["clip", "dinov2"])
def test_near_the_torchvision_processor(kind: str) -> None:
    """The processors that transformers 5 takes by default resize with torchvision, two levels of 255 away at most."""
    ours, theirs = {"clip": (CLIP, CLIPImageProcessor()), "dinov2": (dinov2.FAMILY, bit(BitImageProcessor))}[kind]
    for size in SIZES[:5]:
        image = picture(*size)
        far = (ours(Image(np.asarray(image))) - theirs(image, return_tensors="pt").pixel_values).abs()
        assert (far * torch.tensor(ours.std).view(3, 1, 1) * 255).max() < 2.01


def test_stamps_equal_the_published_processor(stamps: Path) -> None:
    for path in sorted((stamps / "images").iterdir())[::70]:
        expected = CLIPImageProcessorPil()(load_image(Image(path)), return_tensors="pt").pixel_values
        torch.testing.assert_close(CLIP(Image(path)), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("size", [(64, 33), (33, 64), (50, 50), (2, 1)], ids=str)
def test_pad_is_a_square_of_the_mean_colour(size: tuple[int, int]) -> None:
    image = picture(*size)
    side = max(size)
    square = np.empty((side, side, 3), np.uint8)
    square[:] = [int(255 * m) for m in clip.MEAN]
    top, left = (side - size[1]) // 2, (side - size[0]) // 2
    square[top : top + size[1], left : left + size[0]] = np.asarray(image)
    expected = CLIPImageProcessorPil()(PIL.Image.fromarray(square), return_tensors="pt").pixel_values
    torch.testing.assert_close(CLIP.at(224, "pad")(Image(np.asarray(image))), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["shortest", "squash"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equal_to_open_clip(mode: str, size: tuple[int, int]) -> None:
    image = picture(*size)
    expected = image_transform(224, is_train=False, resize_mode=mode)(image)
    ours = Pixels(224, 224, clip.MEAN, clip.STD, BICUBIC, "crop" if mode == "shortest" else "squash", even=True)
    torch.testing.assert_close(ours(Image(np.asarray(image)))[0], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("mode", ["center", "squash"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_equal_to_timm(mode: str, size: tuple[int, int]) -> None:
    image = picture(*size)
    mean = (0.5, 0.4, 0.3)
    made = create_transform(
        (3, 223, 223), interpolation="bilinear", mean=mean, std=mean, crop_pct=0.875, crop_mode=mode
    )
    ours = Pixels(223, 254, mean, mean, BILINEAR, "crop" if mode == "center" else "squash", even=True)
    torch.testing.assert_close(ours(Image(np.asarray(image)))[0], made(image), atol=1e-6, rtol=0)


@pytest.mark.parametrize("way", ["crop", "pad", "squash"])
@pytest.mark.parametrize("size", [(1, 60_000), (60_000, 1), (1, 1), (2, 9_001)], ids=str)
def test_long_thin_pictures_cost_no_memory(way: str, size: tuple[int, int]) -> None:
    unit = CLIP.at(224, way)(Image(np.full((size[1], size[0], 3), 200, np.uint8)))
    assert unit.shape == (1, 3, 224, 224)
    centre = unit[0, :, 112, 112] * torch.tensor(clip.STD) + torch.tensor(clip.MEAN)
    if way != "pad":
        torch.testing.assert_close(centre, torch.full((3,), 200 / 255), atol=1e-5, rtol=0)


def test_margins_keep_their_share() -> None:
    assert (dinov2.FAMILY.at(448).size, dinov2.FAMILY.at(448).short) == (448, 512)
    assert CLIP.at(336, "pad") == Pixels(336, 336, clip.MEAN, clip.STD, resize="pad")


def test_the_transform_pickles_and_weighs_nothing() -> None:
    again = pickle.loads(pickle.dumps(CLIP))
    assert again == CLIP and len(pickle.dumps(CLIP)) < 1000


def test_only_pictures() -> None:
    with pytest.raises(InputError, match="reads pictures; came audio"):
        CLIP(Audio(np.zeros(8, np.float32), rate=8))


def folder(tmp_path: Path, said: dict[str, object], name: str = "preprocessor_config.json") -> Weights:
    (tmp_path / name).write_text(json.dumps(said))
    return Weights(str(tmp_path))


def test_the_folder_has_the_last_word(tmp_path: Path) -> None:
    said = {
        "size": {"shortest_edge": 48},
        "crop_size": {"height": 40, "width": 40},
        "image_mean": [0.1, 0.2, 0.3],
        "image_std": [0.4, 0.5, 0.6],
        "resample": 2,
        "rescale_factor": 1 / 255,
    }
    weights = folder(tmp_path, said)
    expected = Pixels(40, 48, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), BILINEAR)
    found = published(weights, clip.FAMILY, 336)
    assert (found.size, found.short, found.resample, found.resize) == (40, 48, BILINEAR, "crop")
    np.testing.assert_allclose([found.mean, found.std], [expected.mean, expected.std], rtol=1e-12)
    image = picture(70, 61)
    theirs = CLIPImageProcessorPil(**said)(image, return_tensors="pt").pixel_values
    torch.testing.assert_close(found(Image(np.asarray(image))), theirs, atol=1e-6, rtol=0)


def test_ways_of_saying_it(tmp_path: Path) -> None:
    assert published(folder(tmp_path, {}), clip.FAMILY, 336) == Pixels(336, 336, clip.MEAN, clip.STD)
    squash = published(folder(tmp_path, {"size": {"height": 96, "width": 96}}), siglip.FAMILY, 384)
    assert (squash.size, squash.short, squash.resize) == (96, 96, "squash")
    old = published(folder(tmp_path, {"size": 64, "crop_size": 56}), clip.FAMILY, 336)
    assert (old.size, old.short, old.resize) == (56, 64, "crop")
    plain = published(folder(tmp_path, {"do_normalize": False, "do_rescale": False}), clip.FAMILY, 30)
    unit = plain(Image(np.full((30, 30, 3), 77, np.uint8)))
    torch.testing.assert_close(unit, torch.full((1, 3, 30, 30), 77.0))
    (tmp_path / "preprocessor_config.json").unlink()
    inner = published(folder(tmp_path, {"image_processor": {"resample": 2}}, "processor_config.json"), clip.FAMILY, 30)
    assert inner.resample == BILINEAR
    assert published(Weights("openai/clip-vit-large-patch14-336", load=False), clip.FAMILY, 336).size == 336


@pytest.mark.parametrize(
    "bad",
    [
        {"size": {"height": 3, "width": 4}},
        {"size": {"shortest_edge": 1 << 20}},
        {"size": "large"},
        {"image_mean": [0.5, 0.5]},
        {"image_std": ["a", 0.5, 0.5]},
        {"resample": 9},
    ],
)
def test_nonsense_is_refused(bad: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected"):
        published(folder(tmp_path, bad), clip.FAMILY, 336)
