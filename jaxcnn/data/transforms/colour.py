"""Colours changed as Pillow changes them: to the same uint8, unless a transform says otherwise.

Images have one channel or three. With one channel saturation and hue change nothing, as in Pillow for mode L.
"""

from dataclasses import dataclass
from typing import Annotated, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, Key, UInt8

from jaxcnn.data.transforms.base import (
    Images,
    Pixels,
    Transform,
    check_channels,
    chosen,
    product,
    uniform,
    whole,
)
from jaxcnn.typed import Interval, NotNegative, Probability

# What an enhancement blends an image with: nothing, its mean grey, its grey self, its smoothed self.
BLACK, MEAN, GREY, SMOOTH = range(4)

# Eigenvalues and eigenvectors (columns) of the covariance of ImageNet's RGB pixels in 0..1, as AlexNet's
# re-implementations since fb.resnet.torch have them.
_EIGENVALUES = np.array([0.2175, 0.0188, 0.0045])
_EIGENVECTORS = np.array([[-0.5675, 0.7192, 0.4009], [-0.5808, -0.0045, -0.8140], [-0.5836, -0.6948, 0.4203]])


@dataclass(frozen=True, kw_only=True)
class ColorJitter(Transform):
    """Change brightness, contrast, saturation and hue in a random order, as torchvision's ColorJitter.

    The first three draw a factor from [max(0, 1 - x), 1 + x] and blend as Pillow's ImageEnhance. Hue is turned in
    Pillow's HSV of 8 bits; where Pillow's single precision falls on the other side of a whole number, its hue or
    saturation is another one: at fewer than 0.5 % of the pixels, by 6 of 255 at most. float32 images are rounded first.
    """

    kind: Literal["color_jitter"] = "color_jitter"
    brightness: NotNegative = 0.0
    """0: left out."""
    contrast: NotNegative = 0.0
    """0: left out."""
    saturation: NotNegative = 0.0
    """0: left out."""
    hue: Annotated[float, Interval(least=0, most=0.5)] = 0.0
    """Largest turn either way, as a share of the circle; 0: left out."""
    probability: Probability = 1.0
    """Of each image."""

    def images(self, key: Key[Array, ""], images: Images) -> Images:
        """Return the images in other colours."""
        check_channels(self, images)
        count = len(images)
        keys = jax.random.split(key, 6)
        blends = [(BLACK, self.brightness), (MEAN, self.contrast), (GREY, self.saturation)]
        bases = [base for base, most in blends if most > 0]
        factors = [
            uniform(k, (count,), max(0.0, 1 - most), 1 + most)
            for k, (_, most) in zip(keys, blends, strict=False)
            if most > 0
        ]
        turn = jnp.trunc(255 * uniform(keys[3], (count,), -self.hue, self.hue)).astype(jnp.int32)
        changes = len(bases) + (self.hue > 0)
        if not changes:
            return images
        # Hue is the last of the changes in number: it blends by a factor of 1, which changes nothing.
        base = jnp.array([*bases, BLACK], jnp.int32)
        factor = jnp.stack([*factors, jnp.ones(count)], axis=-1)
        order = jnp.argsort(jax.random.uniform(keys[4], (count, changes)), axis=-1)

        def change(place: Array, pixels: Pixels) -> Pixels:
            now = order[:, place]
            now_factor = jnp.take_along_axis(factor, now[:, None], axis=-1)[:, 0]
            pixels = _blend(pixels, _plain(pixels, base[now]), now_factor)
            # Without the barrier XLA blends a pixel anew for each of the many times that its hue reads it.
            pixels = jax.lax.optimization_barrier(pixels)
            return turn_hue(pixels, jnp.where(now == len(bases), turn, 0)) if self.hue > 0 else pixels

        pixels = jax.lax.fori_loop(0, changes, change, whole(images))
        return jnp.where(chosen(keys[5], self.probability, count), pixels.astype(images.dtype), images)


@dataclass(frozen=True, kw_only=True)
class Grayscale(Transform):
    """Take the colour from some images: Pillow's grey in all three channels. float32 images are rounded first."""

    kind: Literal["grayscale"] = "grayscale"
    probability: Probability = 0.1
    """Of each image."""

    def images(self, key: Key[Array, ""], images: Images) -> Images:
        """Return the images, some of them grey."""
        check_channels(self, images)
        found = jnp.where(chosen(key, self.probability, len(images)), grey(whole(images)).astype(images.dtype), images)
        return found if images.shape[-1] == 3 else images


@dataclass(frozen=True, kw_only=True)
class Lighting(Transform):
    """Shift each image's colour along the principal components of ImageNet's (Krizhevsky et al. 2012, section 4.1).

    Every pixel gets sum_i alpha_i lambda_i p_i, alpha_i normal for each image; p_i and lambda_i are eigenvectors and
    eigenvalues for RGB in 0..1, and the sum is scaled by 255 here. Three channels, red first.
    """

    kind: Literal["lighting"] = "lighting"
    std: NotNegative = 0.1
    """Standard deviation of alpha."""

    def images(self, key: Key[Array, ""], images: Images) -> Images:
        """Return the images shifted, within 0..255; uint8 by whole numbers."""
        check_channels(self, images, (3,))
        alpha = self.std * jax.random.normal(key, (len(images), 3))
        components = jnp.asarray(255 * _EIGENVECTORS * _EIGENVALUES, jnp.float32)
        shift = (alpha[:, None, :] * components).sum(-1)[:, None, None, :]
        if images.dtype == jnp.uint8:
            shifted = images.astype(jnp.int32) + jnp.round(shift).astype(jnp.int32)
            return jnp.clip(shifted, 0, 255).astype(jnp.uint8)
        return jnp.clip(images + shift, 0, 255)


def grey(pixels: Pixels) -> UInt8[Array, "batch height width 1"]:
    """Return Pillow's convert("L")."""
    if pixels.shape[-1] == 1:
        return pixels
    red, green, blue = (pixels[..., n : n + 1].astype(jnp.int32) for n in range(3))
    return ((19595 * red + 38470 * green + 7471 * blue + 2**15) >> 16).astype(jnp.uint8)


def _mean_grey(grey: UInt8[Array, "batch height width 1"]) -> UInt8[Array, "batch 1 1 1"]:
    count = grey.shape[1] * grey.shape[2]
    total = grey.sum((1, 2, 3), dtype=jnp.int32, keepdims=True)
    return ((2 * total + count) // (2 * count)).astype(jnp.uint8)


def _smooth(pixels: Pixels) -> Pixels:
    """Return Pillow's ImageFilter.SMOOTH: each pixel's weight 5, its neighbours' 1, the border as it was."""
    if min(pixels.shape[1:3]) < 3:
        return pixels
    values = pixels.astype(jnp.int32)
    rows = values[:, :-2] + values[:, 1:-1] + values[:, 2:]
    inner = values[:, 1:-1, 1:-1]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * inner
    smoothed = ((2 * total + 13) // 26).astype(jnp.uint8)
    return pixels.at[:, 1:-1, 1:-1].set(smoothed)


def enhance(pixels: Pixels, base: Int32[Array, " batch"], factor: Float32[Array, " batch"]) -> Pixels:
    """Return images blended with their `base` as Pillow's ImageEnhance: 0 is all base, 1 the image, more is beyond.

    The bases BLACK, MEAN, GREY and SMOOTH are those of brightness, contrast, colour and sharpness.
    """
    smooth = (base == SMOOTH)[:, None, None, None]
    return _blend(pixels, jnp.where(smooth, _smooth(pixels), _plain(pixels, base)), factor)


def _plain(pixels: Pixels, base: Int32[Array, " batch"]) -> UInt8[Array, "batch height width 1"]:
    """Return the bases that have no colour: BLACK, MEAN or GREY."""
    own, base = grey(pixels), base[:, None, None, None]
    return jnp.where(base == GREY, own, jnp.where(base == MEAN, _mean_grey(own), jnp.zeros((), jnp.uint8)))


def _blend(pixels: Pixels, start: UInt8[Array, "..."], factor: Float32[Array, " batch"]) -> Pixels:
    """Return start + factor (pixels - start), cut to whole numbers as Pillow does, not rounded."""
    low = start.astype(jnp.float32)
    blended = low + product(factor[:, None, None, None], pixels.astype(jnp.float32) - low)
    return jnp.clip(blended, 0, 255).astype(jnp.uint8)


def turn_hue(pixels: Pixels, turn: Int32[Array, " batch"]) -> Pixels:
    """Return images with `turn` added to Pillow's hue of 8 bits, modulo 256."""
    if pixels.shape[-1] == 1:
        return pixels
    red, green, blue = (pixels[..., n].astype(jnp.int32) for n in range(3))
    value = jnp.maximum(jnp.maximum(red, green), blue)
    span = value - jnp.minimum(jnp.minimum(red, green), blue)
    sixths = jnp.where(green == value, 2 * span + blue - red, 4 * span + red - green)
    sixths = jnp.where(red == value, green - blue + jnp.where(green < blue, 6 * span, 0), sixths)
    hue = (_quotient(255 * sixths, 6 * jnp.maximum(span, 1)) + turn[:, None, None]) & 255
    saturation = _quotient(255 * span, jnp.maximum(value, 1))
    # Back, in whole numbers: a sector of the circle, and the place in it in 255ths.
    sector = _quotient(6 * hue, 255)
    place = 6 * hue - 255 * sector

    def lowered(by: Array) -> Array:  # value (1 - by / 255^2), rounded
        return _quotient(value * (65025 - by) + 32512, 65025)

    low, falling, rising = lowered(255 * saturation), lowered(saturation * place), lowered(saturation * (255 - place))
    channels = [
        jnp.select(
            [sector == n for n in range(1, 6)],  # else 0, or 6, which is the same
            [{"v": value, "p": low, "q": falling, "t": rising}[letter] for letter in word[1:]],
            {"v": value, "p": low, "t": rising}[word[0]],
        )
        for word in ("vqpptv", "tvvqpp", "pptvvq")
    ]
    turned = jnp.stack(channels, axis=-1).astype(jnp.uint8)
    return jnp.where((turn != 0)[:, None, None, None], turned, pixels)


def _quotient(a: Array, b: Array | int) -> Int32[Array, "..."]:
    """Return a // b for whole numbers from 0, a below 2^24: single precision is exact there, and faster."""
    return (a.astype(jnp.float32) / jnp.asarray(b, jnp.float32)).astype(jnp.int32)
