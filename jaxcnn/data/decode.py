"""Only the part of an image that a training crop needs, and fast.

Rows below the crop are not decoded, and a crop at least twice as large as the result in both directions is decoded at
half the scale: see `images.jpeg`.
"""

import numpy as np
from jaxtyping import Shaped, UInt8

from jaxcnn.data.resampling import Box, bilinear, check_inside, resize_crop, target
from jaxcnn.images.jpeg import decode_jpeg, header_of
from jaxcnn.images.pixels import decode, decode_by_pillow
from jaxcnn.preprocessing import Interpolation


def decoded(image: bytes | Shaped[np.ndarray, "h w channels"], channels: int) -> Shaped[np.ndarray, "h w channels"]:
    """Return the pixels of an image as it is stored: `decode` of a file, and pixels as they are.

    Raises:
        BadImage: as `decode`.
    """
    return decode(image, channels) if isinstance(image, bytes) else image


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
    jpeg, pixels, factor = header_of(encoded), None, 1
    if jpeg is not None:
        check_inside(box, jpeg.height, jpeg.width)
        if interpolation == "bilinear":
            factor = _factor(box, size)
        pixels = decode_jpeg(encoded, jpeg, channels, box.top + box.height, factor)
    if pixels is None:
        pixels, factor = decode_by_pillow(encoded, channels), 1
    if factor == 1:
        return resize_crop(pixels, box, size, interpolation, out)
    out = target(out, size, channels)
    bilinear(pixels, [side / factor for side in box], out)
    return out


def _factor(box: Box, size: tuple[int, int]) -> int:
    """Return the largest of 1, 2, 4 and 8 by which a box can shrink and be no smaller than the result."""
    for factor in (8, 4, 2):
        if box.height >= factor * size[0] and box.width >= factor * size[1]:
            return factor
    return 1
