"""Small data sets on the device: shuffled, augmented and normalised inside the training step.

Training reads one endless stream of examples. Position p of the stream belongs to epoch p // n, which visits
each of the n examples once in an order of its own. Batch k holds positions k*B to (k+1)*B - 1, and may
straddle two epochs. So what step k trains on depends on (key, k) alone: a run that starts again at any step
goes on as if it had never stopped.

    arrays = place(Arrays(train.images, train.labels, *normalisation(config, train.images)))
    stream = Stream(key, len(train), batch_size, place)
    perms, offset = stream.at(step)                                          # on the host
    batch = make_batch(arrays, perms, offset, step_key, config, batch_size)  # pure, inside the jitted step
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Int32, Key, UInt8

from jaxcnn.data.augment import AnyArray, normalize, random_flip, random_pad_crop
from jaxcnn.data.config import DataConfig
from jaxcnn.data.dataset import Split
from jaxcnn.errors import UsageError


class Arrays(NamedTuple):
    """A split and what normalises it: on the host, until placed on the devices."""

    images: UInt8[AnyArray, "n height width channels"]
    labels: Int32[AnyArray, " n"]
    mean: Float32[AnyArray, "..."]
    std: Float32[AnyArray, " channels"]


@partial(jax.jit, static_argnames="n")
def epoch_permutation(key: Key[Array, ""], epoch: int | Array, n: int) -> Int32[Array, " n"]:
    """Return the order in which `epoch` visits the n examples."""
    return jax.random.permutation(jax.random.fold_in(key, epoch), n).astype(jnp.int32)


class Stream:
    """The host's view of the endless stream: which permutations a step reads, and from where.

    Arithmetic on positions is done here in Python's integers: a long run's would overflow int32.
    """

    def __init__(
        self,
        key: Key[Array, ""],
        n: int,
        batch_size: int,
        place: Callable[[Array], Array] = jax.device_put,
    ):
        """Start a stream over `n` examples, 1 to n a batch; `place` puts the permutations on the devices."""
        if not 1 <= batch_size <= n:
            raise UsageError(f"a batch of {batch_size} does not fit the {n} training examples: expected 1 to {n}")
        self.n = n
        self.batch_size = batch_size
        self._key = key
        self._place = place
        self._epoch = -1
        self._perms: Int32[Array, "2 n"]

    def position(self, step: int) -> tuple[int, int]:
        """Return the epoch of the first example of batch `step`, and its offset in that epoch."""
        return divmod(step * self.batch_size, self.n)

    def at(self, step: int) -> tuple[Int32[Array, "2 n"], np.int32]:
        """Return the permutations of the epoch of batch `step` and of the next, and the offset in the first.

        They are computed once an epoch and kept: sorting is too slow for every step. From any offset on they
        hold n // batch_size batches or more, so as many steps can be scanned in one call.
        """
        epoch, offset = self.position(step)
        if epoch != self._epoch:
            perms = [epoch_permutation(self._key, np.uint32(e), self.n) for e in (epoch, epoch + 1)]
            self._perms = self._place(jnp.stack(perms))
            self._epoch = epoch
        return self._perms, np.int32(offset)


def batch_indices(
    perms: Int32[Array, "2 n"], offset: Int32[Array, ""] | np.int32, batch_size: int
) -> Int32[Array, " batch"]:
    """Return the examples at positions `offset` to `offset + batch_size` from the start of `perms`."""
    return jax.lax.dynamic_slice(perms.reshape(-1), (offset,), (batch_size,))


def make_batch(
    arrays: Arrays,
    perms: Int32[Array, "2 n"],
    offset: Int32[Array, ""] | np.int32,
    key: Key[Array, ""],
    config: DataConfig,
    batch_size: int,
) -> dict[str, Array]:
    """Return a training batch: examples by the stream, augmented as `config` says, normalised.

    Args:
        arrays: the training split.
        perms: from `Stream.at`.
        offset: from `Stream.at`.
        key: of this step alone; it drives the augmentation.
        config: `pad_crop`, `pad_mode` and `flip` are read.
        batch_size: static.

    Returns:
        image float32 [batch, height, width, channels], label int32 [batch], mask bool [batch], all True.
    """
    indices = batch_indices(perms, offset, batch_size)
    images = jnp.take(arrays.images, indices, axis=0, mode="clip")
    crop_key, flip_key = jax.random.split(key)
    if config.pad_crop:
        images = random_pad_crop(crop_key, images, config.pad_crop, config.pad_mode)
    if config.flip:
        images = random_flip(flip_key, images)
    return {
        "image": normalize(images, arrays.mean, arrays.std),
        "label": jnp.take(arrays.labels, indices, mode="clip"),
        "mask": jnp.ones(batch_size, bool),
    }


def eval_batches(split: Split, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield the examples of `split` in order, each once, in batches of one size on the host.

    The last batch is filled up with zeros where `mask` is False.

    Yields:
        image uint8 [batch_size, height, width, channels] (to pass to `normalize`), label int32, mask bool.
    """
    for start in range(0, len(split), batch_size):
        images = split.images[start : start + batch_size]
        fill = batch_size - len(images)
        yield {
            "image": np.pad(images, ((0, fill), (0, 0), (0, 0), (0, 0))),
            "label": np.pad(split.labels[start : start + batch_size], (0, fill)),
            "mask": np.arange(batch_size) < len(images),
        }
