"""Single-label classification: softmax cross-entropy, accuracy, top-5 error."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxcnn.data.fields import Fields, Image, Label
from jaxcnn.errors import UsageError
from jaxcnn.models.base import WithAux
from jaxcnn.tasks.base import Batch, Finished, Task
from jaxcnn.typed import Fraction

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Outputs = Float[Array, "batch classes"] | WithAux


@dataclass(frozen=True, kw_only=True)
class Classification(Task, at="task"):
    """Name one class for each image.

    A batch holds `image`, `label` (int32, [0, classes)) and `mask`; where labels were mixed also `target` (float32
    [batch, classes], rows that sum to 1), which the loss of training then takes in place of `label`.
    """

    kind: Literal["classification"] = "classification"
    label_smoothing: Fraction = 0.0
    """Mass moved from the label to the uniform distribution over all classes (1512.00567, section 7)."""
    example: ClassVar[Mapping[str, type]] = {"image": Image, "label": Label}
    best: ClassVar[tuple[str, Literal["max", "min"]]] = ("accuracy", "max")

    def outputs(self, fields: Fields) -> int | None:
        """Return the number of classes."""
        return len(_class_names(fields))

    def check(self, outputs: Any, fields: Fields) -> None:
        """Look at the logits.

        Raises:
          UsageError: they are not [batch, classes], or fewer than the data have classes.
        """
        logits, classes = _split(outputs)[0], len(_class_names(fields))
        shape = getattr(logits, "shape", None)
        if shape is None or len(shape) != 2 or not jnp.issubdtype(logits.dtype, jnp.floating):
            sizes = ", ".join(["batch", *map(str, (shape or ())[1:])])
            found = type(logits).__name__ if shape is None else f"{logits.dtype}[{sizes}]"
            raise UsageError(f"the model's output is {found}: classification takes float32[batch, {classes}]")
        if shape[1] < classes:
            raise UsageError(f"the model has {shape[1]} logits, the data have {classes} classes: set model.num_classes")

    def losses(self, outputs: Outputs, batch: Batch) -> Float[Array, " batch"]:
        """Return each example's smoothed cross-entropy in nats, 0 where it is masked.

        That of each auxiliary head is added with the model's weight.
        """
        logits, aux, weight = _split(outputs)
        losses = self._smoothed(logits, batch)
        return losses + weight * sum(self._smoothed(head, batch) for head in aux) if aux else losses

    def _smoothed(self, logits: Float[Array, "batch classes"], batch: Batch) -> Float[Array, " batch"]:
        classes = logits.shape[-1]
        if (given := batch.get("target")) is None:
            targets = jax.nn.one_hot(batch["label"], classes, dtype=logits.dtype)
        else:  # a model may have more logits than the data have classes
            targets = jnp.pad(given, ((0, 0), (0, classes - given.shape[-1])))
        targets = optax.smooth_labels(targets, self.label_smoothing)
        return jnp.where(batch["mask"], optax.softmax_cross_entropy(logits, targets), 0.0)

    def sums(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Return sums over the batch's unmasked examples; the loss here is the main head's plain cross-entropy.

        An example is right at top k when fewer than k other classes score at least as high as its label's: ties count
        as mistakes, so that a network with constant (or NaN) logits gets nothing for free.
        """
        logits, label, mask = _split(outputs)[0], batch["label"], batch["mask"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, label)
        own = jnp.take_along_axis(logits, label[:, None], axis=-1)
        rivals = (~(logits < own)).sum(axis=-1, dtype=jnp.int32) - 1
        # Masking by `where`, not by multiplication: padding may hold anything, and 0 * NaN is NaN.
        sums = {
            "loss": jnp.where(mask, losses, 0.0).sum(),
            "correct": (mask & (rivals < 1)).sum(dtype=jnp.int32),
            "count": mask.sum(dtype=jnp.int32),
        }
        if logits.shape[-1] > 5:
            sums["correct_top5"] = (mask & (rivals < 5)).sum(dtype=jnp.int32)
        return sums

    def metrics(self, sums: Mapping[str, Any]) -> dict[str, float]:
        """Return means over all examples: `loss` (nats), `accuracy` in [0, 1], `top5_error` above five classes."""
        count = int(sums["count"])
        found = {"loss": float(sums["loss"]) / count, "accuracy": int(sums["correct"]) / count}
        if "correct_top5" in sums:
            found["top5_error"] = 1.0 - int(sums["correct_top5"]) / count
        return found

    def collect(self, outputs: Outputs, batch: Batch) -> dict[str, Array]:
        """Return logits and labels."""
        return {"logits": _split(outputs)[0], "labels": batch["label"]}

    def predict(self, outputs: Outputs) -> Float[Array, "batch classes"]:
        """Return class probabilities."""
        return jax.nn.softmax(_split(outputs)[0])

    def averaged(self, probabilities: Float[np.ndarray, "n classes"]) -> Float[Array, "n classes"]:
        """Return outputs that stand for probabilities, such as means over several views of an image."""
        return jnp.log(jnp.maximum(jnp.asarray(probabilities), np.finfo(np.float32).tiny))

    def figures(self, finished: Finished) -> Mapping[str, "Callable[[], Figure]"]:
        """Return curves, confusion matrix and worst mistakes."""
        from jaxcnn.report.figures import confusion_matrix, curves, worst_mistakes

        logits, labels = finished.collected["logits"], finished.collected["labels"]
        names = _class_names(finished.fields)
        return {
            "curves": lambda: curves(finished.rows),
            "confusion_matrix": lambda: confusion_matrix(logits, labels, names),
            "worst_mistakes": lambda: worst_mistakes(finished.images, logits, labels, names),
        }


def _split(outputs: Any) -> tuple[Any, tuple, float]:
    """Return logits, those of auxiliary heads, and the weight of their losses."""
    return outputs if isinstance(outputs, WithAux) else (outputs, (), 0.0)


def _class_names(fields: Fields) -> tuple[str, ...]:
    label = fields["label"]
    assert isinstance(label, Label)
    return label.class_names
