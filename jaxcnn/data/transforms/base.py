"""What every change of a training batch shares: its form, its checks, its draws.

A transform is a frozen value with a `kind`, which names it in JSON, and pure methods, key first. Images are
[batch, height, width, channels], uint8 or float32 in 0..255, and keep their type unless a transform says otherwise.
Each image draws from the key by its place in the batch, so the same key gives the same images, jitted or not, on one
device or with the batch sharded over many.
"""

import numbers
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float32, Key, Shaped, UInt8

from jaxcnn.errors import UsageError

Batch = dict[str, Array]
Images = Shaped[Array, "batch height width channels"]
Pixels = UInt8[Array, "batch height width channels"]


class Transform:
    """A change of a batch; for one of the images alone, `images` is all there is to write."""

    def __call__(self, key: Key[Array, ""], batch: Batch, num_classes: int) -> Batch:
        """Return the batch changed: image, label, mask and, where labels are mixed, target."""
        return {**batch, "image": self.images(key, batch["image"])}

    def images(self, key: Key[Array, ""], images: Images) -> Images:
        """Return the images changed."""
        raise NotImplementedError


def refuse(transform: Any, text: str) -> UsageError:
    """Return the error for a transform that cannot be, or cannot be of these images."""
    return UsageError(f"data.augment, {transform.kind}: {text}")


def check_range(transform: Any, low: float, high: float, *names: str) -> None:
    """Raise where a field, or one of its numbers, is no number from `low` to `high`.

    Raises:
        UsageError: naming the field.
    """
    for name in names:
        given = getattr(transform, name)
        values = given if isinstance(given, list | tuple) else (given,)
        if not all(isinstance(value, numbers.Real) and low <= float(value) <= high for value in values):
            bounds = f"from {low:g} to {high:g}" if high < float("inf") else f"of at least {low:g}"
            raise refuse(transform, f"{name} is {given!r}, expected a number {bounds}")


def check_pair(transform: Any, low: float, high: float, *names: str) -> None:
    """Raise where a field is no pair of numbers from `low` to `high`, the smaller one first.

    Raises:
        UsageError: naming the field.
    """
    check_range(transform, low, high, *names)
    for name in names:
        given = getattr(transform, name)
        if not isinstance(given, list | tuple) or len(given) != 2 or given[0] > given[1]:
            raise refuse(transform, f"{name} is {given!r}, expected two numbers, the smaller one first")


def check_channels(transform: Any, images: Images, channels: tuple[int, ...] = (1, 3)) -> None:
    """Raise for images of another number of channels than a transform of colours is defined for.

    Raises:
        UsageError: naming the transform.
    """
    if images.shape[-1] not in channels:
        expected = " or ".join(map(str, channels))
        raise refuse(transform, f"the images have {images.shape[-1]} channels, expected {expected}")


def product(a: Array, b: Array) -> Array:
    """Return a * b, rounded before anything is added to it: float32, above -1e9.

    A compiler may make a product and a sum one operation with one rounding. What is then cut to a whole number would
    be another one, now and then, in another program. The bound, which is never met, stands between the two.
    """
    return jnp.maximum(a * b, jnp.float32(-1e9))


def uniform(key: Key[Array, ""], shape: tuple[int, ...], low: float, high: float) -> Float32[Array, "..."]:
    """Return numbers from [low, high), the same bits in every program."""
    return jnp.float32(low) + product(jnp.float32(high - low), jax.random.uniform(key, shape))


def chosen(key: Key[Array, ""], probability: float, count: int) -> Array:
    """Return for each of `count` images whether it is one to change, bool [count, 1, 1, 1]."""
    return jax.random.bernoulli(key, probability, (count, 1, 1, 1))


def whole(images: Images) -> Pixels:
    """Return the images in uint8, rounded to the nearest of 0..255."""
    return images if images.dtype == jnp.uint8 else jnp.round(jnp.clip(images, 0, 255)).astype(jnp.uint8)
