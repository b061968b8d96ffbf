"""Several views of each image, as papers score them: ten crops, or several scales."""

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from jaxcnn.data.config import DataConfig
from jaxcnn.data.crops import mirrored, ten_crop
from jaxcnn.data.streaming import Reader
from jaxcnn.errors import UsageError, unknown
from jaxcnn.preprocessing import Preprocessing

VIEWS = ("center", "ten_crop", "multi_scale")

# Sides of rectangles are multiples of it, so that there are tens of shapes to compile for and not hundreds.
_STEP = 32


class Views(NamedTuple):
    """Several parts of one shape, cut from each of some images."""

    indices: Int[np.ndarray, " images"]
    parts: int
    height: int
    width: int
    cut: Callable[[UInt8[np.ndarray, "h w c"]], UInt8[np.ndarray, "parts height width c"]]


def ten_crops(split: Reader, config: DataConfig) -> list[list[Views]]:
    """Return four corners, centre and their mirror images (Krizhevsky et al. 2012, section 4.1).

    Raises:
        UsageError: the configuration leaves nothing around the centre.
    """
    size, short_side = config.image_size, config.resize_to
    if size is None or short_side is None or short_side <= size:
        raise UsageError(
            f"ten crops of {size} pixels need more to cut from: give a resize_to, such as {8 * (size or 224) // 7}"
        )
    scaled = Preprocessing(size=None, resize=short_side)

    def cut(pixels: np.ndarray) -> np.ndarray:
        from PIL import Image

        image = scaled.resized(Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels))
        return ten_crop(np.asarray(image).reshape(image.height, image.width, -1), size)

    return [[Views(np.arange(len(split)), 10, size, size, cut)]]


def several_scales(split: Reader, scales: Sequence[int]) -> list[list[Views]]:
    """Return for each scale the whole rectangles of which it is the short side, and their mirror images.

    Simonyan & Zisserman 2015, section 3.2, and He et al. 2016, section 3.4. (Deviation: the long side is cut, around
    the centre, to a multiple of 32, since every shape of input is compiled anew.)

    Raises:
        UsageError: there is no scale, or one that is none.
    """
    if not scales or min(scales) < 1:
        raise UsageError(f"scales are {list(scales)}: expected sizes in pixels, such as 224 256 384")
    sizes = [split.size(index) for index in range(len(split))]
    return [_rectangles(sizes, scale) for scale in scales]


def _rectangles(sizes: Sequence[tuple[int, int]], scale: int) -> list[Views]:
    """Return the images of these heights and widths at one scale, those of one shape together."""
    found = defaultdict(list)
    for index, sides in enumerate(sizes):
        height, width = (max(scale, scale * side // min(sides) // _STEP * _STEP) for side in sides)
        found[height, width].append(index)
    return [
        Views(np.array(indices), 2, *shape, partial(mirrored, scale=scale, size=shape))
        for shape, indices in found.items()
    ]


def check_views(views: str, scales: Sequence[int], config: DataConfig) -> None:
    """Raise UsageError for views that there are none of, or that do not go with the data."""
    if views not in VIEWS:
        raise unknown("views", views, VIEWS)
    if scales and views != "multi_scale":
        raise UsageError(f"scales are of views multi_scale, not of {views}")
    if views != "center" and config.per_pixel_mean:
        raise UsageError(f"views {views} need one mean for each channel: data.per_pixel_mean has one for each pixel")
