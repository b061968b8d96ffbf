"""The last part of every batch's way to the network, the same for all data paths: part of the compiled step."""

from typing import Any, NamedTuple

from jaxtyping import Array, Float32, Key

from jaxcnn.data.augment import AnyArray, augment, normalize


class Norms(NamedTuple):
    """What normalises images: for pixels in 0..1."""

    mean: Float32[AnyArray, "..."]
    std: Float32[AnyArray, " channels"]


def training_batch(batch: Any, key: Key[Array, ""], norms: Norms, augmentation, fields) -> dict[str, Array]:
    """Return a batch augmented and normalised."""
    return eval_batch(augment(augmentation, key, batch, fields), norms)


def eval_batch(batch, norms):
    """SHIM"""
    return {**batch, "image": normalize(batch["image"], norms.mean, norms.std)}
