"""Sums over devices, all in one collective."""

from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxcnn.train.state import Tree

# A float32 holds whole numbers up to 2**24 exactly, and so the sums of this many bytes.
_MOST_DEVICES = 2**16


def sum_over(axis_name: str, tree: Tree) -> Tree:
    """Return the tree's leaves summed over a mapped axis, which all travel in one vector.

    `lax.psum` of a tree is a collective for each leaf, and XLA's CPU compiler does not put them together. The vector
    costs one copy of the tree.

    Args:
      axis_name: of pmap or shard_map.
      tree: floats, all of one type, of at least 24 bits of mantissa; and int32, whose sums are exact.
    """
    devices = lax.axis_size(axis_name)
    assert devices <= _MOST_DEVICES, devices
    leaves, treedef = jax.tree.flatten(tree)
    dtype = jnp.result_type(*[leaf for leaf in leaves if leaf.dtype != jnp.int32])
    parts = [_as_floats(leaf, dtype) for leaf in leaves]
    total = lax.psum(jnp.concatenate([part.reshape(-1) for part in parts]), axis_name)
    ends = [sum(part.size for part in parts[: number + 1]) for number in range(len(parts))]
    sums = [
        _from_floats(total[end - part.size : end].reshape(part.shape), leaf.dtype)
        for end, part, leaf in zip(ends, parts, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, sums)


def _as_floats(leaf: jax.Array, dtype: Any) -> jax.Array:
    """Return the leaf; an int32 as its four bytes, the lowest first, in a new last axis."""
    if leaf.dtype != jnp.int32:
        return leaf
    return lax.bitcast_convert_type(leaf, jnp.uint8).astype(dtype)


def _from_floats(sums: jax.Array, dtype: Any) -> jax.Array:
    """Return the sums of leaves of a type from the sums of what `_as_floats` made of them."""
    if dtype != jnp.int32:
        return sums
    places = jnp.array([0, 8, 16, 24], jnp.uint32)
    return lax.bitcast_convert_type((sums.astype(jnp.uint32) << places).sum(-1, dtype=jnp.uint32), jnp.int32)
