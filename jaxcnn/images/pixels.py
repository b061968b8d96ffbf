"""Image files to pixels, whole and exact: JPEG by libjpeg-turbo, all else by Pillow. Both release Python's lock.

The kind is told by the bytes: ImageNet has a PNG and CMYK files under names in .JPEG.
"""

import numpy as np
from jaxtyping import Int, Shaped, UInt8

from jaxcnn.images.jpeg import decode_jpeg, frame_of, header_of, size_of
from jaxcnn.images.opening import GREY, WHOLE, BadImage, eight_bits, opened


def image_size(image: bytes | Shaped[np.ndarray, "h w *channels"]) -> tuple[int, int]:
    """Return height and width of pixels, or of an image file by its header alone (about 1 us for JPEG, 40 for others).

    Raises:
        BadImage: it is no image, or its size cannot be meant.
    """
    if not isinstance(image, bytes):
        return image.shape[0], image.shape[1]
    at = frame_of(image)
    if at:
        return size_of(image, at)
    with opened(image) as file:
        return file.height, file.width


def decode(encoded: bytes, channels: int) -> UInt8[np.ndarray, "h w channels"]:
    """Return a whole image, the same bits as Pillow's `convert("L")` (1 channel) or `convert("RGB")` (3).

    Grey of 16 bits is scaled to 8, which Pillow does not do: see `opening.eight_bits`. Of an animation the first frame;
    alpha is dropped; a rotation in the EXIF data is not applied.

    Raises:
        BadImage: it is no image, truncated, or corrupt where a decoder can tell, or has more than MAX_PIXELS. Pillow
            reads many a corrupt JPEG file without a word; this does not. (A damaged byte often decodes to a wrong
            colour and no more: no decoder can tell that.)
    """
    jpeg = header_of(encoded)
    pixels = None if jpeg is None else decode_jpeg(encoded, jpeg, channels)
    return decode_by_pillow(encoded, channels) if pixels is None else pixels


def decode_by_pillow(encoded: bytes, channels: int) -> UInt8[np.ndarray, "h w channels"]:
    """Return what `decode` does, of any file.

    Raises:
        BadImage: as `decode`, but for what only libjpeg-turbo notices.
    """
    with opened(encoded) as image:
        pixels = np.asarray(eight_bits(image, "L" if channels == 1 else "RGB"))
    return pixels[..., None] if channels == 1 else pixels


def kind_of(encoded: bytes) -> tuple[str, str]:
    """Return the format and the mode of an image file, in Pillow's words, by its header alone.

    Raises:
        BadImage: it is no image.
    """
    at = frame_of(encoded)
    if at:  # among them are some that Pillow does not open
        return "JPEG", {1: "L", 3: "RGB", 4: "CMYK"}.get(encoded[at + 9], f"{encoded[at + 9]} channels")
    with opened(encoded) as image:
        return image.format or "?", image.mode


def channels_of(encoded: bytes) -> int:
    """Return 1 where an image file is grey, by its header alone, else 3.

    Raises:
        BadImage: it is no image.
    """
    return 1 if kind_of(encoded)[1] in GREY else 3


def decode_classes(encoded: bytes) -> Int[np.ndarray, "h w"]:
    """Return the class map in a file of one channel: grey values, or the indices of a palette.

    Raises:
        BadImage: as `decode`; or it has several channels, or grey values that Pillow scales or inverts.
    """
    with opened(encoded) as image:
        if image.mode not in WHOLE:
            raise BadImage(f"is of mode {image.mode}, expected one channel that holds classes")
        # Less than 8 bits of grey become 8, and any brightest value of a PGM file 255 or 65535; where TIFF says that
        # white is 0, Pillow turns grey of up to 8 bits round ("I").
        for tile in getattr(image, "tile", ()):
            raw, *rest = tile.args if isinstance(tile.args, tuple) else (tile.args,)
            scaled = tile.codec_name.startswith("ppm") and rest and rest[0] not in (255, 65535)
            if scaled or str(raw).startswith(("L;2", "L;4", "L;I")):
                raise BadImage(
                    "has grey values that are scaled or inverted as they are read: expected 8 or 16 bits with black as "
                    "0, or a palette"
                )
        found = np.asarray(image)
    return found.astype(np.uint8 if found.dtype == bool else np.int32) if found.dtype != np.uint8 else found
