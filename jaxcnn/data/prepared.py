"""The last part of every batch's way to the network, the same for all data paths: part of the compiled step."""

from typing import NamedTuple

from jaxtyping import Array, Float32, Key

from jaxcnn.data.augment import AnyArray, augment, normalize


class Norms(NamedTuple):
    """What normalises images: for pixels in 0..1."""

    mean: Float32[AnyArray, "..."]
    std: Float32[AnyArray, " channels"]


def training_batch(
    batch: dict[str, Array], key: Key[Array, ""], norms: Norms, augmentation, fields
) -> dict[str, Array]:
    """Return a batch augmented as `config` says, and normalised.

    Args:
        batch: image uint8 [batch, height, width, channels], label int32 [batch], mask bool [batch].
        key: of this step alone.
        norms: of the training images.
        config: `augment` is read.
        num_classes: of the logits.

    Returns:
        The batch with image float32; and, where examples were mixed, target float32 [batch, classes].
    """
    batch = augment(augmentation, key, batch, len(fields["label"].class_names))
    return {**batch, "image": normalize(batch["image"], norms.mean, norms.std)}


def eval_batch(batch, norms):
    return {**batch, "image": normalize(batch["image"], norms.mean, norms.std)}
