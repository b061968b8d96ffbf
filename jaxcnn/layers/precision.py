"""Products and sums of arrays in the type that they are summed in: float32 for half precision."""

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array


def dot(a: Array, b: Array, contracted: tuple[tuple[int, ...], tuple[int, ...]]) -> Array:
    """Return the product of two arrays over the contracted axes, in their dtype."""
    return wide_dot(a, b, contracted).astype(a.dtype)


def wide_dot(a: Array, b: Array, contracted: tuple, batch: tuple[int, ...] = ()) -> Array:
    """Return the product in the type that it is summed in, one for each index of the axes `batch` of both."""
    return lax.dot_general(a, b, (contracted, (batch, batch)), preferred_element_type=summed_in(a.dtype))


def wide(x: Array) -> Array:
    """Return `x` in the type that sums of it are made in."""
    return x.astype(summed_in(x.dtype))


def summed_in(dtype: jnp.dtype) -> jnp.dtype:
    """Return the type that sums of a type are made in."""
    return jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype


def zero(dtype: jnp.dtype) -> Array:
    """Return the number 0 of a type."""
    return jnp.zeros((), dtype)
