"""Gradients of convolutions as convolutions of another shape."""

import itertools
from collections.abc import Sequence

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxcnn.layers.cpu.strided_blocks import cropped
from jaxcnn.layers.geometry import Geometry, window_extent
from jaxcnn.layers.precision import zero
from jaxcnn.layers.reference import LAYOUTS, Formulation, xla_input_gradient


def channels_as_positions_kernel_gradient(x: Array, y: Array, geometry: Geometry, rows: int | None = None) -> Array:
    """Return the kernel's gradient as a convolution in which the examples are the channels, and the channels positions.

    The input's channels join its last dimension, so that position dx of the window in channel c is position
    dx * channels + c; the examples become what is summed over; y is the kernel. The result has as many positions as
    the kernel has rows, which makes the inner product of the convolution a large one. XLA's own formulation takes the
    channels for the batch, and has a few positions each. For no holes in the window's last dimension.

    Args:
        x: the input.
        y: the gradient by the output.
        geometry: of the convolution.
        rows: as many of the output's rows at a time, where all of them would not fit the caches; None: all.
    """
    dims, groups, out_rows = len(geometry.window), geometry.groups, geometry.outputs[0]
    channels = x.shape[-1] // groups
    *ends, (left, right) = geometry.exact_padding
    ends = [*ends, (left * channels, right * channels)]
    if rows is not None and rows < out_rows and dims > 1:
        x = lax.pad(x, zero(x.dtype), [(0, 0, 0), (*ends[0], 0), *[(0, 0, 0)] * dims])
        ends[0] = (0, 0)
    else:
        rows = out_rows
    x, y = jnp.moveaxis(x, 0, -1), jnp.moveaxis(y, 0, -2)  # [*sizes, channels, batch], [*outputs, batch, features]
    sizes, examples = x.shape[: dims - 1], x.shape[-1]
    x = jnp.swapaxes(x.reshape(*x.shape[:-2], groups, channels, examples), -2, -3)
    x = x.reshape(1, *sizes, -1, groups * examples)
    strides, dilation = (*geometry.dilation[:-1], 1), (*geometry.strides[:-1], geometry.strides[-1] * channels)
    parts = []
    for start in range(0, out_rows, rows):
        part = y[start : start + rows]
        seen = x
        if rows < out_rows:
            stop = (start + len(part) - 1) * geometry.strides[0] + window_extent(
                geometry.window[0], geometry.dilation[0]
            )
            seen = x[:, start * geometry.strides[0] : stop]
        found = lax.conv_general_dilated(
            seen,
            part,
            strides,
            ends,
            rhs_dilation=dilation,
            dimension_numbers=LAYOUTS[dims],
            feature_group_count=groups,
        )
        parts.append(found.reshape(*geometry.window, channels, y.shape[-1]))
    return total_of(parts)


def by_examples(formulation: Formulation, count: int, x: Array, y: Array, geometry: Geometry) -> Array:
    """Return a kernel's gradient of so many examples at a time, added up in the formulation's dtype."""
    starts = range(0, x.shape[0], count)
    return total_of([formulation(x[s : s + count], y[s : s + count], geometry) for s in starts])


def total_of(parts: Sequence[Array]) -> Array:
    """Return the sum of results of convolutions.

    XLA (jaxlib 0.12) has oneDNN add to a convolution what follows it, and ends the process where that is more than 32
    arrays: so the sum is one over an axis.
    """
    return parts[0] if len(parts) == 1 else jnp.sum(jnp.stack(parts), axis=0)


def phases_input_gradient(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Return a strided convolution's gradient by its input as interleaved gradients of unstrided ones.

    Input positions that lie at the same distance from the last window before them, a phase, meet the same taps: every
    stride-th of the kernel. XLA's own formulation puts zeros between the outputs and multiplies by them.
    For windows without holes.
    """
    # Positions count from the first padded one on, in blocks of `strides`, as many as the windows reach.
    blocks = [o + -(-w // s) - 1 for o, w, s in zip(geometry.outputs, geometry.window, geometry.strides, strict=True)]
    phases = []
    for phase in itertools.product(*map(range, geometry.strides)):
        taps = kernel[tuple(slice(p, None, s) for p, s in zip(phase, geometry.strides, strict=True))]
        window = taps.shape[:-2]
        if 0 in window:
            phases.append(jnp.zeros((y.shape[0], *blocks, kernel.shape[-2] * geometry.groups), y.dtype))
            continue
        ones = (1,) * len(window)
        # The input of an unstrided convolution with y as its output, zeros up to the common number of blocks.
        reached = tuple(o + w - 1 for o, w in zip(geometry.outputs, window, strict=True))
        where = Geometry(reached, window, ones, ((0, 0),) * len(window), ones, geometry.groups)
        part = xla_input_gradient(y, taps, where)
        ends = [(0, b - r, 0) for b, r in zip(blocks, reached, strict=True)]
        phases.append(lax.pad(part, zero(part.dtype), [(0, 0, 0), *ends, (0, 0, 0)]))
    return cropped(_interleaved(phases, geometry.strides), geometry.sizes, geometry.padding)


def _interleaved(phases: Sequence[Array], strides: Sequence[int]) -> Array:
    """Return the array whose positions are those of the phases in turn; phases are in row-major order."""
    for axis in reversed(range(len(strides))):
        stride = strides[axis]
        grouped = [phases[i : i + stride] for i in range(0, len(phases), stride)]
        phases = [jnp.stack(group, axis=axis + 2) for group in grouped]
        phases = [p.reshape(*p.shape[: axis + 1], -1, *p.shape[axis + 3 :]) for p in phases]
    return phases[0]
