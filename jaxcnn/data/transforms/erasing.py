"""Parts of images taken away: of the field "image" alone, so that class maps and boxes tell of what is hidden."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32, Key

from jaxcnn.data.transforms.base import Images, PixelValue, Transform, chosen, uniform
from jaxcnn.typed import CountOrZero, Interval, Probability, Rising

_Aspect = Annotated[float, Interval(least=0.01, most=100)]


@dataclass(frozen=True, kw_only=True)
class Cutout(Transform):
    """Blacken a square whose centre is any pixel, so that a part of it may lie outside (DeVries and Taylor 2017)."""

    kind: Literal["cutout"] = "cutout"
    size: CountOrZero = 16
    """Side of the square in pixels; the paper has 16 for CIFAR-10, 8 for CIFAR-100, 20 for SVHN."""
    probability: Probability = 1.0
    """Of each image."""

    def images(self, key: Key[Array, ""], images: Images) -> Images:
        """Return the images, squares of them black."""
        count, height, width, _ = images.shape
        which, across, down = jax.random.split(key, 3)
        x = jax.random.randint(across, (count,), 0, width) - self.size // 2
        y = jax.random.randint(down, (count,), 0, height) - self.size // 2
        hidden = chosen(which, self.probability, count) & box(images, y, x, y + self.size, x + self.size)
        return jnp.where(hidden, jnp.zeros((), images.dtype), images)


@dataclass(frozen=True, kw_only=True)
class Erasing(Transform):
    """Overwrite a rectangle within the image (Zhong et al. 2017, random erasing).

    Of ten random rectangles the first that is smaller than the image both ways is taken; where none is, the image stays
    as it is.
    """

    kind: Literal["erasing"] = "erasing"
    probability: Probability = 0.5
    """Of each image."""
    area: Annotated[tuple[Probability, Probability], Rising()] = (0.02, 0.4)
    """Smallest and largest share of the image's area, drawn uniformly."""
    aspect: Annotated[tuple[_Aspect, _Aspect], Rising()] = (0.3, 1 / 0.3)
    """Smallest and largest height over width, drawn uniformly in the logarithm: tall is as likely as wide."""
    fill: Literal["constant", "noise"] = "noise"
    """What is written: `value`, or a random value 0..255 for each pixel and channel."""
    value: PixelValue = 0
    """The constant."""

    def images(self, key: Key[Array, ""], images: Images) -> Images:
        """Return the images, rectangles of them overwritten."""
        count, height, width, _ = images.shape
        keys = jax.random.split(key, 6)
        area = uniform(keys[0], (count, 10), *self.area) * (height * width)
        aspect = jnp.exp(uniform(keys[1], (count, 10), math.log(self.aspect[0]), math.log(self.aspect[1])))
        tall = jnp.round(jnp.sqrt(area * aspect)).astype(jnp.int32)
        wide = jnp.round(jnp.sqrt(area / aspect)).astype(jnp.int32)
        fits = (tall < height) & (wide < width)
        first = jnp.argmax(fits, axis=1)[:, None]
        tall, wide, fits = (jnp.take_along_axis(each, first, axis=1)[:, 0] for each in (tall, wide, fits))
        tall, wide = jnp.where(fits, tall, 0), jnp.where(fits, wide, 0)
        y = jax.random.randint(keys[2], (count,), 0, height - tall + 1)
        x = jax.random.randint(keys[3], (count,), 0, width - wide + 1)
        hidden = chosen(keys[4], self.probability, count) & box(images, y, x, y + tall, x + wide)
        if self.fill == "noise":
            written = jax.random.bits(keys[5], images.shape, jnp.uint8).astype(images.dtype)
        else:
            written = jnp.asarray(self.value, images.dtype)
        return jnp.where(hidden, written, images)


def box(
    images: Images,
    top: Int32[Array, " batch"],
    left: Int32[Array, " batch"],
    bottom: Int32[Array, " batch"],
    right: Int32[Array, " batch"],
) -> Bool[Array, "batch height width 1"]:
    """Return which pixels of each image lie in its rectangle, its bottom row and right column not among them."""
    y, x = jnp.arange(images.shape[1])[:, None, None], jnp.arange(images.shape[2])[:, None]
    top, left, bottom, right = (edge[:, None, None, None] for edge in (top, left, bottom, right))
    return (top <= y) & (y < bottom) & (left <= x) & (x < right)
