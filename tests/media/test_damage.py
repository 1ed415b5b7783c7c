"""Damaged and hostile pictures: decoded by policy or refused in our words, and never at a price."""

import io
import random
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from mmlm.errors import InputError
from mmlm.media import load_image
from mmlm.sample import Image


def seeds() -> list[bytes]:
    """Small valid pictures of every format and many modes."""
    rgba = np.random.default_rng(0).integers(0, 256, (19, 23, 4), dtype=np.uint8)
    rgb = PIL.Image.fromarray(np.ascontiguousarray(rgba[..., :3]))
    deep = PIL.Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20) * 150)
    exif = PIL.Image.Exif()
    exif[274] = 6
    made: list[bytes] = []

    def save(picture: PIL.Image.Image, kind: str, **options: object) -> None:
        stream = io.BytesIO()
        picture.save(stream, kind, **options)
        made.append(stream.getvalue())

    for kind in ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"):
        save(rgb, kind)
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "group4"):
        save(rgb.convert("1") if compression == "group4" else rgb, "TIFF", compression=compression)
    for kind in ("JPEG", "PNG", "WEBP", "TIFF"):
        save(rgb, kind, exif=exif, icc_profile=b"x" * 200)
    for kind in ("PNG", "WEBP", "TIFF"):
        save(PIL.Image.fromarray(rgba), kind)
    for kind in ("GIF", "WEBP", "PNG", "TIFF", "MPO"):
        save(rgb, kind, save_all=True, append_images=[rgb.rotate(90), rgb.rotate(180)])
    for kind in ("PNG", "TIFF"):
        save(deep, kind)
        save(rgb.convert("1"), kind)
    save(rgb.quantize(), "PNG", transparency=3)
    save(rgb.convert("CMYK"), "JPEG")
    save(rgb, "JPEG", progressive=True)
    return made


def mutant(data: bytes, dice: random.Random) -> bytes:
    """`data` after one to four small accidents: bits, bytes, numbers, and pieces cut, doubled or moved."""
    out = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        i = dice.randrange(min(len(out), 400) if dice.random() < 0.6 else len(out))  # headers matter most
        j = min(len(out), i + dice.choice((1, 2, 4, 16, 64)))
        match dice.randrange(6):
            case 0:
                out[i] ^= 1 << dice.randrange(8)
            case 1:
                out[i] = dice.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                out[i : i + 4] = struct.pack(
                    dice.choice("<>") + "I", dice.choice((0, 1, 0xFFFF, 1 << 20, 1 << 31, (1 << 32) - 1))
                )
            case 3:
                del out[i:j]
            case 4:
                out[i:i] = out[i:j]
            case 5:
                del out[dice.randrange(1, len(out)) :]
        if len(out) < 2:
            break
    return bytes(out)


def test_mutants_are_decoded_or_refused() -> None:
    dice = random.Random(0)
    parents = seeds()
    refused = 0
    for _ in range(600):
        data = mutant(dice.choice(parents), dice)
        try:
            picture = load_image(Image(data))
        except InputError as e:
            refused += 1
            assert "0x" not in str(e)
        else:
            assert picture.mode == "RGB"
            np.asarray(picture)
    assert 100 < refused < 600


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int = 8, colour: int = 2, interlaced: int = 0, extra: bytes = b"") -> bytes:
    rows = zlib.compress(bytes(1 << 20))
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced))
    return b"\x89PNG\r\n\x1a\n" + header + extra + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def gif(screen: int, frame: int) -> bytes:
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", screen, screen, 0x80, 0, 0)
        + bytes(6)
        + (b"," + struct.pack("<HHHHB", 0, 0, frame, frame, 0) + b"\x02\x02\x4c\x01\x00;")
    )


def bmp(width: int, height: int, bits: int, compression: int = 0) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, 0, 0, 0, 2, 0)
    return b"BM" + struct.pack("<IHHI", 4096, 0, 0, 14 + 40 + 8) + header + bytes(4096)


def jpeg(width: int, height: int, frame: int, parts: int) -> bytes:
    stream = io.BytesIO()
    PIL.Image.new({1: "L", 3: "RGB", 4: "CMYK"}[parts], (8, 8)).save(stream, "JPEG", progressive=frame == 0xC2)
    data = bytearray(stream.getvalue())
    at = data.index(bytes((0xFF, frame)))
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def webp(kind: bytes, body: bytes) -> bytes:
    inner = b"WEBP" + kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2)
    return b"RIFF" + struct.pack("<I", len(inner)) + inner


def tiff(tags: dict[int, int], order: str = "<", following: int = 0) -> bytes:
    entries = b"".join(struct.pack(order + "HHII", t, 4, 1, v) for t, v in sorted(tags.items()))
    start = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(order + "IH", 8, len(tags))
    return start + entries + struct.pack(order + "I", following) + bytes(4096)


def strip(width: int, height: int, bits: int = 8, **more: int) -> dict[int, int]:
    return {256: width, 257: height, 258: bits, 259: 1, 262: 1, 273: 200, 277: 1, 278: height, 279: 4096} | {
        int(k[1:]): v for k, v in more.items()
    }


def bombs() -> Iterator[tuple[str, bytes]]:
    """Files of a few kilobytes that ask for gigabytes, minutes, or another program."""
    yield "png square", png(60_000, 60_000)
    yield "png greatest", png(2**31 - 1, 2**31 - 1)
    yield "png line", png(64_000_001, 1)
    yield "png column", png(1, 2**31 - 1)
    yield "png deep", png(50_000, 50_000, depth=16, colour=6)
    yield "png interlaced", png(30_000, 30_000, interlaced=1)
    yield "png just above", png(8_001, 8_000)
    yield "png text", png(8, 8, extra=chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(200 << 20), 9)))
    yield "png profile", png(8, 8, extra=chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(200 << 20), 9)))
    yield "gif screen", gif(65_535, 65_535)
    yield "gif frame", gif(1, 65_535)
    yield "bmp square", bmp(60_000, 60_000, 24)
    yield "bmp upside down", bmp(60_000, -60_000, 32)
    yield "bmp runs", bmp(65_000, 65_000, 8, compression=1)
    yield "jpeg baseline", jpeg(65_500, 65_500, 0xC0, 3)
    yield "jpeg progressive", jpeg(65_500, 65_500, 0xC2, 3)
    yield "jpeg inks", jpeg(20_000, 20_000, 0xC0, 4)
    yield "webp canvas", webp(b"VP8X", b"\0\0\0\0" + b"\xff\xff\xff" * 2)
    yield "webp lossless", webp(b"VP8L", b"\x2f" + struct.pack("<I", 0x0FFFFFFF) + bytes(64))
    yield "webp lossy", webp(b"VP8 ", b"\x10\0\0\x9d\x01\x2a" + struct.pack("<HH", 16_383, 16_383) + bytes(64))
    yield "tiff square", tiff(strip(100_000, 100_000))
    yield "tiff float", tiff(strip(50_000, 50_000, 32, t339=3))
    yield "tiff motorola", tiff(strip(2**31, 2, 16), order=">")
    yield "tiff tile", tiff(strip(8, 8, t322=65_536, t323=65_536, t324=200, t325=4096))
    yield "tiff chain", tiff(strip(100_000, 100_000), following=8)
    yield "postscript", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99999 99999\n{} loop\n"
    yield "fits", b"SIMPLE  =                    T".ljust(2880)
    yield "svg", b'<svg xmlns="http://www.w3.org/2000/svg" width="99999999" height="99999999"/>'


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc")
def test_bombs_cost_little(tmp_path: Path) -> None:
    """All bombs, in a process of their own: refused (a long text beside a good picture may be passed over), each within
    a second of work, and never above 300 MB."""
    for i, (name, data) in enumerate(bombs()):
        assert len(data) < 1 << 20, name
        (tmp_path / f"{i:02d} {name}").write_bytes(data)
    script = """
import re, sys, time
from pathlib import Path
from mmlm.errors import InputError
from mmlm.media.image import load_image
from mmlm.sample import Image
for path in sorted(Path(sys.argv[1]).iterdir()):
    start = time.process_time()
    try:
        load_image(Image(path))
        said = "decoded"
    except InputError as e:
        said = str(e).removeprefix(f"{path}: ")
    # The peak of this process: getrusage would report the parent's where that was higher.
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
    print(path.name[3:], round(time.process_time() - start, 3), int(peak[1]) // 1024, said, sep="|")
"""
    root = Path(__file__).parents[2]
    lines = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], cwd=root, capture_output=True, text=True, check=True
    ).stdout
    rows = [line.split("|") for line in lines.splitlines()]
    assert len(rows) == len(list(bombs())) >= 25
    for name, seconds, megabytes, said in rows:
        assert float(seconds) < 1.0, (name, seconds)
        assert int(megabytes) < 300, (name, megabytes)
        assert said != "decoded" or name in ("png text", "png profile"), name
    assert sum(said.startswith("the picture has more than 64 million pixels") for *_, said in rows) >= 20


@pytest.mark.parametrize("change", [lambda d: d[:-1], lambda d: d + b"trailing", lambda d: d])
def test_trailing_bytes_are_harmless(change: Callable[[bytes], bytes]) -> None:
    stream = io.BytesIO()
    PIL.Image.new("RGB", (4, 4), (1, 2, 3)).save(stream, "BMP")
    try:
        assert np.asarray(load_image(Image(change(stream.getvalue()))))[0, 0].tolist() == [1, 2, 3]
    except InputError as e:
        assert "cut short" in str(e) and len(change(stream.getvalue())) < len(stream.getvalue())
