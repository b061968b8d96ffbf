"""Grouped convolutions and their gradients, several groups as one."""

import jax.numpy as jnp
from jaxtyping import Array

from jaxcnn.layers.geometry import Geometry
from jaxcnn.layers.reference import Formulation


def merged_forward(x: Array, kernel: Array, geometry: Geometry, dense: Formulation, width: int) -> Array:
    """Return a grouped convolution as dense ones over `width` groups at a time, whose kernels are block-diagonal."""
    blocks = _merged_kernels(kernel, geometry.groups, width)
    xs = jnp.split(x, geometry.groups // width, axis=-1)
    one = geometry._replace(groups=1)
    return jnp.concatenate([dense(x, block, one) for x, block in zip(xs, blocks, strict=True)], axis=-1)


def merged_input_gradient(y: Array, kernel: Array, geometry: Geometry, dense: Formulation, width: int) -> Array:
    """Return a grouped convolution's gradient by its input: those of the same dense ones, side by side."""
    return merged_forward(y, kernel, geometry, dense, width)


def merged_kernel_gradient(x: Array, y: Array, geometry: Geometry, dense: Formulation, width: int) -> Array:
    """Return a grouped convolution's gradient by its kernel: of the blocks on the diagonal of dense gradients."""
    parts = geometry.groups // width
    one = geometry._replace(groups=1)
    found = []
    for x_part, y_part in zip(jnp.split(x, parts, axis=-1), jnp.split(y, parts, axis=-1), strict=True):
        kernel = dense(x_part, y_part, one)
        kernel = kernel.reshape(*geometry.window, width, x_part.shape[-1] // width, width, -1)
        # [*window, width, channels, width, features] -> the diagonal of the two widths, before the features.
        diagonal = jnp.diagonal(kernel, axis1=-4, axis2=-2)  # [*window, channels, features, width]
        found.append(
            jnp.swapaxes(diagonal, -1, -2).reshape(*kernel.shape[: len(geometry.window)], kernel.shape[-3], -1)
        )
    return jnp.concatenate(found, axis=-1)


def _merged_kernels(kernel: Array, groups: int, width: int) -> list[Array]:
    """Return, for each `width` groups, the dense kernel with zeros between channels and features of other groups."""
    *window, channels, features = kernel.shape
    split = kernel.reshape(*window, channels, groups // width, width, features // groups)
    eye = jnp.eye(width, dtype=kernel.dtype)
    # Out of [..., channels, parts, width, features]: [parts, ..., width, channels, width, features].
    blocks = jnp.einsum("...cpwf,vw->p...vcwf", split, eye)
    return list(blocks.reshape(groups // width, *window, width * channels, -1))
