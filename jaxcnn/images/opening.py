"""Image files, opened: which kinds, how large, and in 8 bits.

The kind of a file is told by its bytes, never by its name, and is one of `FORMATS`. Pillow reads more, some of it by
running other programs: Ghostscript for EPS.
"""

import contextlib
import errno
import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from jaxcnn.errors import BadExample, line

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
"""What is read, in Pillow's words."""
MAX_PIXELS = 1 << 26
"""The largest image that is decoded, in pixels: 8192 x 8192. What claims more is damaged or means harm."""
MAX_BYTES = 1 << 30
"""The largest file that is read as an image: MAX_PIXELS of four channels of 16 bits, twice."""
GREY = frozenset({"1", "L", "I", "I;16", "I;16B", "I;16L", "I;16N", "F"})
"""Pillow's modes of one channel."""
WHOLE = (GREY | {"P"}) - {"F"}
"""Pillow's modes whose values may be classes."""
# Why a file can never be opened; ENXIO: it is a socket. Other errors may pass: they stop a run, which can go on.
_LASTING = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO}
_BITS_PER_SAMPLE, _PHOTOMETRIC = 258, 262  # tags of TIFF; of the second 0 says that white is 0


class BadImage(BadExample):
    """One line: why this is no image that can be used."""


def read_file(path: str | Path) -> bytes:
    """Return the bytes of a file, in half as many calls of the system as `Path.read_bytes` makes.

    Raises:
        BadImage: it is not there, may not be read, is a folder, a pipe (which is not waited for) or a device, or has
            more than MAX_BYTES.
        OSError: it cannot be read for another reason, which may pass.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except ValueError as error:  # a zero byte, or what is no character
        raise BadImage("has a name that no file can have") from error
    except OSError as error:
        if error.errno in _LASTING:
            raise BadImage(os.strerror(error.errno)) from error
        raise
    try:
        found = os.fstat(file)
        if not stat.S_ISREG(found.st_mode):
            raise BadImage("is a folder" if stat.S_ISDIR(found.st_mode) else "is no file")
        check_bytes(found.st_size)
        content = os.read(file, found.st_size)
        while len(content) < found.st_size and (more := os.read(file, found.st_size - len(content))):
            content += more
        return content
    finally:
        os.close(file)


@contextlib.contextmanager
def opened(encoded: bytes) -> Iterator["Image"]:
    """Open an image file for a `with` block, to which whatever Pillow raises comes as a BadImage.

    Raises:
        BadImage: it is none of `FORMATS`, its size cannot be meant, or it is damaged.
    """
    # The two that Image.open does not import by itself.
    from PIL import Image, TiffImagePlugin, UnidentifiedImageError, WebPImagePlugin  # noqa: F401

    if not encoded:
        raise BadImage("an empty file")
    try:
        image = Image.open(io.BytesIO(encoded), formats=FORMATS)
    except UnidentifiedImageError:
        expected = "a whole JPEG" if encoded.startswith(b"\xff\xd8\xff") else ", ".join(FORMATS)
        raise BadImage(f"begins with {encoded[:12]!r}: expected {expected}") from None
    except Exception as error:
        raise _bad(error) from error
    with image:
        check_size(image.height, image.width)
        try:
            yield image
        except BadImage:
            raise
        except Exception as error:  # Pillow's plugins raise whatever a damaged file leads them to
            raise _bad(error) from error


def eight_bits(image: "Image", mode: Literal["L", "RGB"]) -> "Image":
    """Return an image in 8 bits of grey or colour: alpha is dropped, CMYK converted by Pillow.

    16 bits are scaled by their range, that is the lower ones are dropped, as Pillow does for colours; of grey it would
    make white of all that is above 255.

    Raises:
        BadImage: it is grey of 32 bits or of floating point, which says nothing of its range.
    """
    from PIL import Image

    # What PPM files have beyond 8 bits Pillow has scaled to 16 already.
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        tags = getattr(image, "tag_v2", {})
        pixels = (np.asarray(image) >> (tags.get(_BITS_PER_SAMPLE, (16,))[0] - 8)).astype(np.uint8)
        image = Image.fromarray(255 - pixels if tags.get(_PHOTOMETRIC) == 0 else pixels)
    elif image.mode in ("I", "F"):
        kind = "whole numbers of 32 bits" if image.mode == "I" else "floating point numbers"
        raise BadImage(f"is grey in {kind}, whose range is not known: expected 8 or 16 bits")
    image.load()
    if "transparency" in image.info:  # dropped in any case, and Pillow warns that it is
        image = image.copy()
        del image.info["transparency"]
    return image.convert(mode)


def check_size(height: int, width: int) -> None:
    """Raise BadImage for a size that cannot be meant."""
    if not 0 < height * width <= MAX_PIXELS:
        raise BadImage(f"claims {height}x{width} pixels, expected 1 to {MAX_PIXELS}")


def check_bytes(size: int) -> None:
    """Raise BadImage for a file that is too large to be an image."""
    if size > MAX_BYTES:
        raise BadImage(f"has {size} bytes, expected at most {MAX_BYTES}")


def _bad(error: Exception) -> BadImage:
    return BadImage(line(error)[:200])
