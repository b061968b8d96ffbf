"""Random changes to a batch of training images: pure functions, key first, batch in, batch out.

    augment((PadCrop(pad=4), Flip()), key, batch, num_classes)

A batch is image [batch, height, width, channels], uint8 or float32 in 0..255; label int32 [batch]; mask bool [batch];
and, once examples were mixed, target float32 [batch, classes]. What each transform does is written at its class.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Key, Shaped

from jaxcnn.data.transforms.base import Batch
from jaxcnn.data.transforms.colour import ColorJitter, Grayscale, Lighting
from jaxcnn.data.transforms.erasing import Cutout, Erasing
from jaxcnn.data.transforms.mixing import CutMix, Mixup
from jaxcnn.data.transforms.policies import AutoAugment, RandAugment, TrivialAugment
from jaxcnn.data.transforms.warps import Affine, Flip, PadCrop

AnyArray = Array | np.ndarray

Augmentation = (
    Flip
    | PadCrop
    | Affine
    | ColorJitter
    | Grayscale
    | Lighting
    | RandAugment
    | AutoAugment
    | TrivialAugment
    | Cutout
    | Erasing
    | Mixup
    | CutMix
)


def augment(transforms: Sequence[Augmentation], key: Key[Array, ""], batch: Batch, num_classes: int) -> Batch:
    """Return the batch after the transforms, in their order.

    Transform i of n draws from `jax.random.split(key, n)[i]`, which does not depend on n: one added at the end leaves
    the draws of the others as they were.
    """
    for transform, own in zip(transforms, jax.random.split(key, len(transforms)), strict=True):
        # Each image is made once: XLA would make it anew for each pixel of the next transform that reads it.
        batch = jax.lax.optimization_barrier(transform(own, batch, num_classes))
    return batch


def normalize(
    images: Shaped[AnyArray, "batch height width channels"],
    mean: Float[AnyArray, "..."],
    std: Float[AnyArray, "..."],
) -> Float32[Array, "batch height width channels"]:
    """Return (images / 255 - mean) / std in float32; `mean` and `std` broadcast over an image of uint8 or float32."""
    return (jnp.asarray(images, jnp.float32) / 255 - mean) / std
