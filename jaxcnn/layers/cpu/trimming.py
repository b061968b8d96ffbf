"""Formulations without what meets padding alone."""

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array

from jaxcnn.layers.geometry import Edges, Geometry, outputs_seeing, window_extent
from jaxcnn.layers.precision import zero
from jaxcnn.layers.reference import Formulation

Role = Literal["sizes", "window", "outputs"]
"""Which positions an array has, as `Geometry` calls them."""


def trimmed(formulation: Formulation, operands: tuple[Role, Role], result: Role) -> Formulation:
    """Return the formulation, applied to those parts of its operands that meet anything but padding.

    A window's outermost taps see nothing else where they are farther apart than the input is wide, nor do the outermost
    outputs where the padding is wider than the window. Multiplying by zeros is for nothing, and oneDNN's convolution
    (in jaxlib 0.12) does not bear it: first or last outputs of the last dimension that see none but padding end the
    process, on five threads or more (those between others do not), and a stride of 3 in a last dimension with one
    output reads memory that was never written.
    """

    def of_what_meets(a: Array, b: Array, geometry: Geometry) -> Array:
        inputs, taps, outputs, strides, padding, dilation = zip(
            *map(_meeting, *geometry[:5], geometry.outputs), strict=True
        )
        part = Geometry(tuple(map(len, inputs)), tuple(map(len, taps)), strides, padding, dilation, geometry.groups)
        if part == geometry:
            return formulation(a, b, geometry)
        out = jax.eval_shape(lambda a, b: formulation(a, b, geometry), a, b)
        if not all(outputs):
            return jnp.zeros_like(out)
        kept: dict[Role, tuple[range, ...]] = {"sizes": inputs, "window": taps, "outputs": outputs}
        a, b = (lax.slice(x, *_limits(x, kept[role], role)) for x, role in zip((a, b), operands, strict=True))
        x = formulation(a, b, part)
        starts, stops = _limits(out, kept[result], result)
        ends = [(start, size - stop, 0) for start, size, stop in zip(starts, out.shape, stops, strict=True)]
        return lax.pad(x, zero(x.dtype), ends)

    return of_what_meets


def _meeting(
    size: int, window: int, stride: int, padding: Edges, dilation: int, outputs: int
) -> tuple[range, range, range, int, Edges, int]:
    """Return the input positions, taps and outputs of one dimension, from the first to the last that meet.

    And the stride, padding and dilation of what happens between them. Where all taps and outputs meet some input, no
    position is cut off that a stride alone skips: the formulations do without the copy.
    """
    lo, hi = padding
    seeing = {}  # tap -> the outputs that see an input position by it
    for tap in range(window):
        if found := outputs_seeing(tap * dilation - lo, size, stride, outputs):
            seeing[tap] = found
    if not seeing:
        return range(0), range(0), range(0), 1, (0, 0), 1
    taps = range(min(seeing), max(seeing) + 1)
    outs = range(min(found.start for found in seeing.values()), max(found.stop for found in seeing.values()))
    ends = [o * stride + tap * dilation - lo for tap, found in seeing.items() for o in (found[0], found[-1])]
    seen = range(min(ends), max(ends) + 1)
    if len(outs) == outputs > 1 and len(taps) == window and (stride > 1 or len(seen) == size) and hi >= 0:
        return range(size), taps, outs, stride, padding, dilation if window > 1 else 1
    lo += seen.start - outs.start * stride - taps.start * dilation
    stride, dilation = stride if len(outs) > 1 else 1, dilation if len(taps) > 1 else 1
    hi = (len(outs) - 1) * stride + window_extent(len(taps), dilation) - len(seen) - lo
    return seen, taps, outs, stride, (lo, hi), dilation


def _limits(x: Array, positions: Sequence[range], role: Role) -> tuple[list[int], list[int]]:
    """Return where the positions start and stop, on all axes of x."""
    first = 0 if role == "window" else 1
    starts, stops = [0] * x.ndim, list(x.shape)
    for axis, found in enumerate(positions, first):
        starts[axis], stops[axis] = found.start, found.stop
    return starts, stops
