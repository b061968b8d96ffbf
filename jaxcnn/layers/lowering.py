"""One convolution, lowered to what is fast on each platform: the same numbers to rounding, and every transformation.

`convolve` is a JAX primitive of its own, and so are its two transposes. Each is bilinear, and the transposes of the
three are again among the three: forward and reverse mode, to any order, need no rule but this. When a program is
lowered for the CPU, the functions `..._on_cpu` below pick a formulation from the shapes, each choice by measurement
(scripts/bench_conv.py); on other platforms the program is XLA's own. They see what meets the input alone, see
`formulations.trimmed`.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array, Float

from jaxcnn.layers import formulations
from jaxcnn.layers.formulations import Formulation, Geometry, trimmed
from jaxcnn.layers.primitives import platform_primitive


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
    one's operand again for it: in a residual network, whole chains of blocks.
    """
    return _materialise.bind(x)


# The choice ----------------------------------------------------------------------------------------------------------


# Whether the compiler has oneDNN's convolutions, which `backend.jit` asks for: choices are made for programs that it
# compiles. XLA's own grouped convolutions take a hundred times as long.
_ONEDNN = jax.__version_info__ >= (0, 12)


def _by_onednn(x: Array) -> bool:
    """Return whether oneDNN convolves an array's groups."""
    return _ONEDNN and x.dtype != jnp.bfloat16


def _forward_on_cpu(x: Array, kernel: Array, geometry: Geometry) -> Array:
    if geometry.groups > 1 and not _by_onednn(x):
        if kernel.shape[-2] == 1:
            return formulations.shifts_forward(x, kernel, geometry)
        width = _groups_at_once(geometry.groups, kernel.shape[-2])
        return formulations.merged_forward(x, kernel, geometry, formulations.xla_forward, width)
    return formulations.xla_forward(x, kernel, geometry)


def _is_wide(x: Array) -> bool:
    """Return whether sums may be made of parts of the dtype: half precision would round each.

    In half precision it takes longer to gather columns, too.
    """
    return x.dtype.itemsize >= 4


def _groups_at_once(groups: int, channels: int) -> int:
    """Return how many groups of so many channels to merge: up to 16 channels in all."""
    return max(w for w in (1, 2, 4, 8) if groups % w == 0 and (w == 1 or w * channels <= 16))


def _input_gradient_on_cpu(y: Array, kernel: Array, geometry: Geometry) -> Array:
    if geometry.pointwise:
        return formulations.product_input_gradient(y, kernel, geometry)
    depthwise = geometry.groups == y.shape[-1] and kernel.shape[-2] == 1
    if depthwise and geometry.unit_strides and not _by_onednn(y):
        return formulations.shifts_input_gradient(y, kernel, geometry)
    if not geometry.unit_strides and geometry.dense:
        if depthwise and math.prod(geometry.window) <= 9:
            return formulations.shifts_input_gradient(y, kernel, geometry)
        return formulations.phases_input_gradient(y, kernel, geometry)
    return formulations.xla_input_gradient(y, kernel, geometry)


def _kernel_gradient_on_cpu(x: Array, y: Array, geometry: Geometry) -> Array:
    # XLA would compute both again from what they were made of, in the order in which the product wants them, slowly.
    x, y = lax.optimization_barrier((x, y))
    if geometry.pointwise:
        return formulations.product_kernel_gradient(x, y, geometry)
    if geometry.tiles:
        return formulations.patches_kernel_gradient(x, y, geometry)
    if geometry.groups == 1:
        return _dense_kernel_gradient_on_cpu(x, y, geometry)
    channels = x.shape[-1] // geometry.groups
    if channels == 1:
        return formulations.shifts_kernel_gradient(x, y, geometry)
    if _ONEDNN and _is_wide(x) and channels >= 8 and geometry.dilation[-1] == 1:
        # 16 at a time: to put more examples last in memory takes longer; but not in more than eight parts.
        count = max(16, -(-x.shape[0] // 8))
        return formulations.by_examples(formulations.channels_as_positions_kernel_gradient, count, x, y, geometry)
    width = _groups_at_once(geometry.groups, channels)
    return formulations.merged_kernel_gradient(x, y, geometry, _dense_kernel_gradient_on_cpu, width)


def _dense_kernel_gradient_on_cpu(x: Array, y: Array, geometry: Geometry) -> Array:
    tiny = x.shape[-1] * y.shape[-1] <= 16
    if tiny and len(geometry.window) == 2 and geometry.unit_strides and geometry.dense:
        return formulations.rows_kernel_gradient(x, y, geometry)
    few = math.prod(geometry.window) * x.shape[-1] <= 36
    if _ONEDNN and _is_wide(x) and few and y.shape[-1] >= 16 and y.size > 2**20:
        return formulations.columns_kernel_gradient(x, y, geometry)
    if geometry.dilation[-1] == 1:
        # Where y is larger than the caches, and read again for many channels or in leaps; or much larger.
        again = x.shape[-1] >= 256 or not geometry.unit_strides
        large = _is_wide(x) and y.size > (2**23 if again else 2**24)
        return formulations.channels_as_positions_kernel_gradient(x, y, geometry, rows=8 if large else None)
    if len(geometry.window) <= 2:
        return formulations.channels_as_dimension_kernel_gradient(x, y, geometry)
    return formulations.xla_kernel_gradient(x, y, geometry)


# The primitives ------------------------------------------------------------------------------------------------------


def _bind(primitive: Primitive, a: Array, b: Array, geometry: Geometry) -> Array:
    varying = [jax.typeof(operand).manual_axis_type.varying for operand in (a, b)]
    # In a shard_map one operand, the kernel, may be the same on all devices: what comes out is not.
    a, b = (
        lax.pcast(operand, tuple(missing), to="varying") if missing else operand
        for operand, missing in zip((a, b), (varying[1] - varying[0], varying[0] - varying[1]), strict=True)
    )
    return primitive.bind(a, b, geometry=geometry)


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
    formulations.xla_forward,
    trimmed(_forward_on_cpu, ("sizes", "window"), "outputs"),
    _batch(formulations.xla_forward, folds=True),
)
_input_gradient = platform_primitive(
    "convolve_input_gradient",
    formulations.xla_input_gradient,
    trimmed(_input_gradient_on_cpu, ("outputs", "window"), "sizes"),
    _batch(formulations.xla_input_gradient, folds=True),
)
_kernel_gradient = platform_primitive(
    "convolve_kernel_gradient",
    formulations.xla_kernel_gradient,
    trimmed(_kernel_gradient_on_cpu, ("sizes", "outputs"), "window"),
    _batch(formulations.xla_kernel_gradient, folds=False),
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
