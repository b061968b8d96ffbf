"""BatchNorm's statistics over all training images, in place of the moving averages of training.

He et al. 2015 (1512.03385) take them after training. As in training, each batch is normalised by its own moments on
its way through the network; what each BatchNorm is given on the way is put together over all batches, exactly.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from jaxtyping import Array, Bool, Float

from jaxcnn.data import Examples
from jaxcnn.layers import BatchNorm
from jaxcnn.tasks import Batch, Task

# By the path of a BatchNorm: the number of values in each channel, their mean and sum of squared deviations from it.
Moments = dict[tuple[str, ...], tuple[Any, Any, Any]]


def make_moments_step(model: nn.Module, task: Task) -> Callable[[Any, Batch], Moments]:
    """Return `step(variables, batch)`, not yet compiled: moments over the unmasked examples of the batch.

    All of its examples, masked or not, take part in the normalisation.
    """

    def step(variables: Any, batch: Batch) -> Moments:
        found: Moments = {}

        def note(call, args, kwargs, context):
            if isinstance(context.module, BatchNorm | nn.BatchNorm) and context.method_name == "__call__":
                found[context.module.path] = _moments(args[0], batch["mask"])
            return call(*args, **kwargs)

        with nn.intercept_methods(note):
            task.forward(model, variables, batch, jax.random.key(0), True)
        return found

    return step


def whole_batches(split: Examples, batch_size: int) -> Iterator[dict[str, np.ndarray]]:
    """Yield the examples in order, the last batch filled up with examples from the start where `mask` is False."""
    places = np.arange(-(-len(split) // batch_size) * batch_size).reshape(-1, batch_size)
    for rows, batch in zip(places, split.batches(list(places % len(split))), strict=True):
        yield {**batch, "mask": batch["mask"] & (rows < len(split))}


def exact_batch_stats(
    step: Callable[[Batch], Moments], batches: Iterator[Batch], poll: Callable[[int], None]
) -> dict[str, Any]:
    """Return the `batch_stats` of a model: float32 on the host, added up in float64.

    Args:
      step: of `make_moments_step`, compiled, given the variables.
      batches: from `whole_batches`.
      poll: called before each batch with its number; raises to stop.
    """
    totals: Moments = {}
    for number, batch in enumerate(batches):
        poll(number)
        moments = jax.tree.map(lambda x: np.asarray(x, np.float64), step(batch))
        totals = {path: _together(totals[path], new) for path, new in moments.items()} if totals else moments
    stats = {}
    for path, (count, mean, deviations) in totals.items():
        stats[(*path, "mean")] = mean.astype(np.float32)
        stats[(*path, "var")] = (deviations / max(count, 1)).astype(np.float32)
    return unflatten_dict(stats)


def _moments(x: Float[Array, "batch *sizes channels"], mask: Bool[Array, " batch"]) -> tuple[Array, Array, Array]:
    x = x.astype(jnp.float32)
    mask = mask.reshape(-1, *[1] * (x.ndim - 1))
    axes = tuple(range(x.ndim - 1))
    count = mask.sum(dtype=jnp.float32) * math.prod(x.shape[1:-1])
    mean = jnp.where(mask, x, 0.0).sum(axes) / jnp.maximum(count, 1.0)
    return count, mean, jnp.where(mask, jnp.square(x - mean), 0.0).sum(axes)


def _together(a: tuple[Any, Any, Any], b: tuple[Any, Any, Any]) -> tuple[Any, Any, Any]:
    # Chan, Golub and LeVeque 1979.
    count = a[0] + b[0]
    some = max(count, 1)
    apart = b[1] - a[1]
    return count, a[1] + apart * b[0] / some, a[2] + b[2] + apart**2 * a[0] * b[0] / some
