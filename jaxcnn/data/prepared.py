"""The last part of every batch's way to the network, the same for all data paths: part of the compiled step."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Array, Key

from jaxcnn.data.augment import augment as augmented
from jaxcnn.data.fields import Batch, Fields, Image
from jaxcnn.data.norms import Norms, normalize, unit_of


def training_batch(
    batch: Batch, key: Key[Array, ""], norms: Norms | None, augment: Sequence[Any], fields: Fields
) -> Batch:
    """Return a batch augmented, and its field `image` normalised.

    Args:
        batch: as it is stored.
        key: of this step alone.
        norms: of the training images; None: nothing is normalised.
        augment: transforms, in their order.
        fields: of the data set.

    Returns:
        The batch with image float32; and, where examples were mixed, target float32 [batch, classes].
    """
    unit = unit_of(batch["image"]) if "image" in batch else 1  # before a transform makes float32 of it
    return _normalised(augmented(augment, key, batch, fields), norms, unit)


def eval_batch(batch: Batch, norms: Norms | None) -> Batch:
    """Return a batch to score: its field `image` normalised."""
    return _normalised(batch, norms, unit_of(batch["image"]) if "image" in batch else 1)


def _normalised(batch: Batch, norms: Norms | None, unit: int) -> Batch:
    if norms is None:
        return batch
    return {**batch, "image": normalize(batch["image"], norms.mean, norms.std, unit)}


def has_norms(fields: Fields) -> bool:
    """Return whether a data set has images to normalise: a field `image`, of kind Image."""
    return isinstance(fields.get("image"), Image)
