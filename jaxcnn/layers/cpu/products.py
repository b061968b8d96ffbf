"""Kernel gradients as matrix products."""

import math

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxcnn.layers.geometry import Geometry
from jaxcnn.layers.precision import dot, wide_dot, zero


def product_kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """Return a pointwise convolution's gradient by its kernel as one matrix product over all positions."""
    x = _strided(x, geometry)
    # The compiler transposes the first of the two before it multiplies: the smaller.
    swapped = x.shape[-1] > y.shape[-1]
    a, b = (y, x) if swapped else (x, y)
    # One of few rows and very long ones is faster in parts, side by side.
    parts = math.gcd(a.shape[0], 4) if a.shape[-1] <= 128 else 1
    a, b = (operand.reshape(parts, -1, operand.shape[-1]) for operand in (a, b))
    kernel = jnp.sum(wide_dot(a, b, ((1,), (1,)), batch=(0,)), axis=0)
    kernel = kernel.T if swapped else kernel
    return kernel.reshape(*geometry.window, *kernel.shape).astype(x.dtype)


def rows_kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """Return the kernel's gradient from one product of whole rows of x and y, of which it is the sums of diagonals.

    The product meets every column of a row with every other, and most of them for nothing: worth it for the fewest
    channels, whose convolutions are too small to fill a vector. In 2 dimensions, of unit stride, without holes.
    """
    (height, width), (_, out_width), channels, features = geometry.window, geometry.outputs, x.shape[-1], y.shape[-1]
    x = lax.pad(x, zero(x.dtype), [(0, 0, 0), *[(lo, hi, 0) for lo, hi in geometry.padding], (0, 0, 0)])
    columns = x.shape[2]
    x, y = x.reshape(*x.shape[:2], -1), y.reshape(*y.shape[:2], -1)
    seen = jnp.concatenate([x[:, t : t + y.shape[1]] for t in range(height)], axis=-1)
    product = dot(seen, y, ((0, 1), (0, 1))).reshape(height, columns, channels, out_width, features)
    # In rows that are one longer than they are, column w + dx of row w is column dx of all.
    product = jnp.moveaxis(product, 3, 1).reshape(height, out_width * columns, channels, features)
    product = jnp.pad(product, ((0, 0), (0, out_width), (0, 0), (0, 0)))
    product = product.reshape(height, out_width, columns + 1, channels, features)
    return jnp.sum(product[:, :, :width], axis=1)


def _strided(x: Array, geometry: Geometry) -> Array:
    """Return the positions of x that a pointwise convolution sees."""
    return x if geometry.unit_strides else x[(slice(None), *(slice(None, None, s) for s in geometry.strides))]
