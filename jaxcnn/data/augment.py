"""Random changes to a batch of training images: pure functions, key first, batch in, batch out.

    augment((PadCrop(pad=4), Flip()), key, batch, fields)

A batch is image [batch, height, width, channels], uint8 or float32 in 0..255; label int32 [batch]; mask bool [batch];
and, once examples were mixed, target float32 [batch, classes]. What each transform does is written at its class.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import jax
from jaxtyping import Array, Key

from jaxcnn.data.fields import Batch, Fields, class_names_of
from jaxcnn.data.transforms.colour import ColorJitter, Grayscale, Lighting
from jaxcnn.data.transforms.erasing import Cutout, Erasing
from jaxcnn.data.transforms.mixing import CutMix, Mixup
from jaxcnn.data.transforms.policies import AutoAugment, RandAugment, TrivialAugment
from jaxcnn.data.transforms.warps import Affine, Flip, PadCrop
from jaxcnn.typed import Open

Augmentation = Annotated[
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
    | CutMix,
    Open("a transform", "__call__"),
]


def augment(transforms: Sequence[Any], key: Key[Array, ""], batch: Batch, fields: Fields) -> Batch:
    """Return the batch after the transforms, in their order.

    Transform i of n draws from `jax.random.split(key, n)[i]`, which does not depend on n: one added at the end leaves
    the draws of the others as they were.
    """
    num_classes = len(class_names_of(fields))
    for transform, own in zip(transforms, jax.random.split(key, len(transforms)), strict=True):
        # Each image is made once: XLA would make it anew for each pixel of the next transform that reads it.
        batch = jax.lax.optimization_barrier(transform(own, batch, num_classes))
    return batch
