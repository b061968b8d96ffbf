"""How examples come to one size: their images by a fit or a random crop, whatever else they hold by the same move."""

from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped

from jaxcnn.data.config import DataConfig
from jaxcnn.data.crops import AnyCrop, generator
from jaxcnn.data.decode import decode_crop, decoded
from jaxcnn.data.resampling import Box, resize_crop
from jaxcnn.errors import UsageError
from jaxcnn.preprocessing import Interpolation, Preprocessing
from jaxcnn.typed import check

Size = tuple[int, int]
"""Height and width in pixels."""
Stored = bytes | np.ndarray
"""An image: the bytes of its file, or pixels [height, width, channels]."""


class Move(NamedTuple):
    """Which part of a stored image becomes all of another one; x goes to the right and y down."""

    stored: Size
    """Of the stored image."""
    size: Size
    """Of what it becomes."""
    part: Box
    """Of the stored image; of a fit it may reach outside, and have fractions of pixels."""

    def classes(self, classes: Int[np.ndarray, "h w"], ignored: int) -> Int[np.ndarray, "height width"]:
        """Return a class map moved, by the nearest neighbour; `ignored` comes in from outside."""
        top, left, height, width = self.part
        down, across = (
            np.floor(start + (np.arange(count) + 0.5) * (length / count)).astype(np.int64)
            for start, count, length in zip((top, left), self.size, (height, width), strict=True)
        )
        rows, columns = self.stored
        moved = classes[np.clip(down, 0, rows - 1)[:, None], np.clip(across, 0, columns - 1)]
        moved[(down < 0) | (down >= rows)] = ignored
        moved[:, (across < 0) | (across >= columns)] = ignored
        return moved

    def corners(self, corners: Float[np.ndarray, "k 4"]) -> Float[np.ndarray, "k 4"]:
        """Return the corners of boxes moved, inside or not."""
        top, left, height, width = self.part
        across, down = self.size[1] / width, self.size[0] / height
        return (corners - np.array([left, top] * 2)) * np.array([across, down] * 2)


class Framing(Protocol):
    """Brings images to one size."""

    @property
    def size(self) -> Size | None:
        """Height and width of the result; None: those of the image."""

    def move(self, stored: Size, position: int) -> Move:
        """Return how an image of this size comes to its own.

        What is random is a function of the position in the stream and of the image's size.
        """

    def draw(self, image: Stored, move: Move | None, out: Shaped[np.ndarray, "height width channels"]) -> None:
        """Put the pixels of an image into `out`.

        Args:
            image: what to draw.
            move: that of its size, which a fit finds for itself.
            out: written.

        Raises:
            BadImage: the bytes are no image.
        """


@dataclass(frozen=True)
class Fit:
    """Scaled by the short side and cut at the centre, as `DataConfig` has images scored."""

    preprocessing: Preprocessing | None
    """None: images stay as they are."""

    @classmethod
    def of(cls, config: DataConfig) -> "Fit":
        """Return what `image_size`, `resize` and `resize_to` ask for."""
        if config.image_size is None:
            return cls(None)
        interpolation: Any = "none" if config.resize == "pad" else config.resize
        side, short_side = config.image_size, config.resize_to or config.image_size
        return cls(Preprocessing(size=(side, side), resize=short_side, interpolation=interpolation))

    @property
    def size(self) -> Size | None:
        """See `Framing`."""
        size = self.preprocessing and self.preprocessing.size
        return (size[0], size[1]) if size else None

    def move(self, stored: Size, position: int) -> Move:
        """See `Framing`."""
        if self.preprocessing is None or self.size is None:
            return Move(stored, stored, Box(0, 0, *stored))
        scaled, (top, left) = self.preprocessing.steps(*stored)
        down, across = stored[0] / scaled[0], stored[1] / scaled[1]
        part: Any = top * down, left * across, self.size[0] * down, self.size[1] * across
        return Move(stored, self.size, Box(*part))

    def draw(self, image: Stored, move: Move | None, out: Shaped[np.ndarray, "height width channels"]) -> None:
        """See `Framing`.

        Raises:
            UsageError: the image is too large to be padded; or it stays as it is, and is of another size than `out`.
        """
        pixels = self.pixels(decoded(image, out.shape[-1]))
        if pixels.shape != out.shape:
            here, there = (f"{shape[0]}x{shape[1]}" for shape in (pixels.shape, out.shape))
            raise UsageError(f"images differ in size (this one is {here}, others are {there}): set data.image_size")
        out[...] = pixels

    def pixels(self, pixels: Shaped[np.ndarray, "h w channels"]) -> Shaped[np.ndarray, "height width channels"]:
        """Return an image at its size.

        Raises:
            UsageError: it is too large to be padded.
        """
        plan, (height, width, channels) = self.preprocessing, pixels.shape
        if plan is None or plan.size is None or ((height, width) == plan.size and plan.resize == height):
            return pixels
        if plan.interpolation == "none" and max(height, width) > plan.size[0]:
            side = plan.size[0]
            raise UsageError(f"an image of {height}x{width} cannot be padded to {side}x{side}: use bilinear")
        from PIL import Image

        if channels == 3 and pixels.dtype == np.uint8:
            return np.asarray(plan.resized(Image.fromarray(pixels)))
        parts = (Image.fromarray(np.ascontiguousarray(pixels[..., channel])) for channel in range(channels))
        return np.stack([np.asarray(plan.resized(part)) for part in parts], -1)


def preprocessing(image: jax.ShapeDtypeStruct, config: DataConfig, mean: Any, std: Any) -> Preprocessing | None:
    """Return how any image file becomes an image of this shape, as `Fit` has it, and normalised.

    None: the images are no files: float32, or of another number of channels than 1 or 3.
    """
    height, width, channels = image.shape
    if channels not in (1, 3) or image.dtype != np.uint8:
        return None
    found = {
        "size": [height, width],
        "resize": config.resize_to or min(height, width),
        "interpolation": "none" if config.resize == "pad" else config.resize,
        "channels": "L" if channels == 1 else "RGB",
        "mean": mean.tolist(),
        "std": std.tolist(),
    }
    return check(Preprocessing, found, "")


class Cut:
    """A part at random of each image, for training."""

    def __init__(self, crop: AnyCrop, size: Size, key: tuple[int, int]) -> None:
        """Draw places from `key`, for parts that become squares of `size`."""
        self.size: Size | None = size
        self._crop, self._square, self._key = crop, size, key
        # One of a user's own need not say how it is scaled.
        self._interpolation: Interpolation = getattr(crop, "interpolation", "bilinear")

    def move(self, stored: Size, position: int) -> Move:
        """See `Framing`."""
        box = self._crop.box(generator(self._key, position), *stored, self._square[0])
        return Move(stored, self._square, box)

    def draw(self, image: Stored, move: Move | None, out: Shaped[np.ndarray, "height width channels"]) -> None:
        """See `Framing`."""
        assert move is not None
        if isinstance(image, bytes):
            decode_crop(image, move.part, self._square, out.shape[2], self._interpolation, out)
        else:
            resize_crop(image, move.part, self._square, self._interpolation, out)
