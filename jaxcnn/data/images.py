"""Encoded images to uint8 arrays of one size, with Pillow."""

import io
import math
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import UInt8

from jaxcnn.errors import UsageError
from jaxcnn.preprocessing import Preprocessing
from jaxcnn.typed import check

if TYPE_CHECKING:
    from PIL.Image import Image

Resize = Literal["bilinear", "bicubic", "pad"]


def preprocessing(shape: Sequence[int], resize: Resize, mean: np.ndarray, std: np.ndarray) -> Preprocessing:
    """Return how any image becomes one of `shape` [height, width, channels], the way `fit` does it, and normalised."""
    height, width, channels = shape
    found = {
        "size": [height, width],
        "resize": min(height, width),
        "interpolation": "none" if resize == "pad" else resize,
        "channels": "L" if channels == 1 else "RGB",
        "mean": mean.tolist(),
        "std": std.tolist(),
    }
    return check(Preprocessing, found, "")


def fit(image: "Image", size: int | None, resize: Resize) -> "Image":
    """Return `image` as size x size (see DataConfig.resize), or as it is where `size` is None."""
    if size is None or image.size == (size, size):
        return image
    if resize == "pad" and max(image.size) > size:
        width, height = image.size
        raise UsageError(f"an image of {height}x{width} cannot be padded to {size}x{size}: use bilinear")
    interpolation: Any = "none" if resize == "pad" else resize
    return Preprocessing(size=(size, size), resize=size, interpolation=interpolation).resized(image)


def decode(encoded: bytes, channels: int, size: int | None, resize: Resize) -> UInt8[np.ndarray, "h w c"]:
    """Decode one image file to `channels` (1 or 3) channels, fitted to `size`."""
    from PIL import Image

    with Image.open(io.BytesIO(encoded)) as image:
        pixels = np.asarray(fit(image.convert("L" if channels == 1 else "RGB"), size, resize))
    return pixels[..., None] if channels == 1 else pixels


def fit_array(images: UInt8[np.ndarray, "n h w c"], size: int | None, resize: Resize) -> UInt8[np.ndarray, "n h2 w2 c"]:
    """Fit decoded images to `size`, channel by channel."""
    from PIL import Image

    if size is None or images.shape[1:3] == (size, size):
        return images
    check_memory(len(images), (size, size, images.shape[-1]))
    out = np.empty((len(images), size, size, images.shape[-1]), np.uint8)
    for index, image in enumerate(images):
        for channel in range(images.shape[-1]):
            out[index, ..., channel] = fit(Image.fromarray(image[..., channel]), size, resize)
    return out


def check_memory(count: int, shape: Sequence[int]) -> None:
    """Raise UsageError where `count` images of this shape do not fit in half the memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = count * math.prod(shape)
    if needed > memory // 2:
        raise UsageError(
            f"{count} images of {'x'.join(map(str, shape))} are {needed / 2**30:.0f} GiB, more than half of the memory "
            f"({memory / 2**30:.0f} GiB): choose a smaller data.image_size"
        )


def stack(
    count: int,
    read: Callable[[Sequence[int]], Iterable[np.ndarray]],
    name: Callable[[int], str],
    poll: Callable[[], None],
) -> UInt8[np.ndarray, "n h w c"]:
    """Return `count` images as one array; `read` decodes those of some indices, and is called in threads.

    `poll` is called for each image; what it raises ends the work.

    Raises:
        UsageError: where an image's size differs from the first one's, or they do not fit in half the memory.
    """
    (first,) = read([0])
    check_memory(count, first.shape)
    out = np.empty((count, *first.shape), np.uint8)

    def put(indices: Sequence[int]) -> None:
        for index, image in zip(indices, read(indices), strict=True):
            poll()
            if image.shape != first.shape:
                raise UsageError(
                    f"images differ in size ({name(0)} is {first.shape[0]}x{first.shape[1]}, "
                    f"{name(index)} is {image.shape[0]}x{image.shape[1]}): set data.image_size"
                )
            out[index] = image

    # Decoding a small image holds the interpreter's lock most of the time: threads would only get in its way.
    workers = 1 if first.size < 64 * 64 * 3 else os.cpu_count()
    with ThreadPoolExecutor(workers) as pool:
        # list() passes on the first error.
        list(pool.map(put, (range(start, min(start + 256, count)) for start in range(0, count, 256))))
    return out
