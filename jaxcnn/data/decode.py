"""Image files to pixels: whole and exact, or only the part that a training crop needs, and fast.

JPEG goes to libjpeg-turbo (simplejpeg), all else to Pillow; both release the interpreter's lock while they work. The
kind is told by the bytes, never by the name: ImageNet has a PNG and CMYK files under names in .JPEG.

Two tricks make a training crop cheaper than the whole image. Rows below the crop are not decoded: the height in the
header is lowered, in a copy, and the decoder stops there. And a crop at least twice as large as the result in both
directions is decoded at half the scale, by transforming a quarter of each block's coefficients.
"""

import io
import math
import re
import threading
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from jaxcnn.data.bad import BadExample
from jaxcnn.data.resampling import Box, bilinear, check_inside, resize_crop, target
from jaxcnn.preprocessing import Interpolation

MAX_PIXELS = 1 << 26
"""The largest image that is decoded, in pixels: 8192 x 8192. What claims more is damaged or means harm."""

# A buffer larger than this is not kept between images: threads are many, such images few.
_KEPT_BYTES = 32 << 20
# Pillow reads more, some of it by running other programs.
_FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
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


class BadImage(BadExample):
    """One line: why these bytes are no image."""


class _Jpeg(NamedTuple):
    """What a JPEG file says of itself."""

    frame: int
    """Where the frame's header begins."""
    height: int
    width: int
    components: int
    fast: bool
    """Whether libjpeg-turbo's own interface reads it: no CMYK, not 12 bits."""


def image_size(image: bytes | Shaped[np.ndarray, "h w *channels"]) -> tuple[int, int]:
    """Return height and width of pixels, or of an image file by its header alone (about 1 us for JPEG, 40 for others).

    Raises:
        BadImage: it is no image, or its size cannot be meant.
    """
    if not isinstance(image, bytes):
        return image.shape[0], image.shape[1]
    at = _frame(image)
    if at:
        return _size(image, at)
    with _Opened(image) as opened:
        return opened.height, opened.width


def decoded(image: bytes | Shaped[np.ndarray, "h w channels"], channels: int) -> Shaped[np.ndarray, "h w channels"]:
    """Return the pixels of an image as it is stored: `decode` of a file, and pixels as they are.

    Raises:
        BadImage: as `decode`.
    """
    return decode(image, channels) if isinstance(image, bytes) else image


def decode(encoded: bytes, channels: int) -> UInt8[np.ndarray, "h w channels"]:
    """Return a whole image, the same bits as Pillow's `convert("L")` (1 channel) or `convert("RGB")` (3).

    Of an animation the first frame; alpha is dropped; a rotation in the EXIF data is not applied.

    Raises:
        BadImage: it is no image, truncated, or corrupt where a decoder can tell, or has more than MAX_PIXELS. Pillow
            reads many a corrupt JPEG file without a word; this does not. (A damaged byte often decodes to a wrong
            colour and no more: no decoder can tell that.)
    """
    jpeg = _jpeg(encoded)
    pixels = None if jpeg is None else _decode_jpeg(encoded, jpeg, channels)
    return _decode_other(encoded, channels) if pixels is None else pixels


def decode_crop(
    encoded: bytes,
    box: Box,
    size: tuple[int, int],
    channels: int,
    interpolation: Interpolation = "bilinear",
    out: UInt8[np.ndarray, "height width channels"] | None = None,
) -> UInt8[np.ndarray, "height width channels"]:
    """Return a part of an image, resized: `resize_crop` of `decode`, and as near to Pillow's as stated there.

    Where `box` is at least twice `size` in both directions (or 4 or 8 times), bilinear starts from a JPEG decoded at
    that smaller scale, and differs from Pillow's result by 1 to 3 of 255 in the mean on photographs.

    Args:
        encoded: the file.
        box: inside the image, whose size `image_size` tells.
        size: height and width of the result.
        channels: 1 or 3.
        interpolation: see `resize_crop`.
        out: uint8, contiguous; written and returned.

    Raises:
        BadImage: as for `decode`, except that damage within the data may go unnoticed where the box ends above the
            image's last rows. A file that was cut off is noticed wherever the box lies.
    """
    jpeg, pixels, factor = _jpeg(encoded), None, 1
    if jpeg is not None:
        check_inside(box, jpeg.height, jpeg.width)
        if interpolation == "bilinear":
            factor = _factor(box, size)
        pixels = _decode_jpeg(encoded, jpeg, channels, box.top + box.height, factor)
    if pixels is None:
        pixels, factor = _decode_other(encoded, channels), 1
    if factor == 1:
        return resize_crop(pixels, box, size, interpolation, out)
    out = target(out, size, channels)
    bilinear(pixels, [side / factor for side in box], out)
    return out


def channels_of(encoded: bytes) -> int:
    """Return 1 where an image file is grey, by its header alone, else 3.

    Raises:
        BadImage: it is no image.
    """
    at = _frame(encoded)
    if at:
        return 1 if encoded[at + 9] == 1 else 3
    with _Opened(encoded) as opened:
        return 1 if opened.mode in ("1", "L", "I", "I;16") else 3


def decode_classes(encoded: bytes) -> Int[np.ndarray, "h w"]:
    """Return the class map in a file of one channel: grey values, or the indices of a palette.

    Raises:
        BadImage: as `decode`; or it has several channels.
    """
    with _Opened(encoded) as image:
        image.load()
        if image.mode not in ("1", "L", "P", "I", "I;16"):
            raise BadImage(f"is of mode {image.mode}, expected one channel that holds classes")
        found = np.asarray(image)
    return found.astype(np.uint8 if found.dtype == bool else np.int32) if found.dtype != np.uint8 else found


def _frame(encoded: bytes) -> int:
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


def _size(encoded: bytes, frame: int) -> tuple[int, int]:
    """Return height and width, from the header of a JPEG frame."""
    height, width = int.from_bytes(encoded[frame + 5 : frame + 7]), int.from_bytes(encoded[frame + 7 : frame + 9])
    _check_size(height, width)
    return height, width


def _jpeg(encoded: bytes) -> _Jpeg | None:
    """Return what a JPEG file says of itself, None where it is another kind of file, or too odd to be read here."""
    at = _frame(encoded)
    if not at:
        return None
    # The end marker cannot be within the data; before the frame it may be the end of a thumbnail.
    if encoded.rfind(b"\xff\xd9", at) < 0:
        raise BadImage("truncated: a JPEG file without its end")
    height, width = _size(encoded, at)
    fast = encoded[at + 1] in _FAST and encoded[at + 4] == 8 and encoded[at + 9] in (1, 3)
    return _Jpeg(at, height, width, encoded[at + 9], fast)


def _decode_jpeg(
    encoded: bytes, jpeg: _Jpeg, channels: int, bottom: int | None = None, factor: int = 1
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
                return _decode_jpeg(encoded, jpeg, channels, jpeg.height, factor)
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


def _decode_other(encoded: bytes, channels: int) -> UInt8[np.ndarray, "h w channels"]:
    with _Opened(encoded) as image:
        image.load()
        image.info.pop("transparency", None)  # dropped in any case, and Pillow warns that it is
        pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return pixels[..., None] if channels == 1 else pixels


class _Opened:
    """`with` gives a Pillow image of allowed size; whatever Pillow raises meanwhile becomes a BadImage."""

    def __init__(self, encoded: bytes) -> None:
        self.encoded = encoded

    def __enter__(self) -> Any:
        # The two that Image.open does not import by itself.
        from PIL import Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

        if not self.encoded:
            raise BadImage("an empty file")
        try:
            self.image = Image.open(io.BytesIO(self.encoded), formats=_FORMATS)
        except UnidentifiedImageError:
            expected = "a whole JPEG" if self.encoded.startswith(b"\xff\xd8\xff") else ", ".join(_FORMATS)
            raise BadImage(f"begins with {self.encoded[:12]!r}: expected {expected}") from None
        except Exception as error:
            raise _bad(error) from error
        _check_size(self.image.height, self.image.width)
        return self.image

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        self.image.close()
        # Pillow's plugins raise whatever a damaged file leads them to.
        if isinstance(error, Exception) and not isinstance(error, BadImage):
            raise _bad(error) from error


def _bad(error: Exception) -> BadImage:
    return BadImage(" ".join(str(error).split())[:200] or type(error).__name__)


def _check_size(height: int, width: int) -> None:
    if not 0 < height * width <= MAX_PIXELS:
        raise BadImage(f"claims {height}x{width} pixels, expected 1 to {MAX_PIXELS}")


def _factor(box: Box, size: tuple[int, int]) -> int:
    """Return the largest of 1, 2, 4 and 8 by which a box can shrink and be no smaller than the result."""
    for factor in (8, 4, 2):
        if box.height >= factor * size[0] and box.width >= factor * size[1]:
            return factor
    return 1


def _grey(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "h w 1"]:
    from PIL import Image

    return np.asarray(Image.fromarray(pixels).convert("L"))[..., None]
