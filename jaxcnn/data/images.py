"""Images to uint8 arrays of one size, and many of them to one array. Pillow scales, since that is exact."""

import contextlib
import math
import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import UInt8

from jaxcnn.data.config import DataConfig
from jaxcnn.data.decode import decoded
from jaxcnn.errors import UsageError
from jaxcnn.preprocessing import Preprocessing
from jaxcnn.typed import check

if TYPE_CHECKING:
    from PIL.Image import Image


def preprocessing(shape: Sequence[int], config: DataConfig, mean: np.ndarray, std: np.ndarray) -> Preprocessing:
    """Return how any image becomes one of `shape` [height, width, channels], the way `fit` does it, and normalised."""
    height, width, channels = shape
    found = {
        "size": [height, width],
        "resize": config.resize_to or min(height, width),
        "interpolation": "none" if config.resize == "pad" else config.resize,
        "channels": "L" if channels == 1 else "RGB",
        "mean": mean.tolist(),
        "std": std.tolist(),
    }
    return check(Preprocessing, found, "")


def fit(image: "Image", config: DataConfig) -> "Image":
    """Return `image` as `config` has it evaluated: see its `image_size`, `resize` and `resize_to`."""
    size, short_side = config.image_size, config.resize_to or config.image_size
    if size is None or (image.size == (size, size) and short_side == size):
        return image
    if config.resize == "pad" and max(image.size) > size:
        width, height = image.size
        raise UsageError(f"an image of {height}x{width} cannot be padded to {size}x{size}: use bilinear")
    interpolation: Any = "none" if config.resize == "pad" else config.resize
    return Preprocessing(size=(size, size), resize=short_side, interpolation=interpolation).resized(image)


def fitted(image: bytes | UInt8[np.ndarray, "h w c"], channels: int, config: DataConfig) -> UInt8[np.ndarray, "h w c"]:
    """Return one image, encoded or not, decoded to `channels` (1 or 3, if it is encoded) and brought to its size.

    Raises:
        BadImage: the bytes are no image.
        UsageError: it is too large to be padded.
    """
    pixels = decoded(image, channels)
    if config.image_size is None:
        return pixels
    from PIL import Image

    if pixels.shape[-1] == 3:
        return np.asarray(fit(Image.fromarray(pixels), config))
    return np.stack([np.asarray(fit(Image.fromarray(pixels[..., c]), config)) for c in range(pixels.shape[-1])], -1)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def check_memory(count: int, shape: Sequence[int]) -> None:
    """Raise UsageError where `count` images of this shape do not fit in half the memory."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    needed = count * math.prod(shape)
    if needed > memory // 2:
        raise UsageError(
            f"{count} images of {'x'.join(map(str, shape))} are {needed / 2**30:.0f} GiB, more than half of the memory "
            f"({memory / 2**30:.0f} GiB): choose a smaller data.image_size, or data.pipeline streaming"
        )


def free_memory() -> tuple[int, int]:
    """Return how many bytes are free on the host and on the first device, which may be the host's."""
    host = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")
    with contextlib.suppress(OSError):  # Linux says what could be freed, too
        found = re.search(r"MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text())
        host = host if found is None else int(found[1]) * 1024
    stats = jax.local_devices()[0].memory_stats() or {}
    limit = stats.get("bytes_limit")
    return host, host if limit is None else limit - stats.get("bytes_in_use", 0)


def stack(
    count: int,
    read: Callable[[int], np.ndarray | None],
    name: Callable[[int], str],
    poll: Callable[[], None],
) -> UInt8[np.ndarray, "n h w c"]:
    """Return `count` images as one array; `read` decodes one of them, and is called in threads.

    Those that `read` has None for are black. `poll` is called for each image; what it raises ends the work.

    Raises:
        UsageError: where an image's size differs from the first one's, they do not fit in half the memory, or none
            can be read.
    """
    first, image = next(((i, image) for i in range(count) if (image := read(i)) is not None), (0, None))
    if image is None:
        raise UsageError(f"none of the {count} images can be used, such as {name(0)}")
    shape = image.shape
    check_memory(count, shape)
    out = np.zeros((count, *shape), np.uint8)

    def put(indices: range) -> None:
        for index in indices:
            poll()
            image = read(index)
            if image is None:
                continue
            if image.shape != shape:
                raise UsageError(
                    f"images differ in size ({name(first)} is {shape[0]}x{shape[1]}, "
                    f"{name(index)} is {image.shape[0]}x{image.shape[1]}): set data.image_size"
                )
            out[index] = image

    # Decoding a small image holds the interpreter's lock most of the time: threads would only get in its way.
    workers = 1 if math.prod(shape) < 64 * 64 * 3 else cores()
    with ThreadPoolExecutor(workers) as pool:
        # list() passes on the first error.
        list(pool.map(put, (range(start, min(start + 256, count)) for start in range(0, count, 256))))
    return out
