"""Random changes to a batch of training examples: pure functions, key first, batch in, batch out.

    augment((PadCrop(pad=4), Flip()), key, batch, fields)

A batch holds what `fields` says (`jaxcnn.data.fields`), `mask` bool [batch], and, once labels were mixed, `target`
float32 [batch, classes]. What each transform does is written at its class. One of your own is any function
`(key, batch, fields) -> batch`; a frozen dataclass with such a `__call__`, so that it has settings; or a subclass of
`Transform`, for pixels, or of `Geometric`, for moves that class maps and boxes follow.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any

import jax
import numpy as np
from jaxtyping import Array, Key

from jaxcnn.data.fields import Batch, Fields
from jaxcnn.data.transforms.base import Geometric as Geometric
from jaxcnn.data.transforms.base import Transform as Transform
from jaxcnn.data.transforms.base import name_of
from jaxcnn.data.transforms.colour import ColorJitter, Grayscale, Lighting
from jaxcnn.data.transforms.erasing import Cutout, Erasing
from jaxcnn.data.transforms.mixing import CutMix, Mixup
from jaxcnn.data.transforms.policies import AutoAugment, RandAugment, TrivialAugment
from jaxcnn.data.transforms.warps import Affine, Flip, PadCrop
from jaxcnn.errors import UsageError
from jaxcnn.parts import check_call
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
    | CutMix
    | Any,
    Open("a transform", "__call__"),
]
"""What an experiment's `data.augment` is a list of."""


def augment(
    transforms: Sequence[Callable[[Key[Array, ""], Batch, Fields], Batch]],
    key: Key[Array, ""],
    batch: Batch,
    fields: Fields,
) -> Batch:
    """Return the batch after the transforms, in their order.

    Transform i of n draws from `jax.random.split(key, n)[i]`, which does not depend on n: one added at the end leaves
    the draws of the others as they were.

    Raises:
      UsageError: the batch lacks a field or its mask; a transform does not fit the fields, or does not return the batch
        with all that was in it and as many examples.
    """
    if missing := [name for name in (*fields, "mask") if name not in batch]:
        raise UsageError(f"the batch to augment has no {missing[0]!r}: it has {', '.join(batch) or 'nothing'}")
    for transform, own in zip(transforms, jax.random.split(key, len(transforms)), strict=True):
        if not callable(transform) or isinstance(transform, type):
            raise UsageError(f"{transform!r} is no transform: expected Flip(), or a function (key, batch, fields)")
        check_call(name_of(transform), transform, "key", "batch", "fields")
        changed = _checked(transform, batch, transform(own, dict(batch), fields))
        # Each image is made once: XLA would make it anew for each pixel of the next transform that reads it.
        batch = jax.lax.optimization_barrier(changed)
    return batch


def _checked(transform: Any, batch: Batch, changed: Any) -> dict[str, Any]:
    """Return what a transform made of a batch.

    Raises:
      UsageError: it is no batch of as many examples, or lacks something.
    """
    name = name_of(transform)
    if not isinstance(changed, Mapping):
        raise UsageError(f"{name} returned {type(changed).__name__}: expected the batch, a mapping of its fields")
    count, found = len(batch["mask"]), _shapes(changed)
    for path in _shapes(batch):
        if path not in found:
            raise UsageError(f"{name} returned a batch without {path!r}: expected all that was in it")
    for path, shape in found.items():
        if shape[:1] != (count,):
            raise UsageError(f"{name} returned {path!r} of shape {shape}: expected {count} examples, as it was given")
    return dict(changed)


def _shapes(batch: Batch) -> dict[str, tuple[int, ...]]:
    """Return the shapes of all arrays of a batch by their names, such as "boxes.corners"."""
    leaves = jax.tree_util.tree_leaves_with_path(dict(batch))
    return {jax.tree_util.keystr(path, simple=True, separator="."): np.shape(leaf) for path, leaf in leaves}
