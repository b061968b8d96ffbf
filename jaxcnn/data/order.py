"""The order of examples: which of them batch k holds is a function of (key, k) alone.

Training reads one endless stream of examples. Epoch e visits each of the n examples once, in the order of a
permutation drawn from (key, e). How batches are cut out of it where n is no multiple of the batch size is `LastBatch`.
"""

import threading
from fractions import Fraction
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int32, Int64, Key

from jaxcnn.errors import UsageError

LastBatch = Literal["continue", "drop", "pad"]
"""continue: a batch goes on into the next epoch; drop: what does not fill a batch is left out, other examples in each
epoch; pad: an epoch's last batch is filled up with examples that do not count."""

# Epochs whose permutations are kept: batches made ahead of time may lie in the next one.
_KEPT = 3


@partial(jax.jit, static_argnames="n")
def epoch_permutation(key: Key[Array, ""], epoch: int | Array, n: int) -> Int32[Array, " n"]:
    """Return the order in which `epoch` visits the n examples."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), n).astype(jnp.int32)


def batches_per_epoch(n: int, batch_size: int, last_batch: LastBatch) -> Fraction:
    """Return how many batches an epoch is, exactly: not a whole number where batches go on into the next one.

    Raises:
        UsageError: the batch is larger than the data set.
    """
    if not 1 <= batch_size <= n:
        raise UsageError(f"a batch of {batch_size} does not fit the {n} training examples: expected 1 to {n}")
    whole, rest = divmod(n, batch_size)
    counts = {"continue": Fraction(n, batch_size), "drop": Fraction(whole), "pad": Fraction(whole + bool(rest))}
    return counts[last_batch]


class Order:
    """Where each batch lies in the stream. Arithmetic is in Python's integers: a long run's would overflow int32."""

    def __init__(self, key: Key[Array, ""], n: int, batch_size: int, last_batch: LastBatch = "continue") -> None:
        """Order `n` examples by a key, `batch_size` (1 to n) at a time.

        Raises:
            UsageError: the batch is larger than the data set.
        """
        batches_per_epoch(n, batch_size, last_batch)
        self.key, self.n, self.batch_size, self.last_batch = key, n, batch_size, last_batch
        self._lock = threading.Lock()
        self._kept: dict[int, Int32[np.ndarray, " n"]] = {}

    def position(self, step: int) -> tuple[int, int]:
        """Return the epoch of the first example of batch `step`, and its place in that epoch."""
        if self.last_batch == "continue":
            return divmod(step * self.batch_size, self.n)
        epoch, batch = divmod(step, int(batches_per_epoch(self.n, self.batch_size, self.last_batch)))
        return epoch, batch * self.batch_size

    def rows(
        self, step: int, rows: slice
    ) -> tuple[Int32[np.ndarray, " rows"], Int64[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]:
        """Return the examples in some rows of batch `step`, their positions in the stream, and whether they count.

        A position tells each visit to an example from all others, so what is random about it is drawn from that.
        May be called by several threads.
        """
        epoch, first = self.position(step)
        places = first + np.arange(self.batch_size, dtype=np.int64)[rows]
        inside = places < self.n
        indices = self._permutation(epoch)[np.minimum(places, self.n - 1)]
        if not inside.all():
            indices = np.where(inside, indices, self._permutation(epoch + 1)[np.maximum(places - self.n, 0)])
        return indices, epoch * self.n + places, inside | (self.last_batch != "pad")

    def _permutation(self, epoch: int) -> Int32[np.ndarray, " n"]:
        with self._lock:
            if epoch not in self._kept:
                with jax.default_device(_host()):  # an accelerator is busy with training
                    key = jax.random.wrap_key_data(jnp.asarray(np.asarray(jax.random.key_data(self.key))))
                    self._kept[epoch] = np.asarray(epoch_permutation(key, np.uint32(epoch), self.n))
                for oldest in list(self._kept)[:-_KEPT]:
                    del self._kept[oldest]
            return self._kept[epoch]


def _host() -> jax.Device:
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # JAX_PLATFORMS names others only
        return jax.local_devices()[0]
