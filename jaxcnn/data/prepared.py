"""The last part of every batch's way to the network, the same for all data paths: part of the compiled step."""

from typing import Any, NamedTuple

from jaxtyping import Array, Float32, Key

from jaxcnn.data.augment import AnyArray, augment, normalize
from jaxcnn.data.config import DataConfig
from jaxcnn.data.fields import Fields, Image, Label


class Norms(NamedTuple):
    """What normalises images: for pixels in 0..1."""

    mean: Float32[AnyArray, "..."]
    std: Float32[AnyArray, " channels"]


def training_batch(
    batch: dict[str, Any], key: Key[Array, ""], norms: Norms, config: DataConfig, num_classes: int
) -> dict[str, Any]:
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
    fields: Fields = {"image": Image(batch["image"].shape[-1]), "label": Label(tuple(map(str, range(num_classes))))}
    changed = augment(config.augment, key, batch, fields)
    return {**changed, "image": normalize(changed["image"], norms.mean, norms.std)}


def eval_batch(image: Array, label: Array, mask: Array, norms: Norms) -> dict[str, Array]:
    """Return a batch to score: normalised."""
    return {"image": normalize(image, norms.mean, norms.std), "label": label, "mask": mask}
