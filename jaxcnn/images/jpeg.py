"""JPEG files by libjpeg-turbo (simplejpeg), faster than by Pillow: down to any row, and at a fraction of the scale.

Two tricks make a part of an image cheaper than the whole. Rows below it are not decoded: the height in the header is
lowered, in a copy, and the decoder stops there. And at half the scale a quarter of each block's coefficients is
transformed.
"""

import math
import re
import threading
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8

from jaxcnn.images.opening import BadImage, check_size

# A buffer larger than this is not kept between images: threads are many, such images few.
_KEPT_BYTES = 32 << 20
# Start of frame, that is all of 0xC0 to 0xCF but tables (C4, CC) and a reserved one; the first three have 8 bits,
# Huffman codes and a DCT.
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_BASELINE, _FAST = (0xC0, 0xC1), (0xC0, 0xC1, 0xC2)
# Every pixel was decoded and bytes were left over. Pillow says nothing, and pictures as good as any have them.
_LEFT_OVER = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd9")
# The same of a file cut short by us, whose next marker may be one of restart.
_LEFT_OVER_BELOW = re.compile(r"Corrupt JPEG data: \d+ extraneous bytes before marker 0xd[0-79]")
_CORRUPT = re.compile("Corrupt JPEG data|Premature end|Inconsistent progression")

_local = threading.local()


class Jpeg(NamedTuple):
    """What a JPEG file says of itself."""

    frame: int
    """Where the frame's header begins."""
    height: int
    width: int
    components: int
    fast: bool
    """Whether libjpeg-turbo's own interface reads it: no CMYK, not 12 bits."""


def frame_of(encoded: bytes) -> int:
    """Return where the frame's header begins in a JPEG file; 0: it is none, or none that can be followed."""
    if encoded[:3] != b"\xff\xd8\xff":
        return 0
    at, end = 2, len(encoded) - 9
    while at < end and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker in _FRAMES:
            return at
        if marker == 0xFF:  # padding
            at += 1
        elif marker == 0xDA:  # data without a frame
            return 0
        else:
            at += 2 + (encoded[at + 2] << 8 | encoded[at + 3])
    return 0


def size_of(encoded: bytes, frame: int) -> tuple[int, int]:
    """Return height and width, from the header of a JPEG frame."""
    height, width = int.from_bytes(encoded[frame + 5 : frame + 7]), int.from_bytes(encoded[frame + 7 : frame + 9])
    check_size(height, width)
    return height, width


def header_of(encoded: bytes) -> Jpeg | None:
    """Return what a JPEG file says of itself, None where it is another kind of file, or too odd to be read here."""
    at = frame_of(encoded)
    if not at:
        return None
    # The end marker cannot be within the data; before the frame it may be the end of a thumbnail.
    if encoded.rfind(b"\xff\xd9", at) < 0:
        raise BadImage("truncated: a JPEG file without its end")
    height, width = size_of(encoded, at)
    fast = encoded[at + 1] in _FAST and encoded[at + 4] == 8 and encoded[at + 9] in (1, 3)
    return Jpeg(at, height, width, encoded[at + 9], fast)


def decode_jpeg(
    encoded: bytes, jpeg: Jpeg, channels: int, bottom: int | None = None, factor: int = 1
) -> UInt8[np.ndarray, "rows width channels"] | None:
    """Decode down to the row `bottom` (or below) at 1/factor of the scale; None: Pillow has to.

    With `bottom` the pixels are in this thread's buffer, and good until its next call.
    """
    import simplejpeg

    if not jpeg.fast:
        return None
    # Colours are interpolated from the row below, where they are stored at half the resolution.
    height = jpeg.height if bottom is None else min(jpeg.height, bottom + 2)
    # All of a progressive file is read in any case.
    cut = height < jpeg.height and encoded[jpeg.frame + 1] in _BASELINE
    if not cut:
        height = jpeg.height
    colours = "GRAY" if channels == jpeg.components == 1 else "RGB"
    shape = (-(-height // factor), -(-jpeg.width // factor), len(colours) if colours == "RGB" else 1)
    reuse = bottom is not None
    pixels = _buffer(math.prod(shape)) if reuse else np.empty(math.prod(shape), np.uint8)
    scale: dict[str, Any] = {} if factor == 1 else dict(min_factor=factor, min_height=shape[0], min_width=shape[1])
    source = _cut(encoded, jpeg.frame, height) if cut else encoded
    try:
        simplejpeg.decode_jpeg(source, colours, buffer=pixels, **scale)
    except ValueError as error:
        reason = str(error)
        if not (_LEFT_OVER_BELOW if cut else _LEFT_OVER).fullmatch(reason):
            if cut:  # it may have one scan for each colour: what the whole file says counts
                return decode_jpeg(encoded, jpeg, channels, jpeg.height, factor)
            if _CORRUPT.match(reason):
                raise BadImage(reason[0].lower() + reason[1:]) from error
            return None
    pixels = pixels[: math.prod(shape)].reshape(shape)
    return pixels if shape[2] == channels else _grey(pixels)


def _cut(encoded: bytes, frame: int, height: int) -> bytearray:
    cut = bytearray(encoded)
    cut[frame + 5 : frame + 7] = height.to_bytes(2, "big")
    return cut


def _buffer(count: int) -> UInt8[np.ndarray, "..."]:
    """Return at least `count` bytes that are this thread's: fresh memory costs a quarter of the time of a decode."""
    if count > _KEPT_BYTES:
        return np.empty(count, np.uint8)
    kept = getattr(_local, "buffer", None)
    if kept is None or len(kept) < count:
        kept = _local.buffer = np.empty(min(count + count // 4, _KEPT_BYTES), np.uint8)
    return kept


def _grey(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 1"]:
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
