"""Max pooling whose gradient is fast on the CPU, and adds in one order on GPUs; else it is XLA's `reduce_window`.

XLA's gradient is a select-and-scatter. Its CPU compiler makes that of a scatter with four index arrays, its GPU
compiler of one that adds where windows overlap in whatever order its threads come. Here the place of each window's
maximum is one small integer, and every input position looks at the windows that it lies in.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching
from jaxtyping import Array, Num

from jaxcnn.layers.cpu.primitives import platform_primitive
from jaxcnn.layers.cpu.strided_blocks import blocks_after, cropped, joined_blocks
from jaxcnn.layers.geometry import Edges
from jaxcnn.layers.windows import window_slices


class Windows(NamedTuple):
    """Where the windows of a pooling lie, per spatial dimension."""

    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[Edges, ...]


def max_of_windows(x: Num[Array, "batch *sizes channels"], windows: Windows) -> Num[Array, "batch *out_sizes channels"]:
    """Return the largest value of each window; padding is never the largest.

    Where several are equal, the gradient goes to the first of them, in row-major order.
    """
    return _max.bind(x, windows=windows)


# By XLA --------------------------------------------------------------------------------------------------------------


def xla_max(x: Array, windows: Windows) -> Array:
    """Return what `max_of_windows` does, by XLA's `reduce_window`."""
    window, strides, padding = windows
    return lax.reduce_window(
        x, _lowest(x.dtype), lax.max, (1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0))
    )


def _xla_picked(dx: Array, x: Array, windows: Windows) -> Array:
    return jax.jvp(functools.partial(xla_max, windows=windows), (x,), (dx,))[1]


def _xla_placed(dy: Array, x: Array, windows: Windows) -> Array:
    return jax.vjp(functools.partial(xla_max, windows=windows), x)[1](dy)[0]


def _lowest(dtype: np.dtype) -> np.ndarray:
    """Return the value that is never a maximum; lax knows the gradient of its max only for this one."""
    return np.array(-np.inf if jnp.issubdtype(dtype, jnp.floating) else jnp.iinfo(dtype).min, dtype)


# By comparing --------------------------------------------------------------------------------------------------------


def _seen(x: Array, windows: Windows, beyond: np.ndarray) -> Iterator[Array]:
    """Yield what each tap of the window sees, in row-major order."""
    x = lax.pad(x, beyond, [(0, 0, 0), *[(lo, hi, 0) for lo, hi in windows.padding], (0, 0, 0)])
    outputs = [(size - w) // s + 1 for size, w, s in zip(x.shape[1:-1], *windows[:2], strict=True)]
    return window_slices(x, windows.window, windows.strides, (1,) * len(outputs), outputs)


def _cpu_max(x: Array, windows: Windows) -> Array:
    return functools.reduce(jnp.maximum, _seen(x, windows, _lowest(x.dtype)))


def _first_largest(x: Array, windows: Windows) -> Array:
    """Return the tap at which each window's largest value lies, the first of equal ones."""
    taps = list(_seen(x, windows, _lowest(x.dtype)))
    largest = functools.reduce(jnp.maximum, taps)
    dtype = np.int8 if len(taps) <= 127 else np.int32
    index = jnp.full(largest.shape, len(taps) - 1, dtype)
    for tap in reversed(range(len(taps) - 1)):  # "Not less": where the largest is NaN, one of them gets the gradient.
        index = jnp.where(taps[tap] < largest, index, dtype(tap))
    return lax.optimization_barrier(index)


def _cpu_picked(dx: Array, x: Array, windows: Windows) -> Array:
    index = _first_largest(x, windows)
    taps = _seen(dx, windows, np.zeros((), dx.dtype))
    return functools.reduce(
        lambda found, tap: jnp.where(index == tap[0], tap[1], found), enumerate(taps), jnp.zeros(index.shape, dx.dtype)
    )


def _looked_up(dy: Array, x: Array, windows: Windows) -> Array:
    """Return, for each input position, the sum of dy over the windows whose largest value it is.

    Positions count from the first padded one on, in blocks of `strides`. A window begins at the beginning of a block
    and reaches into the next few: position p of block b is tap strides * d + p of the window d blocks before.
    """
    index = _first_largest(x, windows)
    reach = [-(-w // s) for w, s in zip(*windows[:2], strict=True)]
    total = jnp.zeros((), dy.dtype)
    for before in itertools.product(*map(range, reach)):
        # [batch, blocks, 1, blocks, 1, channels] against [strides, 1, strides, 1] and so on.
        largest = blocks_after(index, before, reach, index.dtype.type(-1))
        given = blocks_after(dy, before, reach, np.zeros((), dy.dtype))
        taps = _taps_of_block(windows, before).astype(index.dtype)
        taps = taps.reshape(*[size for s in windows.strides for size in (s, 1)])
        total = total + jnp.where(largest == taps, given, jnp.zeros((), dy.dtype))
    return cropped(joined_blocks(total), x.shape[1:-1], windows.padding)


def _taps_of_block(windows: Windows, before: tuple[int, ...]) -> np.ndarray:
    """Return which tap of the window `before` blocks earlier each position of a block is; -2: none."""
    taps = np.full(windows.strides, -2)
    for position in np.ndindex(*windows.strides):
        tap = [s * d + p for s, d, p in zip(windows.strides, before, position, strict=True)]
        if all(t < w for t, w in zip(tap, windows.window, strict=True)):
            taps[position] = np.ravel_multi_index(tap, windows.window)
    return taps


# The primitives ------------------------------------------------------------------------------------------------------


def _batched(primitive: Primitive, operands, axes, *, windows: Windows):
    """Map a primitive over an axis, which joins the batch of all operands."""
    (count,) = {x.shape[axis] for x, axis in zip(operands, axes, strict=True) if axis is not None}
    operands = [batching.bdim_at_front(x, axis, count) for x, axis in zip(operands, axes, strict=True)]
    out = primitive.bind(*(x.reshape(-1, *x.shape[2:]) for x in operands), windows=windows)
    return out.reshape(count, -1, *out.shape[1:]), 0


_max = platform_primitive("max_pool", xla_max, _cpu_max, _batched)
# The derivative, linear in the first operand: what lay at the places of the maxima, and its transpose.
_picked = platform_primitive("max_pool_picked", _xla_picked, _cpu_picked, _batched)
_placed = platform_primitive("max_pool_placed", _xla_placed, _looked_up, _batched, ("cpu", "cuda", "rocm"))


def _max_jvp(primals: tuple, tangents: tuple, *, windows: Windows):
    (x,), (dx,) = primals, tangents
    return _max.bind(x, windows=windows), _picked.bind(ad.instantiate_zeros(dx), x, windows=windows)


def _linear(primitive: Primitive, transpose: Primitive) -> None:
    """Let `primitive` be linear in its first operand; by the second its derivative is zero."""

    def jvp(primals: tuple, tangents: tuple, *, windows: Windows):
        _, x = primals
        return primitive.bind(*primals, windows=windows), primitive.bind(
            ad.instantiate_zeros(tangents[0]), x, windows=windows
        )

    ad.primitive_jvps[primitive] = jvp
    ad.primitive_transposes[primitive] = lambda y, _, x, *, windows: [
        transpose.bind(ad.instantiate_zeros(y), x, windows=windows),
        None,
    ]


ad.primitive_jvps[_max] = _max_jvp
_linear(_picked, _placed)
_linear(_placed, _picked)
