"""Pixel oracles: what every kind of picture must decode to, within 1/255, worked out from arrays and not by Pillow."""

import io
import struct
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from mmlm.errors import InputError
from mmlm.media import load_image
from mmlm.media.grey import grey
from mmlm.sample import Image

LOSSLESS = {"PNG": {}, "TIFF": {}, "WEBP": {"lossless": True, "exact": True}, "BMP": {}, "GIF": {}}
JPEG = {"quality": 95, "subsampling": 0}


def encoded(picture: PIL.Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    picture.save(stream, kind, **options)
    return stream.getvalue()


def decoded(data: bytes) -> np.ndarray:
    picture = load_image(Image(data))
    assert picture.mode == "RGB"
    return np.asarray(picture).astype(int)


def near(found: np.ndarray, expected: np.ndarray) -> None:
    expected = np.rint(expected).astype(int)
    if expected.ndim == 2:
        expected = np.stack([expected] * 3, -1)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# What the camera stored, when the picture seen upright is `a`: the orientations of the EXIF standard, 2.3, tag 274.
STORED = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.swapaxes(0, 1),
    6: lambda a: np.rot90(a, 1),
    7: lambda a: np.rot90(a, 2).swapaxes(0, 1),
    8: lambda a: np.rot90(a, -1),
}


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    seen = np.kron(noise(3, 5, 3), np.ones((16, 16, 1), np.uint8))
    stored = PIL.Image.fromarray(np.ascontiguousarray(STORED[orientation](seen)))
    exif = PIL.Image.Exif()
    exif[274] = orientation
    found = decoded(encoded(stored, kind, exif=exif, **(LOSSLESS.get(kind, JPEG))))
    assert found.shape == seen.shape
    assert np.abs(found - seen).max() <= (6 if kind == "JPEG" else 0)


def of_mode(mode: str, w: int, h: int) -> tuple[PIL.Image.Image, np.ndarray]:
    """A picture of `mode` and what it looks like."""
    a = noise(h, w, 4)
    g = a[..., 0]
    match mode:
        case "1":
            return PIL.Image.fromarray(np.where(g > 127, 255, 0).astype(np.uint8)).convert("1", dither=0), np.where(
                g > 127, 255, 0
            )
        case "L":
            return PIL.Image.fromarray(g), g
        case "RGB":
            return PIL.Image.fromarray(np.ascontiguousarray(a[..., :3])), a[..., :3]
        case "RGBA" | "LA":
            alpha = a[..., 3:] / 255
            colour = a[..., :3] if mode == "RGBA" else np.stack([g] * 3, -1)
            stack = a if mode == "RGBA" else np.stack([g, a[..., 3]], -1)
            return PIL.Image.fromarray(np.ascontiguousarray(stack), mode), colour * alpha + 255 * (1 - alpha)
        case "P":
            palette = noise(256, 3, seed=1)
            picture = PIL.Image.fromarray(g, "P")
            picture.putpalette(palette.tobytes())
            return picture, palette[g]
        case "CMYK":
            ink = a / 255
            return PIL.Image.fromarray(a, "CMYK"), 255 * (1 - ink[..., :3]) * (1 - ink[..., 3:])
        case "I;16":
            deep = np.random.default_rng(0).integers(0, 65536, (h, w), dtype=np.uint16)
            return PIL.Image.fromarray(deep), deep / 257
        case "I;16B":
            deep = np.random.default_rng(0).integers(0, 65536, (h, w), dtype=np.uint16)
            return PIL.Image.frombytes("I;16B", (w, h), deep.astype(">u2").tobytes()), deep / 257
        case "I":
            deep = np.random.default_rng(0).integers(0, 65536, (h, w)).astype(np.int32)
            return PIL.Image.fromarray(deep), deep / 257
        case "F":
            values = np.random.default_rng(0).random((h, w), dtype=np.float32)
            return PIL.Image.fromarray(values), values * 255
    raise AssertionError(mode)


KINDS = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA", "I;16"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I;16B", "I", "F"],
    "BMP": ["1", "L", "P", "RGB"],
    "GIF": ["1", "L", "P"],
    "WEBP": ["L", "RGB", "RGBA"],
}
SIZES = [(1, 1), (5, 3), (31, 17)]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # modes given to fromarray
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("kind", "mode"), [(k, m) for k, modes in KINDS.items() for m in modes])
def test_every_mode_of_every_format(kind: str, mode: str, size: tuple[int, int]) -> None:
    picture, expected = of_mode(mode, *size)
    near(decoded(encoded(picture, kind, **LOSSLESS[kind])), expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_of_flat_colour(mode: str) -> None:
    picture, expected = of_mode(mode, 1, 1)
    found = decoded(encoded(picture.resize((16, 16)), "JPEG", **JPEG))
    assert np.abs(found - np.rint(expected).reshape(-1)).max() <= 3


def test_grey_palette_and_colour_keys_are_laid_on_white() -> None:
    values = np.arange(256, dtype=np.uint8).reshape(16, 16)
    grey_key = encoded(PIL.Image.fromarray(values), "PNG", transparency=7)
    near(decoded(grey_key), np.where(values == 7, 255, values))

    rgb = np.stack([values, values, values[::-1]], -1)
    key = tuple(int(v) for v in rgb[3, 4])
    near(
        decoded(encoded(PIL.Image.fromarray(rgb), "PNG", transparency=key)),
        np.where((rgb == key).all(-1, keepdims=True), 255, rgb),
    )

    picture = PIL.Image.fromarray(values).convert("P")
    picture.putpalette([v for i in range(256) for v in (i, 0, 0)])
    red = np.stack([values, 0 * values, 0 * values], -1)
    for kind in ("PNG", "GIF"):
        found = decoded(encoded(picture, kind, transparency=9, optimize=False))
        near(found, np.where(values[..., None] == 9, 255, red))
    alpha = values[..., None] / 255
    near(decoded(encoded(picture, "PNG", transparency=bytes(range(256)))), red * alpha + 255 * (1 - alpha))


def test_a_key_in_16_bits_is_laid_on_white() -> None:
    deep = np.array([[0, 300, 65535], [301, 300, 40000]], np.uint16)
    near(decoded(encoded(PIL.Image.fromarray(deep), "PNG", transparency=300)), np.where(deep == 300, 255, deep / 257))


def test_bmp_has_alpha_only_where_its_header_says_so() -> None:
    a = noise(2, 3, 4)
    plain = encoded(PIL.Image.fromarray(a), "BMP")  # 32 bits a pixel, the fourth byte without a meaning
    near(decoded(plain), a[..., :3])
    pixels = a[::-1, :, [2, 1, 0, 3]].tobytes()
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, 3, 2, 1, 32, 3, len(pixels), 0, 0, 0, 0) + masks + b"\0" * 52
    data = b"BM" + struct.pack("<IHHI", 14 + 108 + len(pixels), 0, 0, 14 + 108) + header + pixels
    alpha = a[..., 3:] / 255
    near(decoded(data), a[..., :3] * alpha + 255 * (1 - alpha))


def test_fully_transparent_red_is_white_and_half_transparent_black_is_grey() -> None:
    for kind in ("PNG", "WEBP", "TIFF"):
        data = encoded(PIL.Image.new("RGBA", (3, 2), (255, 0, 0, 0)), kind, **LOSSLESS[kind])
        assert (decoded(data) == 255).all()
        data = encoded(PIL.Image.new("RGBA", (3, 2), (0, 0, 0, 128)), kind, **LOSSLESS[kind])
        assert (decoded(data) == 127).all()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_a_16_bit_ramp_keeps_its_256_levels(kind: str) -> None:
    ramp = np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(4, 256)
    found = decoded(encoded(PIL.Image.fromarray(ramp), kind))
    near(found, ramp / 257)
    assert len(np.unique(found)) == 256


def tiff(
    width: int, height: int, data: bytes, bits: int = 8, photometric: int = 1, form: int = 1, **more: int
) -> bytes:
    """A TIFF of one strip of grey, written by hand."""
    names = {"tile_width": 322, "tile_length": 323, "tile_offsets": 324, "tile_bytes": 325}
    tags = {
        256: width,
        257: height,
        258: bits,
        259: 1,
        262: photometric,
        277: 1,
        278: height,
        279: len(data),
        339: form,
    }
    tags |= {names[n]: v for n, v in more.items()}
    tags[273] = 8 + 2 + 12 * (len(tags) + 1) + 4
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in sorted(tags.items()))
    return b"II*\0" + struct.pack("<I", 8) + struct.pack("<H", len(tags)) + entries + struct.pack("<I", 0) + data


def test_tiff_says_its_own_depth_and_sense() -> None:
    deep = np.array([[0, 1000, 65535], [40000, 257, 514]], np.uint16)
    near(decoded(tiff(3, 2, deep.tobytes(), bits=16)), deep / 257)
    near(decoded(tiff(3, 2, deep.tobytes(), bits=16, photometric=0)), 255 - deep / 257)
    packed = bytes([0x00, 0x0F, 0xFF])  # two samples of 12 bits: 0 and 4095
    near(decoded(tiff(2, 1, packed, bits=12)), np.array([[0, 255]]))
    wide = np.array([[0, 2**31, 2**32 - 1]], np.uint32)
    near(decoded(tiff(3, 1, wide.tobytes(), bits=32)), np.array([[0, 127.5, 255]]))
    signed = np.array([[-32768, 0, 32767]], np.int16)
    near(decoded(tiff(3, 1, signed.tobytes(), bits=16, form=2)), np.array([[0, 127.5, 255]]))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([0.0, 0.5, 1.0], [0, 127.5, 255]),
        ([0.0, 1.5, 255.0], [0, 1.5, 255]),
        ([-1.0, 0.0, 1.0], [0, 127.5, 255]),
        ([100.0, 200.0, 300.0], [0, 127.5, 255]),
        ([0.25, 0.25, 0.25], [63.75] * 3),
        ([-7.0, -7.0, -7.0], [0] * 3),
    ],
)
def test_float_greys(values: list[float], expected: list[float]) -> None:
    a = np.array([values], np.float32)
    near(decoded(encoded(PIL.Image.fromarray(a), "TIFF")), np.array([expected]))
    near(np.stack([grey(a).astype(int)] * 3, -1), np.array([expected]))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_greys_that_are_not_finite_are_refused(bad: float) -> None:
    data = encoded(PIL.Image.fromarray(np.array([[0.0, bad]], np.float32)), "TIFF")
    with pytest.raises(InputError, match="not finite"):
        load_image(Image(data))


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF", "MPO"])
def test_the_first_picture_of_several_is_taken(kind: str) -> None:
    colours = [(200, 10, 30), (10, 200, 30), (10, 30, 200)]
    pictures = [PIL.Image.new("RGB", (16, 24), c) for c in colours]
    found = decoded(encoded(pictures[0], kind, save_all=True, append_images=pictures[1:], **LOSSLESS.get(kind, JPEG)))
    assert np.abs(found - np.array(colours[0])).max() <= (3 if kind == "MPO" else 0)


def test_arrays_pass_through() -> None:
    a = noise(3, 5, 3)
    assert (np.asarray(load_image(Image(a))) == a).all()
    assert (np.asarray(load_image(Image(np.asfortranarray(a)))) == a).all()
    for bad in (a[..., :1], a.astype(np.float32), a[0], a[:0]):
        with pytest.raises(InputError, match="expected uint8"):
            load_image(Image(bad))


def test_path_and_bytes_agree(tmp_path: Path) -> None:
    data = encoded(PIL.Image.fromarray(noise(3, 5, 3)), "PNG")
    (tmp_path / "a.jpg").write_bytes(data)  # the content counts, not the name
    assert (np.asarray(load_image(Image(tmp_path / "a.jpg"))) == decoded(data)).all()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_picture_cut_short_is_refused(kind: str, share: float) -> None:
    data = encoded(PIL.Image.fromarray(noise(64, 48, 3)), kind)
    with pytest.raises(InputError):
        load_image(Image(data[: int(len(data) * share)]))


@pytest.mark.parametrize("kind", ["PPM", "EPS", "ICO", "PCX", "TGA", "JPEG2000", "AVIF", "PDF", "SGI"])
def test_other_formats_are_refused(kind: str) -> None:
    with pytest.raises(InputError, match="expected a JPEG, PNG, WEBP, GIF, BMP or TIFF"):
        load_image(Image(encoded(PIL.Image.new("RGB", (16, 16)), kind)))


def test_messages_name_the_file_and_hold_no_address(tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0" * 40)
    for path in (tmp_path / "absent.png", tmp_path, broken):
        with pytest.raises(InputError) as caught:
            load_image(Image(path))
        assert str(path) in str(caught.value)
    for data in (b"", b"nonsense", broken.read_bytes()):
        with pytest.raises(InputError) as caught:
            load_image(Image(data))
        assert "0x" not in str(caught.value)
        assert caught.value.__cause__ is None


def test_damaged_exif_counts_as_upright() -> None:
    a = noise(4, 6, 3)
    found = decoded(encoded(PIL.Image.fromarray(a), "PNG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"))
    assert (found == a).all()


def test_stamps_decode(stamps: Path) -> None:
    for path in sorted((stamps / "images").iterdir())[:20]:
        assert load_image(Image(path)).mode == "RGB"
