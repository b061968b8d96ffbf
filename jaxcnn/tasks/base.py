"""What a network is trained for, as one value: the seam between networks and data on one side, training on the other.

Training, evaluation, the log, checkpoints and the command line see a task through `Task` alone, and what it works on
as trees of arrays. A task of one's own is a frozen dataclass of this kind, in a file of one's own:

    @dataclass(frozen=True, kw_only=True)
    class Angle(Task):
        example = {"image": Image, "angle": Value}

        def losses(self, outputs, batch):
            return jnp.where(batch["mask"], jnp.square(outputs[:, 0] - batch["angle"]), 0.0)
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, UInt8

from jaxcnn import models
from jaxcnn.data.fields import Fields, Image
from jaxcnn.errors import UsageError
from jaxcnn.typed import Config

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# By the kind of a NumPy type; all others are kinds of floats, bfloat16 among them.
_WIDEST = {"b": np.int64, "i": np.int64, "u": np.uint64}

Batch = Mapping[str, Any]
"""By field name, arrays with the examples first; and `mask`, bool [batch]: False for what counts nowhere."""
Tree = Any


@dataclass(frozen=True)
class Finished:
    """What there is to draw of a finished run."""

    rows: Sequence[Mapping[str, Any]]
    """Of its log."""
    collected: Mapping[str, np.ndarray]
    """What `Task.collect` gave for the test split: [examples, ...]."""
    images: Callable[[np.ndarray], UInt8[np.ndarray, "m height width channels"]]
    """Returns the images of some of these examples, by their places."""
    fields: Fields
    """Of the data set."""


@dataclass(frozen=True, kw_only=True)
class Task(Config):
    """What is asked of a network. All methods but those that say so are pure, and traced by JAX."""

    example: ClassVar[Mapping[str, type]] = {"image": Image}
    """The fields that an example must have, with their kinds; see `jaxcnn.data.fields`."""
    best: ClassVar[tuple[str, Literal["max", "min"]]] = ("loss", "min")
    """The metric by which one checkpoint is better than another, and which way."""

    def outputs(self, fields: Fields) -> int | None:
        """Return how many outputs a model is made with for these data, if nothing else says; None: its own number."""
        return None

    def init(self, model: nn.Module, key: Array, batch: Batch) -> Mapping[str, Tree]:
        """Return the model's initial variables; of the batch, shapes and types alone are read."""
        return models.init(model, key, batch["image"])

    def forward(
        self, model: nn.Module, variables: Mapping[str, Tree], batch: Batch, key: Array | None, train: bool
    ) -> tuple[Tree, Mapping[str, Tree]]:
        """Call the model on a batch.

        Returns:
          Outputs, a tree that the other methods are given; and the collections of variables that changed, such as
          {"batch_stats": ...}; {} in evaluation.
        """
        return models.apply(model, variables, batch["image"], train=train, key=key)

    def losses(self, outputs: Tree, batch: Batch) -> Float[Array, "batch ..."]:
        """Return the losses of a batch, of examples, pixels or samples: 0 where they do not count.

        Training differentiates their sum and divides by the sum of `count`, over parts of a batch and devices alike.
        """
        raise UsageError(f"{type(self).__name__} has no losses: write losses(self, outputs, batch) -> [batch, ...]")

    def count(self, batch: Batch) -> Array:
        """Return by what number the sum of a batch's losses is divided: of the examples that count."""
        return batch["mask"].sum(dtype=jnp.int32)

    def sums(self, outputs: Tree, batch: Batch) -> Tree:
        """Return what the metrics are made of: sums over what counts in a batch, of any shape, each in its own dtype.

        They are added up over the batches, whole numbers exactly and others in float64.
        """
        return {}

    def metrics(self, sums: Tree) -> Mapping[str, float]:
        """Return the metrics of what the sums were taken over, on the host.

        `loss` is the mean of `losses` where this gives none, and in training always.
        """
        return {}

    def collect(self, outputs: Tree, batch: Batch) -> Mapping[str, Array]:
        """Return what evaluation keeps of each example, [batch, ...], for `score`, figures and `predictions.npz`."""
        return {}

    def score(self, collected: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """Return metrics that are no function of sums, from what was collected of all examples, on the host."""
        return {}

    def predict(self, outputs: Tree) -> Tree:
        """Return what a user of the network wants of its outputs."""
        return outputs

    def check(self, outputs: Tree, fields: Fields) -> None:
        """Look at the shapes of a model's outputs, before anything is computed.

        Raises:
          UsageError: they are not what the task works on, with both shapes.
        """

    def figures(self, finished: Finished) -> Mapping[str, "Callable[[], Figure]"]:
        """Return what draws the figures of a finished run, by file name without suffix, on the host."""
        from jaxcnn.report.figures import curves

        return {"curves": lambda: curves(finished.rows, self.best[0], "Loss")}


def kept_dtype(array: Any) -> np.ndarray:
    """Return a sum on the host in the widest type of its kind, so that nothing is lost when many are added up."""
    found = np.asarray(array)
    return found.astype(_WIDEST.get(found.dtype.kind, np.float64))
