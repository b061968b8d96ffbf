"""The numbers that normalise images, measured on those to train on."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Shaped

from jaxcnn.data.bad import none_usable
from jaxcnn.data.config import DataConfig
from jaxcnn.data.examples import Examples, eval_batches
from jaxcnn.errors import UsageError

AnyArray = Array | np.ndarray


class Norms(NamedTuple):
    """What normalises the field `image`: for pixels in 0..1, or in its own unit where it is float32."""

    mean: Float32[AnyArray, "..."]
    """[channels], or [height, width, channels]."""
    std: Float32[AnyArray, " channels"]


def normalize(
    images: Shaped[AnyArray, "batch height width channels"],
    mean: Float[AnyArray, "..."],
    std: Float[AnyArray, "..."],
    unit: float = 255,
) -> Float32[Array, "batch height width channels"]:
    """Return (images / unit - mean) / std in float32; `mean` and `std` broadcast over an image."""
    return (jnp.asarray(images, jnp.float32) / unit - mean) / std


def unit_of(image: jax.ShapeDtypeStruct | Array | np.ndarray) -> int:
    """Return what stored pixels of this type are divided by first."""
    return 255 if image.dtype == np.uint8 else 1


def normalisation(config: DataConfig, split: Examples, poll: Callable[[], None] = lambda: None) -> Norms:
    """Return the mean and standard deviation to normalise the field `image` by.

    What `config` does not give is measured on `split`, the training images: on uint8 by sums of whole numbers, so that
    the order of the images and the machine make no difference. `poll` is called now and then; what it raises ends the
    work.

    Raises:
        UsageError: what is given does not fit the images, they have a channel with one value only, or none of them can
            be used.
    """
    image = split.shapes["image"]
    height, width, channels = image.shape
    for name, given in (("mean", config.mean), ("std", config.std)):
        if given is not None and len(given) != channels:
            raise UsageError(f"data.{name} has {len(given)} numbers, the images have {channels} channels")
    mean = None if config.mean is None else np.array(config.mean)
    std = None if config.std is None else np.array(config.std)
    if mean is None or std is None:
        unit = unit_of(image)
        total, squares, images = _sums(split, poll)
        if not images:
            raise none_usable(len(split), split.bad)
        count = images * height * width
        channel_mean = total.sum((0, 1)) / count
        if mean is None:
            mean = (total / images if config.per_pixel_mean else channel_mean) / unit
        if std is None:
            std = np.sqrt(np.maximum(squares / count - channel_mean**2, 0)) / unit
    if not (std > 0).all():
        raise UsageError(f"data.std is {std.tolist()}: a channel has one value only")
    return Norms(mean.astype(np.float32), std.astype(np.float32))


def given_norms(mean: np.ndarray, std: np.ndarray, shape: tuple[int, ...]) -> Norms:
    """Return norms that were measured elsewhere.

    Raises:
        UsageError: they are not of images of this shape.
    """
    mean, std = np.asarray(mean, np.float32), np.asarray(std, np.float32)
    if mean.shape not in (shape, shape[-1:]) or std.shape != shape[-1:]:
        raise UsageError(f"a mean of shape {mean.shape} and deviations of {std.shape} do not fit images of {shape}")
    return Norms(mean, std)


def _sums(split: Examples, poll: Callable[[], None]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the sum of values at each pixel, the sum of squares of each channel, and the usable images."""
    image = split.shapes["image"]
    exact = image.dtype == np.uint8
    wide, narrow = (np.int64, np.uint32) if exact else (np.float64, np.float64)
    total, squares = (np.zeros(image.shape, wide) for _ in range(2))
    count = 0
    for batch in eval_batches(split, 250):  # at most 66,000, for uint32: 255 * 255 * 66,000 < 2**32
        poll()
        chunk = batch["image"].astype(narrow)  # black where it does not count
        total += chunk.sum(0, dtype=narrow)
        squares += np.multiply(chunk, chunk, out=chunk).sum(0, dtype=narrow)
        count += int(batch["mask"].sum())
    return total, squares.sum((0, 1)), count
