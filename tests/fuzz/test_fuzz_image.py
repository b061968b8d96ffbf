"""Damaged image files: an image, or one line that says why it is none."""

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from mutations import fuzz, lengths, mutate
from PIL import Image

from jaxcnn.data.decode import decode_crop
from jaxcnn.data.resampling import Box
from jaxcnn.errors import UsageError
from jaxcnn.images.opening import BadImage
from jaxcnn.images.pixels import channels_of, decode, decode_classes, image_size, kind_of
from jaxcnn.preprocessing import Preprocessing

MEMORY = 1 << 30
"""Of one image: 8192 x 8192 pixels, which are allowed, as Pillow holds them, converted, and as an array."""


def smooth(mode="RGB", height=24, width=20):
    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (4, 4, 3)).astype(np.uint8))
    return coarse.resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def encoded(image, kind, **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def corpus():
    exif = Image.Exif()
    exif[0x0112] = 6
    deep = Image.fromarray((np.arange(24 * 20).reshape(24, 20) * 130).astype(np.uint16))
    grey, colour, palette = smooth("L"), smooth(), smooth().quantize(9)
    yield from (encoded(colour, "JPEG", subsampling=one) for one in (0, 2))
    yield from (encoded(smooth(mode), "JPEG", progressive=True) for mode in ("L", "RGB", "CMYK"))
    yield encoded(colour, "JPEG", exif=exif, icc_profile=bytes(200), restart_marker_blocks=1)
    yield from (encoded(image, "PNG") for image in (colour, grey, palette, deep, smooth("1"), smooth("RGBA")))
    yield encoded(grey.point(lambda value: value // 16 * 17), "PNG", bits=4)
    yield from (encoded(image, "BMP") for image in (colour, palette))
    yield from (encoded(image, "GIF") for image in (palette, grey))
    yield encoded(palette, "GIF", save_all=True, append_images=[palette.rotate(90)])
    yield from (encoded(colour, "WEBP", lossless=one) for one in (False, True))
    yield from (encoded(colour, "TIFF", compression=one) for one in (None, "tiff_lzw", "tiff_adobe_deflate", "jpeg"))
    yield from (encoded(image, "TIFF") for image in (deep, palette, smooth("CMYK"), smooth("F"), smooth("LAB")))
    yield from (encoded(image, "PPM") for image in (colour, grey, deep, smooth("1")))
    yield b"P2 4 3 99\n" + b" ".join(b"%d" % one for one in range(12))
    yield b"Pf 20 24 -1.0\n" + np.zeros((24, 20), "<f4").tobytes()


CORPUS = list(corpus())


def chunks(png):
    """Yield where the chunks of a PNG file begin, and the bytes of their data."""
    at = 8
    while at + 12 <= len(png):
        size = int.from_bytes(png[at : at + 4], "big")
        yield at, size
        at += 12 + size


def places(content):
    """Return where lengths, tags and sizes lie."""
    if content.startswith(b"\x89PNG"):
        return [(at + part, 4) for at, _ in chunks(content) for part in (0, 4)] + [(16, 4), (20, 4), (24, 1), (25, 1)]
    if content.startswith(b"\xff\xd8"):
        found, at = [], 2
        while at + 4 <= len(content) and content[at] == 0xFF and content[at + 1] != 0xDA:
            size = int.from_bytes(content[at + 2 : at + 4], "big")
            found += [(at + 1, 1), (at + 2, 2), (at + 4, 1), (at + 5, 2), (at + 7, 2), (at + 4, size - 2)]
            at += 2 + size
        return [*found, (at, 14)]
    if content.startswith(b"II*"):
        at = int.from_bytes(content[4:8], "little")
        entries = range(at + 2, len(content) - 12, 12)[: int.from_bytes(content[at : at + 2], "little")]
        parts = ((0, 2), (2, 2), (4, 4), (8, 4))
        return [(4, 4), (at, 2)] + [(entry + start, size) for entry in entries for start, size in parts]
    return [(at, size) for at in range(0, 40, 2) for size in (1, 2, 4)]


def repaired(content):
    """Return a PNG file whose checksums are right."""
    found = bytearray(content)
    for at, size in chunks(content):
        found[at + 8 + size : at + 12 + size] = struct.pack(">I", zlib.crc32(found[at + 4 : at + 8 + size]))
    return bytes(found)


def case(rng):
    good = CORPUS[rng.integers(len(CORPUS))]
    content = mutate(rng, good, places(good))
    if content.startswith(b"\x89PNG") and rng.integers(4):
        content = repaired(content)
    channels = int(rng.choice([1, 3]))
    start = rng.random(4)

    def door():
        height, width = image_size(content)
        assert channels_of(content) in (1, 3) and all(kind_of(content))
        with contextlib.suppress(BadImage):
            assert decode_classes(content).shape == (height, width)
        pixels = decode(content, channels)
        assert pixels.shape == (height, width, channels) and pixels.dtype == np.uint8
        top, left = int(start[0] * height), int(start[1] * width)
        box = Box(top, left, 1 + int(start[2] * (height - top - 1)), 1 + int(start[3] * (width - left - 1)))
        assert decode_crop(content, box, (5, 4), channels).shape == (5, 4, channels)

    return door


@lengths
def test_images(seconds):
    ended = fuzz(case, cases=500, seconds=seconds, memory=MEMORY, allowed=(BadImage,))
    assert ended["fine"] > 50 and ended["BadImage"] > 50


@lengths
def test_predict_opens_the_same_files(tmp_path, seconds):
    network = Preprocessing(size=(8, 8), resize=9)

    def of_a_file(rng):
        content = mutate(rng, CORPUS[rng.integers(len(CORPUS))])
        (tmp_path / "photo.jpg").write_bytes(content)

        def door():
            try:
                decode(content, 3)
            except BadImage:
                with pytest.raises(UsageError):
                    network(tmp_path / "photo.jpg")
            else:
                assert network(tmp_path / "photo.jpg").shape == (8, 8, 3)

        return door

    fuzz(of_a_file, cases=100, seconds=seconds, memory=MEMORY)
