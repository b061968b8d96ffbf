"""What the compiled training step is given at each step, and the pure function that makes a batch of it."""

from typing import Any

import flax.struct
import jax
import numpy as np

from jaxcnn.data import Dataset, Split
from jaxcnn.data.prepared import training_batch
from jaxcnn.data.resident import Arrays, Stream, gather
from jaxcnn.data.streaming import Reader
from jaxcnn.data.training import crop_key, training_order
from jaxcnn.errors import RunError
from jaxcnn.keys import AUGMENT, step_key
from jaxcnn.tasks import Batch
from jaxcnn.train.parallel import Parallel


@flax.struct.dataclass
class StepInputs:
    """Of one step: arrays on the devices."""

    shared: Any
    """What is the same at every step and for every seed: `norms`, and `arrays`, the training split where it is kept on
    the devices."""
    stored: Any
    """The batch as it is stored; or `perms` and `offset`, by which it is gathered from the arrays."""
    key: jax.Array
    """The experiment's key, as plain data."""
    step: Any


class Inputs:
    """What training steps are made from, whatever the seed."""

    def __init__(self, data: Dataset, norms: Any, batch_size: int, steps: int, parallel: Parallel) -> None:
        """Put the training split on the devices where it is in memory.

        Args:
          data: the data set.
          norms: of it, on the devices.
          batch_size: of all devices together.
          steps: in all.
          parallel: the devices.
        """
        self.data, self.batch_size, self.steps, self.parallel = data, batch_size, steps, parallel
        arrays = parallel.place(Arrays.of(data.train)) if isinstance(data.train, Split) else None
        self.shared = {"norms": norms, "arrays": arrays}
        self.failure: RunError | None = None  # of a stream, which only this process knows of

    def stream(self, key: jax.Array) -> "InputStream":
        """Return what the steps of one seed are given; order, crops and augmentation are drawn from `key`."""
        return InputStream(self, key)

    def batch(self, inputs: StepInputs) -> Batch:
        """Return the batch of what a step is given, augmented and normalised; pure, part of the compiled step."""
        batch, data = inputs.stored, self.data
        if inputs.shared["arrays"] is not None:
            batch = gather(inputs.shared["arrays"], batch["perms"], batch["offset"], self.batch_size, data.last_batch)
        key = step_key(inputs.key, AUGMENT, inputs.step)
        return training_batch(batch, key, inputs.shared["norms"], data.augment, data.fields)


class InputStream:
    """The inputs of one seed; nothing is read before it is asked for."""

    def __init__(self, inputs: Inputs, key: jax.Array) -> None:
        """See `Inputs.stream`."""
        self._inputs, data, parallel = inputs, inputs.data, inputs.parallel
        self._key = parallel.place(np.array(jax.random.key_data(key)))  # a copy: the state is donated
        order = training_order(data, key, inputs.batch_size)
        if isinstance(data.train, Reader):
            self._feed = data.train.stream(order, parallel.rows(inputs.batch_size), inputs.steps, crop_key(key))
        else:
            self._stream = Stream(order, parallel.place)

    def at(self, step: int) -> StepInputs:
        """Return what the step is given, waiting for it if need be."""
        inputs = self._inputs
        if inputs.data.streamed:
            stored = inputs.parallel.shard(self._fed(step))
        else:
            stored = dict(zip(("perms", "offset"), self._stream.at(step), strict=True))
        return StepInputs(inputs.shared, stored, self._key, np.int32(step))

    def like(self, step: int) -> StepInputs:
        """Return what stands for arrays of the same shapes, without waiting for a streamed batch."""
        inputs, parallel = self._inputs, self._inputs.parallel
        if not inputs.data.streamed:
            return self.at(step)
        stored = parallel.like(batch_like(inputs.data, inputs.batch_size), parallel.sharded)
        return StepInputs(inputs.shared, stored, self._key, np.int32(step))

    def close(self) -> None:
        """Stop the threads that make batches."""
        if self._inputs.data.streamed:
            self._feed.close()

    def _fed(self, step: int) -> Any:
        """Return this process's rows of a streamed batch."""
        inputs = self._inputs
        if inputs.failure is None:
            try:
                batch = self._feed.at(step)
                return {name: batch[name] for name in (*inputs.data.fields, "mask")}
            except RunError as error:
                if jax.process_count() == 1:
                    raise
                inputs.failure = error
        # The other processes would wait for this one: it goes on, with rows that do not count, until all have agreed.
        rows = inputs.parallel.rows(inputs.batch_size)
        like = batch_like(inputs.data, rows.stop - rows.start)
        return jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), like)


def batch_like(data: Any, rows: int) -> Any:
    """Return what stands for a batch of so many rows as it is stored: shapes and types."""
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct((rows, *x.shape), x.dtype), dict(data.shapes))
    return like | {"mask": jax.ShapeDtypeStruct((rows,), np.bool_)}
