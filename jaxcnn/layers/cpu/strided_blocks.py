"""Positions in blocks of the strides, for what goes from outputs back to the inputs that their windows saw."""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxcnn.layers.geometry import Edges
from jaxcnn.layers.precision import zero


def blocks_after(y: Array, before: Sequence[int], reach: Sequence[int], beyond: Array | np.ndarray) -> Array:
    """Return, for each block of input positions, the output `before` blocks earlier: [batch, blocks, 1, ..., channels].

    Args:
        y: the outputs, one per block in each dimension.
        before: how many blocks earlier, per dimension.
        reach: how many blocks a window reaches over, per dimension.
        beyond: what stands for outputs that there are not.
    """
    ends = [(0, 0, 0), *[(d, n - 1 - d, 0) for d, n in zip(before, reach, strict=True)], (0, 0, 0)]
    return jnp.expand_dims(lax.pad(y, beyond, ends), [2 + 2 * axis for axis in range(len(reach))])


def joined_blocks(x: Array) -> Array:
    """Return [batch, blocks, positions of a block, ..., channels] with the positions of all blocks in a row."""
    return x.reshape(x.shape[0], *[x.shape[a] * x.shape[a + 1] for a in range(1, x.ndim - 1, 2)], x.shape[-1])


def cropped(x: Array, sizes: Sequence[int], padding: Sequence[Edges]) -> Array:
    """Return the input's positions of an array that begins with the padding; those after its end are zero."""
    ends = [(-lo, size + lo - found, 0) for size, (lo, _), found in zip(sizes, padding, x.shape[1:-1], strict=True)]
    return lax.pad(x, zero(x.dtype), [(0, 0, 0), *ends, (0, 0, 0)])
