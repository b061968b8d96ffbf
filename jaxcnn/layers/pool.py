"""Pooling: pure functions over [batch, *sizes, channels] in 1, 2 or 3 spatial dimensions.

`window`, `strides` and `padding` are an int for all dimensions or one value per dimension; `strides` defaults
to the window; `padding` may also be (lo, hi) pairs, "SAME" or "VALID", and is smaller than the window. With
`ceil_mode` (as in Caffe and torch) a last window may hang over the end if it starts inside the input or the
padding before it.
"""

import functools
import operator
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Num

from jaxcnn.errors import UsageError
from jaxcnn.layers.cpu.lowering import materialised
from jaxcnn.layers.cpu.max_pooling import Windows, max_of_windows
from jaxcnn.layers.geometry import Edges, Padding, output_size, per_dimension, resolve_padding
from jaxcnn.layers.windows import window_slices

Ints = int | Sequence[int]


class _Windows(NamedTuple):
    """Where the windows of a pooling lie, per spatial dimension."""

    sizes: tuple[int, ...]
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[Edges, ...]
    outputs: tuple[int, ...]

    @property
    def reach(self) -> tuple[Edges, ...]:
        """The padding with what the last windows of ceil mode need beyond it."""
        return tuple(
            (lo, max(hi, (out - 1) * s + w - size - lo)) for size, w, s, (lo, hi), out in zip(*self, strict=True)
        )

    @property
    def reduce_window_args(self) -> tuple:
        """Window, strides and padding as lax.reduce_window takes them, batch and channels included."""
        return (1, *self.window, 1), (1, *self.strides, 1), ((0, 0), *self.reach, (0, 0))


def _windows(x: Array, window: Ints, strides: Ints | None, padding: Padding, ceil_mode: bool) -> _Windows:
    """Check the arguments of a pooling and return where its windows lie."""
    dims = x.ndim - 2
    if dims not in (1, 2, 3):
        raise UsageError(f"pooling expects input [batch, 1 to 3 sizes, channels], got shape {x.shape}")
    sizes = x.shape[1:-1]
    window = per_dimension("window", window, dims)
    strides = window if strides is None else per_dimension("strides", strides, dims)
    if padding == "CAUSAL":
        raise UsageError("padding='CAUSAL' is for convolutions: pooling takes ints, (lo, hi) pairs, 'SAME' or 'VALID'")
    edges = resolve_padding(padding, sizes, window, strides, (1,) * dims)
    if any(max(edge) >= w for edge, w in zip(edges, window, strict=True)):
        raise UsageError(f"padding={padding!r} must be smaller than the pooling window {window}")
    outputs = tuple(
        output_size(size, w, s, edge, ceil_mode=ceil_mode)
        for size, w, s, edge in zip(sizes, window, strides, edges, strict=True)
    )
    return _Windows(sizes, window, strides, edges, outputs)


def max_pool(
    x: Num[Array, "batch *sizes channels"],
    window: Ints,
    strides: Ints | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
) -> Num[Array, "batch *out_sizes channels"]:
    """Return the largest value of each window; padding is never the largest. Integers are fine.

    Raises:
        UsageError: for a wrong rank, bad padding, or an input smaller than the window (as all poolings here).
    """
    where = _windows(x, window, strides, padding, ceil_mode)
    return max_of_windows(x, Windows(where.window, where.strides, where.reach))


def sum_pool(
    x: Num[Array, "batch *sizes channels"],
    window: Ints,
    strides: Ints | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
) -> Num[Array, "batch *out_sizes channels"]:
    """Return the sum of each window (LeNet-5's subsampling before its coefficient)."""
    where = _windows(x, window, strides, padding, ceil_mode)
    return _window_sums(x, where).astype(x.dtype)


def _window_sums(x: Array, where: _Windows) -> Array:
    """Return the sums of the windows; half-precision floats are added up in float32."""
    wide = x.astype(jnp.float32) if x.dtype in (jnp.bfloat16, jnp.float16) else x
    return lax.reduce_window(wide, np.zeros((), wide.dtype), lax.add, *where.reduce_window_args)


def avg_pool(
    x: Float[Array, "batch *sizes channels"],
    window: Ints,
    strides: Ints | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Float[Array, "batch *out_sizes channels"]:
    """Return the mean of each window.

    The divisor counts the padding (torch, Caffe) or, with `count_include_pad=False` (TensorFlow), only input.
    What a window of ceil mode reaches beyond the padding is never counted.
    """
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise UsageError(f"average pooling expects floats, got {x.dtype}")
    where = _windows(x, window, strides, padding, ceil_mode)
    sums = _window_sums(materialised(x), where)  # of which XLA's CPU compiler makes one operation with a convolution
    return (sums / jnp.asarray(_counts(where, count_include_pad), sums.dtype)).astype(x.dtype)


def _counts(where: _Windows, include_padding: bool) -> np.ndarray:
    """Return how many positions each window averages over: [*outputs, 1]."""
    counts = np.ones(())
    for size, window, stride, (lo, hi), outputs in zip(*where, strict=True):
        start = np.arange(outputs) * stride - lo
        stop = np.minimum(start + window, size + hi if include_padding else size)
        start = start if include_padding else np.maximum(start, 0)
        counts = counts[..., None] * (stop - start)
    return counts[..., None]


def prod_pool(
    x: Num[Array, "batch *sizes channels"],
    window: Ints,
    strides: Ints | None = None,
    padding: Padding = 0,
    ceil_mode: bool = False,
) -> Num[Array, "batch *out_sizes channels"]:
    """Return the product of each window; padding counts as 1. The gradient is right at zeros too."""
    where = _windows(x, window, strides, padding, ceil_mode)
    padded = jnp.pad(x, ((0, 0), *where.reach, (0, 0)), constant_values=1)
    taps = window_slices(padded, where.window, where.strides, (1,) * len(where.sizes), where.outputs)
    return functools.reduce(operator.mul, taps)


def global_avg_pool(x: Float[Array, "batch *sizes channels"]) -> Float[Array, "batch channels"]:
    """Return each channel's mean over all positions."""
    return jnp.mean(x, axis=tuple(range(1, x.ndim - 1)))


def global_max_pool(x: Num[Array, "batch *sizes channels"]) -> Num[Array, "batch channels"]:
    """Return each channel's maximum over all positions."""
    return jnp.max(x, axis=tuple(range(1, x.ndim - 1)))


def adaptive_avg_pool(
    x: Float[Array, "batch *sizes channels"], output_size: Ints
) -> Float[Array, "batch *out_sizes channels"]:
    """Return the means of `output_size` bins per dimension, bin i from floor(i in/out) to ceil((i+1) in/out).

    As in torch, bins overlap where the output does not divide the input, and repeat where it is larger.
    """
    return _adaptive(x, output_size, jnp.mean)


def adaptive_max_pool(
    x: Num[Array, "batch *sizes channels"], output_size: Ints
) -> Num[Array, "batch *out_sizes channels"]:
    """Return the maxima of `output_size` bins per dimension, as `adaptive_avg_pool`."""
    return _adaptive(x, output_size, jnp.max)


def _adaptive(x: Array, output_size: Ints, reduce: Callable) -> Array:
    """Reduce one dimension after the other: bins are boxes, and means of equal bins and maxima separate."""
    dims = x.ndim - 2
    for axis, outputs in enumerate(per_dimension("output_size", output_size, dims), start=1):
        size = x.shape[axis]
        bins = [(i * size // outputs, -(-(i + 1) * size // outputs)) for i in range(outputs)]
        slices = [reduce(lax.slice_in_dim(x, lo, hi, axis=axis), axis=axis) for lo, hi in bins]
        x = jnp.stack(slices, axis=axis)
    return x
