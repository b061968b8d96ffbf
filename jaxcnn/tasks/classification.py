"""Single-label classification: softmax cross-entropy, accuracy, top-5 error."""

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from jaxcnn.errors import UsageError
from jaxcnn.models.base import WithAux

Sums = dict[str, jax.Array]


@dataclass(frozen=True)
class Classification:
    """The task of naming one class for each image.

    A batch holds `image`, `label` (int32, [0, classes)) and `mask` (bool; False for padding, which counts nowhere);
    where labels were mixed also `target` (float32 [batch, classes], rows that sum to 1), which the loss of training
    then takes in place of `label`.
    """

    label_smoothing: float = 0.0
    """Mass moved from the label to the uniform distribution over all classes, in [0, 1) (1512.00567, section 7)."""

    def __post_init__(self) -> None:
        """Check the range."""
        if not 0.0 <= self.label_smoothing < 1.0:
            raise UsageError(f"label_smoothing is {self.label_smoothing}: expected a value in [0, 1), such as 0.1")

    def loss(
        self, outputs: Float[Array, "batch classes"] | WithAux, batch: Mapping[str, jax.Array]
    ) -> tuple[Float[Array, ""], Sums]:
        """Return the mean smoothed cross-entropy that training minimises, and the sums for the metrics.

        Each auxiliary head's cross-entropy is added with the model's weight; the sums are of the main logits alone.
        The mean is over the unmasked examples.
        """
        logits, aux, share = outputs if isinstance(outputs, WithAux) else (outputs, (), 0.0)
        losses = self._smoothed(logits, batch)
        sums = self.sums(logits, batch) | {"loss": losses.sum()}
        minimised = losses + share * sum(self._smoothed(head, batch) for head in aux) if aux else losses
        return minimised.sum() / jnp.maximum(sums["count"], 1).astype(losses.dtype), sums

    def _smoothed(
        self, logits: Float[Array, "batch classes"], batch: Mapping[str, jax.Array]
    ) -> Float[Array, " batch"]:
        """Return the smoothed cross-entropy of each example, 0 where it is masked."""
        given = batch.get("target")
        targets = jax.nn.one_hot(batch["label"], logits.shape[-1], dtype=logits.dtype) if given is None else given
        targets = optax.smooth_labels(targets, self.label_smoothing)
        return jnp.where(batch["mask"], optax.softmax_cross_entropy(logits, targets), 0.0)

    def sums(self, logits: Float[Array, "batch classes"], batch: Mapping[str, jax.Array]) -> Sums:
        """Return sums over the batch's unmasked examples; the loss here is the plain cross-entropy.

        An example is right at top k when fewer than k other classes score at least as high as its label's: ties count
        as mistakes, so that a network with constant (or NaN) logits gets nothing for free.
        """
        label, mask = batch["label"], batch["mask"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        own = jnp.take_along_axis(logits, label[:, None], axis=-1)
        rivals = (~(logits < own)).sum(axis=-1, dtype=jnp.int32) - 1
        # Masking by `where`, not by multiplication: padding may hold anything, and 0 * NaN is NaN.
        return {
            "loss": jnp.where(mask, losses, 0.0).sum(),
            "correct": (mask & (rivals < 1)).sum(dtype=jnp.int32),
            "correct_top5": (mask & (rivals < 5)).sum(dtype=jnp.int32),
            "count": mask.sum(dtype=jnp.int32),
        }

    def metrics(self, sums: Mapping[str, float], num_classes: int) -> dict[str, float]:
        """Return means over all examples: `loss` (nats), `accuracy` in [0, 1], `top5_error` above five classes."""
        count = int(sums["count"])
        if count == 0:
            raise ValueError("no example was counted")
        found = {"loss": float(sums["loss"]) / count, "accuracy": int(sums["correct"]) / count}
        if num_classes > 5:
            found["top5_error"] = 1.0 - int(sums["correct_top5"]) / count
        return found
