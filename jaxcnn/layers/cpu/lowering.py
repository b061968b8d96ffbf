"""One convolution, lowered to what is fast on each platform: the same numbers to rounding, and every transformation.

`convolve` is a JAX primitive of its own, and so are its two transposes. Each is bilinear, and the transposes of the
three are again among the three: forward and reverse mode, to any order, need no rule but this. When a program is
lowered for the CPU, `choice.py` picks a formulation from the shapes; on other platforms the program is XLA's own.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxcnn.layers.cpu import choice
from jaxcnn.layers.cpu.primitives import alike_over_devices, platform_primitive
from jaxcnn.layers.cpu.trimming import trimmed
from jaxcnn.layers.geometry import Geometry
from jaxcnn.layers.reference import Formulation, xla_forward, xla_input_gradient, xla_kernel_gradient


def convolve(
    x: Float[Array, "batch *sizes channels"],
    kernel: Float[Array, "*window group_channels features"],
    geometry: Geometry,
) -> Float[Array, "batch *out_sizes features"]:
    """Return the convolution of `x` with `kernel`; the geometry has been checked."""
    return _bind(_forward, x, kernel, geometry)


def transposed(
    y: Float[Array, "batch *out_sizes features"],
    kernel: Float[Array, "*window group_channels features"],
    geometry: Geometry,
) -> Float[Array, "batch *sizes channels"]:
    """Return the transpose of `convolve` by its input, applied to `y`."""
    return _bind(_input_gradient, y, kernel, geometry)


def materialised(x: Array) -> Array:
    """Return `x`; on the CPU, all who use it read the one array in memory.

    XLA's CPU compiler otherwise computes each user's operand again from the last convolution's results, and that
    one's operand again for it: in a residual network, whole chains of blocks. And where sums follow a convolution, or
    a product follows sums, it makes one operation of them all, many times slower than oneDNN's.
    """
    return _materialise.bind(x)


# The primitives ------------------------------------------------------------------------------------------------------


def _bind(primitive: Primitive, a: Array, b: Array, geometry: Geometry) -> Array:
    return primitive.bind(*alike_over_devices(a, b), geometry=geometry)


def _batch(reference: Formulation, *, folds: bool) -> Callable:
    """Return how to map over an axis. `folds`: the first operand's batch is the result's, which the axis may join."""

    def batch(primitive: Primitive, operands, axes, *, geometry: Geometry):
        (a, b), (a_axis, b_axis) = operands, axes
        if folds and b_axis is None:
            a = jnp.moveaxis(a, a_axis, 0)
            out = primitive.bind(a.reshape(-1, *a.shape[2:]), b, geometry=geometry)
            return out.reshape(*a.shape[:2], *out.shape[1:]), 0
        return jax.vmap(lambda a, b: reference(a, b, geometry), axes)(a, b), 0

    return batch


_forward = platform_primitive(
    "convolve",
    xla_forward,
    trimmed(choice.forward, ("sizes", "window"), "outputs"),
    _batch(xla_forward, folds=True),
)
_input_gradient = platform_primitive(
    "convolve_input_gradient",
    xla_input_gradient,
    trimmed(choice.input_gradient, ("outputs", "window"), "sizes"),
    _batch(xla_input_gradient, folds=True),
)
_kernel_gradient = platform_primitive(
    "convolve_kernel_gradient",
    xla_kernel_gradient,
    trimmed(choice.kernel_gradient, ("sizes", "outputs"), "window"),
    _batch(xla_kernel_gradient, folds=False),
)

ad.defbilinear(
    _forward,
    lambda y, x, kernel, *, geometry: _bind(_input_gradient, y, kernel, geometry),
    lambda y, x, kernel, *, geometry: _bind(_kernel_gradient, x, y, geometry),
)
ad.defbilinear(
    _input_gradient,
    lambda x, y, kernel, *, geometry: _bind(_forward, x, kernel, geometry),
    lambda x, y, kernel, *, geometry: _bind(_kernel_gradient, x, y, geometry),
)
ad.defbilinear(
    _kernel_gradient,
    lambda kernel, x, y, *, geometry: _bind(_input_gradient, y, kernel, geometry),
    lambda kernel, x, y, *, geometry: _bind(_forward, x, kernel, geometry),
)

_materialise = Primitive("materialise")
_materialise.def_impl(lambda x: x)
_materialise.def_abstract_eval(lambda x: x)
ad.deflinear2(_materialise, lambda y, x: [_materialise.bind(y)])
batching.primitive_batchers[_materialise] = lambda operands, axes: (_materialise.bind(*operands), axes[0])
mlir.register_lowering(_materialise, lambda context, x: [x])
mlir.register_lowering(_materialise, mlir.lower_fun(lax.optimization_barrier, multiple_results=False), platform="cpu")
