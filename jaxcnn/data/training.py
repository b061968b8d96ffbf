"""The stream of training batches: which examples batch k holds, and how they are cropped, is a function of (key, k)."""

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from jaxcnn.data.dataset import Dataset
from jaxcnn.data.examples import Split
from jaxcnn.data.fields import Batch
from jaxcnn.data.order import Order
from jaxcnn.data.streaming import Reader
from jaxcnn.keys import CROP, SHUFFLE


def training_order(data: Any, key: Key[Array, ""], batch_size: int) -> Order:
    """Return the order in which training visits the examples of a data set."""
    return Order(jax.random.fold_in(key, SHUFFLE), data.sizes["train"], batch_size, data.last_batch)


def crop_key(key: Key[Array, ""]) -> tuple[int, int]:
    """Return what the host's random crops are drawn from."""
    # JAX's other generators have keys of four words.
    first, second, *_ = jax.random.key_data(jax.random.fold_in(key, CROP)).tolist()
    return first, second


def training_batches(
    data: Dataset, key: Key[Array, ""], batch_size: int, steps: int, *, start: int = 0
) -> Iterator[Batch]:
    """Yield the batches of a training as they are stored, on the host: all fields, and `mask`.

    They are those that `Trainer` trains on: shuffled anew in each epoch, cropped where the data set crops.
    `training_batch` augments and normalises them.

    Args:
        data: the data set.
        key: the one source of randomness.
        batch_size: examples of a batch.
        steps: batches in all.
        start: the first step.

    Raises:
        UsageError: a batch is larger than the training split.
        RunError: more examples are bad than allowed.
    """
    order, train = training_order(data, key, batch_size), data.train
    if isinstance(train, Split):
        found = (order.rows(step, slice(None)) for step in range(start, steps))
        for indices, _, counts in found:
            (batch,) = train.batches([np.asarray(indices)])
            yield {**batch, "mask": batch["mask"] & counts}
    else:
        assert isinstance(train, Reader)
        with closing(train.stream(order, slice(0, batch_size), steps, crop_key(key))) as stream:
            for step in range(start, steps):
                yield {name: array for name, array in stream.at(step).items() if name != "index"}
