"""Small data sets on the device: shuffled inside the training step.

arrays = place(Arrays.of(train))
stream = Stream(Order(key, len(train), batch_size), place)
perms, offset = stream.at(step)                                       # on the host
batch = gather(arrays, perms, offset, batch_size, last_batch)         # pure, inside the jitted step
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32

from jaxcnn.data.examples import Split
from jaxcnn.data.fields import Batch
from jaxcnn.data.norms import AnyArray
from jaxcnn.data.order import LastBatch, Order, epoch_permutation


class Arrays(NamedTuple):
    """A split: on the host, until placed on the devices."""

    fields: Mapping[str, Any]
    """Each field as it is in a batch, with all examples first."""
    usable: Bool[AnyArray, " n"]

    @classmethod
    def of(cls, split: Split) -> "Arrays":
        """Return a split's arrays."""
        return cls(dict(split.arrays), split.usable)


class Stream:
    """The host's view of the endless stream: which permutations a step reads, and from where."""

    def __init__(self, order: Order, place: Callable[[Array], Array] = jax.device_put):
        """Read batches in `order`; `place` puts the permutations on the devices."""
        self.order = order
        self._place = place
        self._epoch = -1
        self._perms: Int32[Array, "2 n"]

    def at(self, step: int) -> tuple[Int32[Array, "2 n"], np.int32]:
        """Return the permutations of the epoch of batch `step` and of the next, and the offset in the first.

        They are computed once an epoch and kept: sorting is too slow for every step. From any offset on they
        hold n // batch_size batches or more, so as many steps can be scanned in one call.
        """
        epoch, offset = self.order.position(step)
        if epoch != self._epoch:
            perms = [epoch_permutation(self.order.key, np.uint32(e), self.order.n) for e in (epoch, epoch + 1)]
            self._perms = self._place(jnp.stack(perms))
            self._epoch = epoch
        return self._perms, np.int32(offset)


def batch_indices(
    perms: Int32[Array, "2 n"], offset: Int32[Array, ""] | np.int32, batch_size: int
) -> Int32[Array, " batch"]:
    """Return the examples at positions `offset` to `offset + batch_size` from the start of `perms`."""
    return jax.lax.dynamic_slice(perms.reshape(-1), (offset,), (batch_size,))


def gather(
    arrays: Arrays,
    perms: Int32[Array, "2 n"],
    offset: Int32[Array, ""] | np.int32,
    batch_size: int,
    last_batch: LastBatch = "continue",
) -> Batch:
    """Return a training batch as it is stored: all fields, and mask bool [batch].

    Args:
        arrays: the training split.
        perms: from `Stream.at`.
        offset: from `Stream.at`.
        batch_size: static.
        last_batch: static; see `DataConfig`.
    """
    indices = batch_indices(perms, offset, batch_size)
    mask = jnp.take(arrays.usable, indices, mode="clip")
    if last_batch == "pad":
        mask &= offset + jnp.arange(batch_size, dtype=jnp.int32) < perms.shape[1]
    fields = jax.tree.map(lambda values: jnp.take(values, indices, axis=0, mode="clip"), dict(arrays.fields))
    return {**fields, "mask": mask}
