"""Images moved: mirrored, cropped, rotated, sheared, scaled. Pixels land where Pillow would put them."""

import math
from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32, Key, Shaped

from jaxcnn.data.transforms.base import (
    Geometric,
    Images,
    PixelValue,
    Points,
    Sampling,
    chosen,
    product,
    uniform,
    whole,
)
from jaxcnn.errors import UsageError
from jaxcnn.typed import CountOrZero, Interval, Probability, Rising

_Factor = Annotated[float, Interval(least=0.01, most=100)]


@dataclass(frozen=True, kw_only=True)
class Flip(Geometric):
    """Mirror images left to right."""

    kind: Literal["flip"] = "flip"
    probability: Probability = 0.5
    """Of each image."""

    def draw(self, key: Key[Array, ""], count: int, height: int, width: int) -> Bool[Array, "batch 1 1 1"]:
        """Return which images are mirrored."""
        return chosen(key, self.probability, count)

    def move(self, drawn: Array, images: Images, fill: int, interpolation: Sampling) -> Images:
        """Return the images, some of them mirrored."""
        return jnp.where(drawn, images[:, :, ::-1], images)

    def points(self, drawn: Array, xy: Points, height: int, width: int) -> Points:
        """Return the points, some of them mirrored."""
        return jnp.where(drawn[..., 0], jnp.stack([width - xy[..., 0], xy[..., 1]], axis=-1), xy)


@dataclass(frozen=True, kw_only=True)
class PadCrop(Geometric):
    """Pad each side and crop back to the image's size at a random place.

    All (2 pad + 1)^2 places are equally likely (He et al. 2015, section 4.2, with pad = 4). In a reflected image class
    maps are reflected too; an object's mirror image has no box.
    """

    kind: Literal["pad_crop"] = "pad_crop"
    pad: CountOrZero = 4
    """Pixels on each side."""
    mode: Literal["zero", "reflect"] = "zero"
    """What the padding holds: black, or the image reflected at its edge."""

    def draw(self, key: Key[Array, ""], count: int, height: int, width: int) -> Int32[Array, "batch 2"]:
        """Return row and column, in the padded image, of each crop.

        Raises:
          UsageError: reflection cannot fill the padding.
        """
        most = min(height, width) - 1
        if self.mode == "reflect" and self.pad > most:
            raise UsageError(f"PadCrop.pad is {self.pad}: expected 0 to {most} for images of {height}x{width}")
        return jax.random.randint(key, (count, 2), 0, 2 * self.pad + 1)

    def move(self, drawn: Array, images: Images, fill: int, interpolation: Sampling) -> Images:
        """Return a crop of each image."""
        edges = ((0, 0), (self.pad, self.pad), (self.pad, self.pad), (0, 0))
        if self.mode == "zero":
            padded = jnp.pad(images, edges, constant_values=jnp.asarray(fill, images.dtype))
        else:
            padded = jnp.pad(images, edges, mode="reflect")

        def crop(image: Shaped[Array, "h w c"], corner: Shaped[Array, "2"]) -> Shaped[Array, "height width c"]:
            return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), images.shape[1:])

        return jax.vmap(crop)(padded, drawn)

    def points(self, drawn: Array, xy: Points, height: int, width: int) -> Points:
        """Return the points in the crop."""
        return xy + (self.pad - drawn[:, None, ::-1]).astype(jnp.float32)


@dataclass(frozen=True, kw_only=True)
class Affine(Geometric):
    """Rotate, shear, scale and move each image about its centre, as torchvision's RandomAffine; black comes in."""

    kind: Literal["affine"] = "affine"
    degrees: Annotated[float, Interval(least=0, most=180)] = 0.0
    """Largest rotation either way."""
    shear: Annotated[float, Interval(least=0, most=89)] = 0.0
    """Largest shear along x either way, in degrees."""
    scale: Annotated[tuple[_Factor, _Factor], Rising()] = (1.0, 1.0)
    """Smallest and largest factor."""
    translate: tuple[Probability, Probability] = (0.0, 0.0)
    """Largest move along x and along y either way, as a share of the side; by whole pixels."""
    fill: PixelValue = 0
    """What comes in from outside."""
    interpolation: Sampling = "nearest"
    """How pixels between pixels are read; bilinear ones are whole numbers, cut as Pillow cuts them."""

    def draw(self, key: Key[Array, ""], count: int, height: int, width: int) -> Int32[Array, "batch 6"]:
        """Return the matrices that `warp` takes."""
        keys = jax.random.split(key, 5)
        radians = math.pi / 180
        angle = uniform(keys[0], (count,), -self.degrees * radians, self.degrees * radians)
        shear = uniform(keys[1], (count,), -self.shear * radians, self.shear * radians)
        scale = uniform(keys[2], (count,), *self.scale)
        sides = zip(keys[3:], (width, height), self.translate, strict=True)
        moves = [jnp.round(uniform(k, (count,), -s * side, s * side)).astype(jnp.int32) for k, side, s in sides]
        cos, sin, tan = jnp.cos(angle), jnp.sin(angle), jnp.tan(shear)
        # The inverse of rotation @ shear / determinant: where each pixel of the result comes from.
        rows = [[cos - product(sin, tan), sin + product(cos, tan)], [-sin, cos]]
        matrix = []
        for (a, b), side in zip(rows, (width, height), strict=True):
            across, down = _fixed(a / scale), _fixed(b / scale)
            centre = (across * (1 - width - 2 * moves[0]) + down * (1 - height - 2 * moves[1])) >> 1
            matrix += [across, down, centre + side * 2**15]
        return jnp.stack(matrix, axis=-1)

    def move(self, drawn: Array, images: Images, fill: int, interpolation: Sampling) -> Images:
        """Return the images moved."""
        return warp(images, drawn, fill, interpolation)

    def points(self, drawn: Array, xy: Points, height: int, width: int) -> Points:
        """Return where the points land."""
        return warp_points(drawn, xy)


def _fixed(value: Array) -> Int32[Array, "..."]:
    return jnp.round(value * 2**16).astype(jnp.int32)


def fixed_matrix(matrix: tuple[float, ...]) -> Int32[np.ndarray, "6"]:
    """Return the six numbers that Pillow's Image.transform(size, AFFINE, matrix) takes as those that `warp` takes."""
    a, b, c, d, e, f = matrix
    values = np.array([a, b, c + (a + b) / 2, d, e, f + (d + e) / 2])
    return np.floor(values * 2**16 + 0.5).astype(np.int32)


def warp(images: Images, matrix: Int32[Array, "batch 6"], fill: int, interpolation: Sampling) -> Images:
    """Return images read at other places, as Pillow's affine transformation does it: in 16.16 fixed point.

    Args:
        images: of any type; of bilinear ones, the result is whole numbers, within 1 of Pillow's.
        matrix: (a, b, c, d, e, f) in units of 2^-16 pixel: the middle of pixel (x, y) comes from
            (a x + b y + c, d x + e y + f), where pixel (0, 0) is the square from (0, 0) to (1, 1).
        fill: what lies outside.
        interpolation: static.
    """
    _, height, width, _ = images.shape
    across, down = jnp.arange(width), jnp.arange(height)[:, None]
    a, b, c, d, e, f = (matrix[:, n, None, None] for n in range(6))
    x, y = a * across + b * down + c, d * across + e * down + f
    inside = (x >= 0) & (x < width << 16) & (y >= 0) & (y < height << 16)
    if interpolation == "nearest":
        moved = _read(images, x >> 16, y >> 16)
    else:
        moved = _between(whole(images), x - 2**15, y - 2**15).astype(images.dtype)
    return jnp.where(inside[..., None], moved, jnp.asarray(fill, images.dtype))


def warp_points(matrix: Int32[Array, "batch 6"], xy: Points) -> Points:
    """Return where points land in what `warp` makes of the images: the inverse of where it reads."""
    a, b, c, d, e, f = (matrix[:, n, None].astype(jnp.float32) / 2**16 for n in range(6))
    x, y = xy[..., 0] - (c - (a + b) / 2), xy[..., 1] - (f - (d + e) / 2)  # from corners, not from middles of pixels
    scale = 1 / (product(a, e) - product(b, d))
    across = product(product(e, x) - product(b, y), scale)
    down = product(product(a, y) - product(d, x), scale)
    return jnp.stack([across, down], axis=-1)


def _read(images: Images, x: Int32[Array, "batch h w"], y: Int32[Array, "batch h w"]) -> Images:
    """Return the pixels in these columns and rows, or the nearest there are."""
    count, height, width, channels = images.shape
    place = jnp.clip(y, 0, height - 1) * width + jnp.clip(x, 0, width - 1)
    flat = images.reshape(count, height * width, channels)
    return jax.vmap(lambda pixels, at: pixels.at[at].get(mode="promise_in_bounds"))(flat, place)


def _between(images: Images, x: Int32[Array, "batch h w"], y: Int32[Array, "batch h w"]) -> Int32[Array, "..."]:
    """Return the mean of four pixels weighted by nearness, in whole numbers, which no compiler rounds otherwise."""
    column, row = x >> 16, y >> 16
    right, below = ((value & 0xFFFF) >> 5 for value in (x, y))  # of 2048, so that the sum fits into 31 bits
    total = jnp.zeros((), jnp.int32)
    for dy, vertical in ((0, 2048 - below), (1, below)):
        for dx, horizontal in ((0, 2048 - right), (1, right)):
            pixels = _read(images, column + dx, row + dy).astype(jnp.int32)
            total += (vertical * horizontal)[..., None] * pixels
    return total >> 22
