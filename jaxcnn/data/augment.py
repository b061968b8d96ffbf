"""Random changes to a batch of training images: pure functions, key first, batch in, batch out.

Each image draws from the key by its place in the batch, so the same key gives the same images, jitted or not,
on one device or with the batch sharded over many.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Key, Shaped, UInt8

from jaxcnn.errors import UsageError

AnyArray = Array | np.ndarray
Images = Shaped[Array, "batch height width channels"]


def random_flip(key: Key[Array, ""], images: Images) -> Images:
    """Mirror each image left to right with probability 1/2."""
    flipped = jax.random.bernoulli(key, 0.5, (len(images), 1, 1, 1))
    return jnp.where(flipped, images[:, :, ::-1], images)


def random_pad_crop(key: Key[Array, ""], images: Images, pad: int, mode: Literal["zero", "reflect"] = "zero") -> Images:
    """Pad each side by `pad` pixels and crop back to the image's size at a random place.

    All (2 pad + 1)^2 places are equally likely (He et al. 2015, section 4.2, with pad = 4).

    Raises:
        UsageError: for a negative pad, or one that reflection cannot fill.
    """
    _, height, width, channels = images.shape
    if pad < 0 or (mode == "reflect" and pad >= min(height, width)):
        raise UsageError(f"data.pad_crop is {pad}, expected 0 to {min(height, width) - 1} for {height}x{width}")
    if pad == 0:
        return images
    edges = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    padded = jnp.pad(images, edges, mode="constant" if mode == "zero" else "reflect")
    corners = jax.random.randint(key, (len(images), 2), 0, 2 * pad + 1)

    def crop(image: Shaped[Array, "h w c"], corner: Shaped[Array, "2"]) -> Shaped[Array, "height width c"]:
        return jax.lax.dynamic_slice(image, (corner[0], corner[1], 0), (height, width, channels))

    return jax.vmap(crop)(padded, corners)


def normalize(
    images: UInt8[AnyArray, "batch height width channels"],
    mean: Float[AnyArray, "..."],
    std: Float[AnyArray, "..."],
) -> Float32[Array, "batch height width channels"]:
    """Return (images / 255 - mean) / std in float32; `mean` and `std` broadcast over an image."""
    return (jnp.asarray(images, jnp.float32) / 255 - mean) / std
