"""Which part of an image a network sees: random boxes for training, fixed views for evaluation. On the host.

A box is drawn from the image's size alone, so the pixels around it need not be decoded (`decode.decode_crop`).
"""

import functools
import itertools
import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

import numpy as np
from jaxtyping import UInt8

from jaxcnn.data.resampling import Box
from jaxcnn.errors import UsageError
from jaxcnn.preprocessing import Interpolation, Preprocessing
from jaxcnn.typed import Config, Count, Interval, Positive

_local = threading.local()


@dataclass(frozen=True, kw_only=True)
class RandomResizedCrop(Config, at="data.train_crop"):
    """A part of random area and aspect, resized to the network's input (Szegedy et al. 2015, section 6).

    The distribution is torchvision's: area uniform, aspect log-uniform, each place equally likely; a part that does
    not fit is drawn again, ten times, after which it is the largest central one whose aspect is allowed.
    """

    kind: Literal["random_resized_crop"] = "random_resized_crop"
    area: tuple[Annotated[float, Interval(above=0, most=1)], ...] = (0.08, 1.0)
    """Smallest and largest share of the image's area."""
    aspect: tuple[Positive, ...] = (3 / 4, 4 / 3)
    """Smallest and largest width over height."""
    interpolation: Interpolation = "bilinear"
    """See decode.resize_crop: bilinear is fast, and nearest the only one without antialiasing."""

    def __post_init__(self) -> None:
        """Refuse what draws no box."""
        super().__post_init__()
        _check_pair("area", self.area, "0.08 1")
        _check_pair("aspect", self.aspect, "0.75 1.3333")

    @functools.cached_property
    def _log_aspect(self) -> tuple[float, float]:
        return math.log(self.aspect[0]), math.log(self.aspect[1])

    def box(self, generator: np.random.Generator, height: int, width: int, size: int) -> Box:
        """Return a random part of an image of height x width; `size`, the input's, plays no part."""
        draw, (low, high), (narrow, wide) = _draws(generator), self.area, self._log_aspect
        for _ in range(10):
            area = (low + (high - low) * draw()) * height * width
            aspect = math.exp(narrow + (wide - narrow) * draw())
            columns, rows = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < columns <= width and 0 < rows <= height:
                return _place(draw, height, width, rows, columns)
        columns = max(1, min(width, round(height * self.aspect[1])))
        rows = max(1, min(height, round(width / self.aspect[0])))
        return Box((height - rows) // 2, (width - columns) // 2, rows, columns)


@dataclass(frozen=True, kw_only=True)
class ScaleJitter(Config, at="data.train_crop"):
    """The shorter side to a random length, then a random square of the network's input size.

    As Simonyan & Zisserman 2015, section 3.1, and He et al. 2016, section 3.4, have it. Cropped first and resized
    then, which is the same but for the edges, and rounds the box to whole pixels of the original.
    """

    kind: Literal["scale_jitter"] = "scale_jitter"
    short_side: tuple[Count, ...] = (256, 480)
    """Shortest and longest length of the shorter side, in pixels; both may be drawn."""
    interpolation: Interpolation = "bilinear"
    """See decode.resize_crop: bilinear is fast, and nearest the only one without antialiasing."""

    def __post_init__(self) -> None:
        """Refuse what draws no box."""
        super().__post_init__()
        _check_pair("short_side", self.short_side, "256 480")

    def box(self, generator: np.random.Generator, height: int, width: int, size: int) -> Box:
        """Return the part of an image of height x width that becomes size x size.

        Raises:
            UsageError: the shorter side may be drawn shorter than `size`.
        """
        low, high = self.short_side
        if low < size:
            raise UsageError(
                f"data.train_crop.short_side is {self.short_side}: expected at least data.image_size, which is {size}"
            )
        draw = _draws(generator)
        side = max(1, round(size * min(height, width) / (low + int(draw() * (high - low + 1)))))
        return _place(draw, height, width, side, side)


TrainCrop = RandomResizedCrop | ScaleJitter


class AnyCrop(Protocol):
    """What one of a user's own has, too; and `interpolation`, where it is not to be bilinear."""

    def box(self, generator: np.random.Generator, height: int, width: int, size: int) -> Box:
        """Return the part of an image of height x width that becomes size x size."""


def generator(key: tuple[int, int], position: int) -> np.random.Generator:
    """Return random numbers that are a function of `key` and `position` alone, in 1 us.

    It is this thread's one generator (Philox), rewound: another call in the same thread rewinds it again, so draw what
    is needed first. A new one would cost 6 us, as much as a box.

    Args:
        key: two numbers of 64 bits, such as a seed and an epoch.
        position: 0 to 2^64 - 1. Two positions share no number unless one draws 2^194 of them.
    """
    kept = getattr(_local, "generator", None)
    if kept is None:
        made = np.random.Generator(np.random.Philox(0))
        state: Any = made.bit_generator.state
        kept = _local.generator = made, made.bit_generator, state
    made, bits, state = kept
    # The counter's lowest word counts the draws; the state holds none that are left over.
    state["state"] = {"counter": (0, 0, 0, position), "key": key}
    bits.state = state
    return made


def ten_crop(pixels: UInt8[np.ndarray, "h w c"], size: int) -> UInt8[np.ndarray, "10 size size c"]:
    """Return the four corners and the centre, and the same of the mirrored image (Krizhevsky et al. 2012, section 4.1).

    In torchvision's order: top left, top right, bottom left, bottom right, centre, then these five of the mirror image.

    Raises:
        UsageError: the image is smaller than `size`.
    """
    height, width = pixels.shape[:2]
    if min(height, width) < size:
        raise UsageError(f"an image of {height}x{width} has no ten crops of {size}x{size}: resize it first")
    bottom, right = height - size, width - size
    places = ((0, 0), (0, right), (bottom, 0), (bottom, right), (round(bottom / 2), round(right / 2)))
    return np.stack(
        [image[top : top + size, left : left + size] for image in (pixels, pixels[:, ::-1]) for top, left in places]
    )


def mirrored(
    pixels: UInt8[np.ndarray, "h w c"], scale: int, size: tuple[int, int]
) -> UInt8[np.ndarray, "2 height width c"]:
    """Return the part of `size` at the centre, after the shorter side was resized to `scale`, and its mirror image."""
    from PIL import Image

    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    view = np.asarray(Preprocessing(size=size, resize=scale).resized(image)).reshape(*size, -1)
    return np.stack([view, view[:, ::-1]])


def _draws(generator: np.random.Generator) -> Callable[[], float]:
    """Return what gives the numbers of `generator.random` one by one: four at once cost as much as one."""
    return itertools.chain(generator.random(4).tolist(), iter(generator.random, None)).__next__


def _place(draw: Callable[[], float], height: int, width: int, rows: int, columns: int) -> Box:
    """Return a box of rows x columns at a random place."""
    return Box(int(draw() * (height - rows + 1)), int(draw() * (width - columns + 1)), rows, columns)


def _check_pair(name: str, given: tuple[float, ...], such_as: str) -> None:
    if len(given) != 2 or given[0] > given[1]:
        raise UsageError(f"data.train_crop.{name} is {given}: expected two numbers, the smaller one first: {such_as}")
