"""The convolution and its two gradients as XLA has them, and as one product with a matrix (im2col).

A convolution is bilinear in input and kernel, so its two gradients are the two transposes:

    forward(x, kernel) -> y          [batch, *sizes, channels], [*window, channels / groups, features] -> y
    input_gradient(y, kernel) -> x   the transpose by the input
    kernel_gradient(x, y) -> kernel  the transpose by the kernel

All functions of one kind compute the same. Each takes the `Geometry` last. Half-precision products are summed in
float32.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxcnn.layers.geometry import Geometry
from jaxcnn.layers.precision import dot, wide
from jaxcnn.layers.windows import taps

LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}

Formulation = Callable[[Array, Array, Geometry], Array]


def xla_forward(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Return XLA's convolution."""
    return lax.conv_general_dilated(
        x,
        kernel,
        geometry.strides,
        geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=LAYOUTS[len(geometry.window)],
        feature_group_count=geometry.groups,
    )


def xla_input_gradient(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Return the transpose of XLA's convolution by its input."""
    x = _like(y, (y.shape[0], *geometry.sizes, kernel.shape[-2] * geometry.groups))
    return jax.linear_transpose(lambda x: xla_forward(x, kernel, geometry), x)(y)[0]


def xla_kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """Return the transpose of XLA's convolution by its kernel."""
    kernel = _like(y, (*geometry.window, x.shape[-1] // geometry.groups, y.shape[-1]))
    return jax.linear_transpose(lambda kernel: xla_forward(x, kernel, geometry), kernel)(y)[0]


def _like(x: Array, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """Return what has a shape and is otherwise like `x`.

    In a shard_map that is to differ between devices as x does: the gradient by what does not is summed over them.
    """
    kind = jax.typeof(x)
    return jax.ShapeDtypeStruct(shape, x.dtype, sharding=kind.sharding, manual_axis_type=kind.manual_axis_type)


def im2col_forward(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Return the convolution as one product with the matrix of all windows (Chellapilla et al. 2006).

    The windows take as many times the memory of the input as a window has taps, over the strides.
    """
    groups, channels = geometry.groups, x.shape[-1]
    columns = jnp.stack([seen for _, seen in taps(x, geometry)], axis=-2)  # [batch, *outputs, taps, channels]
    if groups == 1:
        columns = columns.reshape(*columns.shape[:-2], -1)
        return dot(columns, kernel.reshape(-1, kernel.shape[-1]), ((columns.ndim - 1,), (0,)))
    columns = columns.reshape(*columns.shape[:-1], groups, channels // groups)
    kernel = kernel.reshape(-1, channels // groups, groups, kernel.shape[-1] // groups)
    found = jnp.einsum("...tgc,tcgf->...gf", wide(columns), wide(kernel))
    return found.reshape(*found.shape[:-2], -1).astype(x.dtype)
