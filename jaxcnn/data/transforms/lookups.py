"""Operations that look each value of a channel up in a table: posterize, solarize, invert, autocontrast, equalize."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int32, UInt8

from jaxcnn.data.transforms.base import Pixels

# What a table is made of beside the mask and the threshold: nothing, the range of values, their frequencies.
FIXED, STRETCH, EQUALIZE = range(3)

Tables = UInt8[Array, "batch channels 256"]


def look_up(pixels: Pixels, tables: Tables) -> Pixels:
    """Return each value of each image and channel as its table has it."""
    count, _, _, channels = pixels.shape
    place = 256 * (channels * jnp.arange(count)[:, None, None, None] + jnp.arange(channels)) + pixels.astype(jnp.int32)
    return tables.reshape(-1).at[place].get(mode="promise_in_bounds")


def make_tables(
    pixels: Pixels, mask: Int32[Array, " batch"], threshold: Int32[Array, " batch"], kind: Int32[Array, " batch"]
) -> Tables:
    """Return what Pillow's ImageOps would look values up in.

    Args:
        pixels: what STRETCH and EQUALIZE measure.
        mask: FIXED keeps these bits of a value (posterize),
        threshold: and inverts what is then not below this (solarize; 0: invert, 256: nothing).
        kind: FIXED, STRETCH (autocontrast) or EQUALIZE.
    """
    values = jnp.arange(256)
    kept = values & mask[:, None]
    fixed = jnp.where(kept < threshold[:, None], kept, 255 - kept)[:, None]
    counts = _counts(pixels)
    kind = kind[:, None, None]
    tables = jnp.where(kind == STRETCH, _stretch(counts), jnp.where(kind == EQUALIZE, _equalize(counts), fixed))
    return tables.astype(jnp.uint8)


def _counts(pixels: Pixels) -> Int32[Array, "batch channels 256"]:
    """Return how often each value occurs."""

    def count(values: UInt8[Array, " pixels"]) -> Int32[Array, " 256"]:
        return jnp.zeros(256, jnp.int32).at[values.astype(jnp.int32)].add(1, mode="promise_in_bounds")

    images, _, _, channels = pixels.shape
    return jax.vmap(jax.vmap(count, in_axes=1))(pixels.reshape(images, -1, channels))


def _stretch(counts: Int32[Array, "batch channels 256"]) -> Int32[Array, "batch channels 256"]:
    """Return the tables of ImageOps.autocontrast: the lowest value to 0, the highest to 255.

    Pillow computes them in double precision and cuts to whole numbers, which makes some one lower than they should be.
    """
    values = jnp.arange(256)
    low = jnp.argmax(counts > 0, axis=-1, keepdims=True)
    high = 255 - jnp.argmax(counts[..., ::-1] > 0, axis=-1, keepdims=True)
    stretched = _cut(values, low, jnp.maximum(high - low, 1))
    return jnp.where(high > low, jnp.clip(stretched, 0, 255), values)


def _cut(values: Array, low: Array, span: Array) -> Int32[Array, "batch channels 256"]:
    """Return values * (255 / span) - low * (255 / span), each step rounded to float64, cut to a whole number."""
    with jax.enable_x64(True):
        wide, low, span = (each.astype(jnp.float64) for each in (values, low, span))
        scale = jnp.float64(255) / span
        terms = [jnp.maximum(each * scale, jnp.float64(-1)) for each in (wide, low)]  # see `product`
        return jnp.trunc(terms[0] - terms[1]).astype(jnp.int32)


def _equalize(counts: Int32[Array, "batch channels 256"]) -> Int32[Array, "batch channels 256"]:
    """Return the tables of ImageOps.equalize: every value as frequent as the others, as far as that goes."""
    values = jnp.arange(256)
    highest = 255 - jnp.argmax(counts[..., ::-1] > 0, axis=-1, keepdims=True)
    step = (counts.sum(-1, keepdims=True) - jnp.take_along_axis(counts, highest, axis=-1)) // 255
    below = jnp.cumsum(counts, axis=-1) - counts
    return jnp.where(step > 0, jnp.clip((step // 2 + below) // jnp.maximum(step, 1), 0, 255), values)
