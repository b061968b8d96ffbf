"""Which formulation computes a convolution, and its gradients, on the CPU: the first whose rule fits.

Each rule is there by measurement: over whole steps (scripts/bench_formulations.py) and shape by shape
(scripts/bench_conv.py). README.md beside this file says how to add one.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxcnn.backend import with_onednn
from jaxcnn.layers.cpu.depthwise import shifts_forward, shifts_input_gradient, windows_kernel_gradient
from jaxcnn.layers.cpu.grouped import merged_forward, merged_input_gradient, merged_kernel_gradient
from jaxcnn.layers.cpu.products import (
    product_kernel_gradient,
    rows_kernel_gradient,
)
from jaxcnn.layers.cpu.reshaped import (
    by_examples,
    channels_as_positions_kernel_gradient,
    phases_input_gradient,
)
from jaxcnn.layers.geometry import Geometry
from jaxcnn.layers.reference import Formulation, xla_forward, xla_input_gradient, xla_kernel_gradient

Kind = Literal["forward", "input_gradient", "kernel_gradient"]


class Rule(NamedTuple):
    """A formulation, and where it is taken."""

    formulation: Formulation
    fits: Callable[[Array, Array, Geometry], bool]
    """Of the operands and the geometry."""


def forward(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Return the convolution."""
    return _by_the_first("forward", x, kernel, geometry)


def input_gradient(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Return the convolution's gradient by its input."""
    return _by_the_first("input_gradient", y, kernel, geometry)


def kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """Return the convolution's gradient by its kernel."""
    # XLA would compute both again from what they were made of, in the order in which the product wants them, slowly.
    x, y = lax.optimization_barrier((x, y))
    return _by_the_first("kernel_gradient", x, y, geometry)


def _by_the_first(kind: Kind, a: Array, b: Array, geometry: Geometry) -> Array:
    return next(rule.formulation for rule in RULES[kind] if rule.fits(a, b, geometry))(a, b, geometry)


# Where they fit ------------------------------------------------------------------------------------------------------


def _always(a: Array, b: Array, geometry: Geometry) -> bool:
    return True


def _by_onednn(x: Array) -> bool:
    """Return whether oneDNN convolves an array's groups."""
    return with_onednn.value and x.dtype != jnp.bfloat16


def _is_wide(x: Array) -> bool:
    """Return whether sums may be made of parts of the dtype: half precision would round each.

    In half precision it takes longer to gather columns, too.
    """
    return x.dtype.itemsize >= 4


def _groups_at_once(groups: int, channels: int) -> int:
    """Return how many groups of so many channels to merge: up to 16 channels in all."""
    return max(w for w in (1, 2, 4, 8) if groups % w == 0 and (w == 1 or w * channels <= 16))


def _is_small_depthwise(kernel: Array, geometry: Geometry) -> bool:
    # One product for each tap: the 64x64 of a layer that enlarges 32 times would be a program of 4,096 parts.
    return geometry.groups > 1 and kernel.shape[-2] == 1 and math.prod(geometry.window) <= 81


def _shifts_give_input_gradient(y: Array, kernel: Array, geometry: Geometry) -> bool:
    one_each = _is_small_depthwise(kernel, geometry) and geometry.groups == y.shape[-1]
    return one_each and (geometry.unit_strides or geometry.dense) and not _by_onednn(y)


def _are_fewest_channels(x: Array, y: Array, geometry: Geometry) -> bool:
    fewest = x.shape[-1] * y.shape[-1] <= 16
    return fewest and len(geometry.window) == 2 and geometry.unit_strides and geometry.dense


def _are_few_channels(x: Array, y: Array, geometry: Geometry) -> bool:
    few = 8 <= x.shape[-1] <= 16 and x.shape[0] >= 32
    return few and len(geometry.window) == 2 and geometry.dilation[-1] == 1 and _is_wide(x)


def _is_larger_than_caches(x: Array, y: Array, geometry: Geometry) -> bool:
    # And read again for many channels or in leaps; or much larger.
    again = x.shape[-1] >= 256 or not geometry.unit_strides
    return geometry.dilation[-1] == 1 and _is_wide(x) and y.size > (2**23 if again else 2**24)


# Formulations with their settings ------------------------------------------------------------------------------------


def merged_where_narrow_forward(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Return a grouped convolution, narrow groups merged."""
    width = _groups_at_once(geometry.groups, kernel.shape[-2])
    return merged_forward(x, kernel, geometry, xla_forward, width)


def merged_where_narrow_input_gradient(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Return a grouped convolution's gradient by its input, narrow groups merged."""
    width = _groups_at_once(geometry.groups, kernel.shape[-2])
    return merged_input_gradient(y, kernel, geometry, input_gradient, width)


def merged_where_narrow_kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """Return a grouped convolution's gradient by its kernel, narrow groups merged."""
    width = _groups_at_once(geometry.groups, x.shape[-1] // geometry.groups)
    return merged_kernel_gradient(x, y, geometry, kernel_gradient, width)


def sixteen_examples_kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """Return a kernel's gradient of 16 examples at a time, or more where that would make more than eight parts.

    To put more examples last in memory takes longer.
    """
    count = max(16, -(-x.shape[0] // 8))
    return by_examples(channels_as_positions_kernel_gradient, count, x, y, geometry)


def eight_rows_kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """Return a kernel's gradient of eight rows of the output at a time."""
    return channels_as_positions_kernel_gradient(x, y, geometry, rows=8)


# The rules -----------------------------------------------------------------------------------------------------------


RULES: dict[Kind, tuple[Rule, ...]] = {
    "forward": (
        Rule(shifts_forward, lambda x, kernel, g: _is_small_depthwise(kernel, g) and not _by_onednn(x)),
        Rule(merged_where_narrow_forward, lambda x, kernel, g: g.groups > 1 and not _by_onednn(x)),
        Rule(xla_forward, _always),
    ),
    "input_gradient": (
        Rule(shifts_input_gradient, _shifts_give_input_gradient),
        Rule(merged_where_narrow_input_gradient, lambda y, kernel, g: g.groups > 1 and not _by_onednn(y)),
        Rule(phases_input_gradient, lambda y, kernel, g: not g.unit_strides and g.dense),
        Rule(xla_input_gradient, _always),
    ),
    "kernel_gradient": (
        Rule(product_kernel_gradient, lambda x, y, g: g.pointwise),
        Rule(windows_kernel_gradient, lambda x, y, g: 1 < g.groups == x.shape[-1]),
        Rule(merged_where_narrow_kernel_gradient, lambda x, y, g: g.groups > 1),
        Rule(rows_kernel_gradient, _are_fewest_channels),
        Rule(eight_rows_kernel_gradient, _is_larger_than_caches),
        Rule(sixteen_examples_kernel_gradient, _are_few_channels),
        Rule(channels_as_positions_kernel_gradient, lambda x, y, g: g.dilation[-1] == 1),
        Rule(xla_kernel_gradient, _always),
    ),
}
"""In the order in which they are asked; the last fits always."""
