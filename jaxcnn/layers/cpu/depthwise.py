"""Depthwise convolutions and their gradients, each channel for itself, as sums of shifted products."""

import functools
import itertools
import math

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxcnn.layers.cpu.strided_blocks import blocks_after, cropped, joined_blocks
from jaxcnn.layers.geometry import Geometry, window_extent
from jaxcnn.layers.precision import summed_in, wide, zero
from jaxcnn.layers.windows import taps

EXAMPLES_AT_ONCE = 8


def shifts_forward(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Return a depthwise convolution as a sum, over the taps, of the shifted input times a weight per channel."""
    multiplier = kernel.shape[-1] // geometry.groups
    total: Array | float = 0.0
    for tap, seen in taps(x, geometry):
        seen = jnp.repeat(seen, multiplier, axis=-1) if multiplier > 1 else seen
        total = total + wide(seen) * wide(kernel[tap][0])
    return jnp.asarray(total).astype(x.dtype)


def shifts_input_gradient(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Return a depthwise convolution's gradient by its input as a sum of shifted y times weights.

    Input positions lie in blocks of `strides`, counted from the first padded one: position p of a block meets tap
    strides * d + p of the window that began d blocks before. For windows without holes where it is strided, and one
    feature per channel.
    """
    if geometry.unit_strides:
        flipped = jnp.flip(kernel, tuple(range(len(geometry.window))))
        edges = tuple(
            (window_extent(w, d) - 1 - lo, size + lo - o)
            for size, w, (lo, _), d, o in zip(
                geometry.sizes, geometry.window, geometry.padding, geometry.dilation, geometry.outputs, strict=True
            )
        )
        return shifts_forward(y, flipped, geometry._replace(sizes=geometry.outputs, padding=edges))
    strides = geometry.strides
    reach = [-(-w // s) for w, s in zip(geometry.window, strides, strict=True)]
    ends = [(0, n * s - w, 0) for n, s, w in zip(reach, strides, geometry.window, strict=True)]
    taps = lax.pad(kernel[..., 0, :], zero(kernel.dtype), [*ends, (0, 0, 0)])
    taps = taps.reshape(*[size for pair in zip(reach, strides, strict=True) for size in pair], -1)
    total = jnp.zeros((), summed_in(y.dtype))
    for before in itertools.product(*map(range, reach)):
        given = blocks_after(y, before, reach, zero(y.dtype))
        weights = taps[tuple(i for d in before for i in (d, slice(None)))]  # [*strides, channels]
        weights = weights.reshape(*[size for s in strides for size in (1, s)], -1)
        total = total + wide(given) * wide(weights)
    return cropped(joined_blocks(total.astype(y.dtype)), geometry.sizes, geometry.padding)


def windows_kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """Return a depthwise convolution's gradient by its kernel: sums over positions of windows of x times y.

    The windows of a few examples are gathered, multiplied by their y and added up in one pass, [positions, taps,
    channels], where neighbours find each other in the caches; one sum over the positions follows. A pass for each tap
    takes three times as long.
    """
    batch, channels, groups = x.shape[0], y.shape[-1], geometry.groups
    seen = _seen_by_taps(geometry)
    x, y = x.reshape(batch, -1, groups, 1), y.reshape(batch, -1, 1, groups, channels // groups)
    total = jnp.zeros((seen.shape[1], groups, channels // groups), summed_in(x.dtype))
    for start in range(0, batch, EXAMPLES_AT_ONCE):
        x, y, total = lax.optimization_barrier((x, y, total))  # one part after the other
        part = range(start, min(start + EXAMPLES_AT_ONCE, batch))
        windows = [x[b].at[seen].get(mode="fill", fill_value=0) for b in part]
        products = functools.reduce(jnp.add, [wide(w) * wide(y[b]) for w, b in zip(windows, part, strict=True)])
        total = total + jnp.sum(lax.optimization_barrier(products), axis=0)
    return total.reshape(*geometry.window, 1, channels).astype(x.dtype)


def _seen_by_taps(geometry: Geometry) -> Array:
    """Return which input position each output position sees by each tap, counted over all dimensions: [outputs, taps].

    One that there is not stands for padding.
    """
    dims, positions, inside = len(geometry.window), jnp.zeros((), jnp.int32), jnp.ones((), bool)
    where = zip(geometry.sizes, *geometry[1:5], geometry.outputs, strict=True)
    for axis, (size, window, stride, (lo, _), dilation, outputs) in enumerate(where):
        seen = np.arange(outputs)[:, None] * stride + np.arange(window) * dilation - lo
        seen = np.expand_dims(seen, tuple(a for a in range(2 * dims) if a not in (axis, dims + axis)))
        positions = positions * size + jnp.asarray(seen, jnp.int32)
        inside = inside & jnp.asarray((seen >= 0) & (seen < size))
    beyond = math.prod(geometry.sizes)
    return jnp.where(inside, positions, beyond).reshape(math.prod(geometry.outputs), math.prod(geometry.window))
