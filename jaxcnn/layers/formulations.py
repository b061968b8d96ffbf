"""Ways to compute a convolution and its two gradients, as pure functions; `lowering.py` picks among them.

A convolution is bilinear in input and kernel, so its two gradients are the two transposes:

    forward(x, kernel) -> y          [batch, *sizes, channels], [*window, channels / groups, features] -> y
    input_gradient(y, kernel) -> x   the transpose by the input
    kernel_gradient(x, y) -> kernel  the transpose by the kernel

All functions of one kind compute the same; they differ in what the compiler makes of them. Each takes the `Geometry`
last. Half-precision products are summed in float32.
"""

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxcnn.layers.geometry import Edges, window_extent

LAYOUTS = {1: ("NWC", "WIO", "NWC"), 2: ("NHWC", "HWIO", "NHWC"), 3: ("NDHWC", "DHWIO", "NDHWC")}


class Geometry(NamedTuple):
    """What a convolution does to positions, per spatial dimension, and how its channels are split."""

    sizes: tuple[int, ...]
    """Of the input."""
    window: tuple[int, ...]
    strides: tuple[int, ...]
    padding: tuple[Edges, ...]
    dilation: tuple[int, ...]
    groups: int

    @property
    def outputs(self) -> tuple[int, ...]:
        """Sizes of the output."""
        return tuple(
            (size + lo + hi - window_extent(w, d)) // s + 1 for size, w, s, (lo, hi), d in zip(*self[:5], strict=True)
        )

    @property
    def pointwise(self) -> bool:
        """Whether each output position sees one input position, and all its channels."""
        return self.groups == 1 and math.prod(self.window) == 1 and not any(map(any, self.padding))

    @property
    def tiles(self) -> bool:
        """Whether the windows lie side by side, and see all channels."""
        return self.groups == 1 and self.window == self.strides and self.dense and not any(map(any, self.padding))

    @property
    def dense(self) -> bool:
        """Whether the window has no holes."""
        return all(d == 1 for d in self.dilation)

    @property
    def unit_strides(self) -> bool:
        """Whether the window moves by one."""
        return all(s == 1 for s in self.strides)


Formulation = Callable[[Array, Array, Geometry], Array]
Role = Literal["sizes", "window", "outputs"]
"""Which positions an array has, as `Geometry` calls them."""


# XLA's convolution ---------------------------------------------------------------------------------------------------


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


# Matrix products -----------------------------------------------------------------------------------------------------


def product_input_gradient(y: Array, kernel: Array, geometry: Geometry) -> Array:
    """Return a pointwise convolution's gradient by its input: one product, then zeros at the skipped positions."""
    x = _dot(y, kernel.reshape(kernel.shape[-2:]), ((y.ndim - 1,), (1,)))
    ends = [
        (0, size - (out - 1) * s - 1, s - 1)
        for size, out, s in zip(geometry.sizes, geometry.outputs, geometry.strides, strict=True)
    ]
    return x if geometry.unit_strides else lax.pad(x, _zero(x.dtype), [(0, 0, 0), *ends, (0, 0, 0)])


def product_kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """Return a pointwise convolution's gradient by its kernel as one matrix product over all positions."""
    x = _strided(x, geometry)
    # The compiler transposes the first of the two before it multiplies: the smaller.
    swapped = x.shape[-1] > y.shape[-1]
    a, b = (y, x) if swapped else (x, y)
    # One of few rows and very long ones is faster in parts, side by side.
    parts = math.gcd(a.shape[0], 4) if a.shape[-1] <= 128 else 1
    a, b = (operand.reshape(parts, -1, operand.shape[-1]) for operand in (a, b))
    kernel = jnp.sum(_wide_dot(a, b, ((1,), (1,)), batch=(0,)), axis=0)
    kernel = kernel.T if swapped else kernel
    return kernel.reshape(*geometry.window, *kernel.shape).astype(x.dtype)


def patches_kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """Return the kernel's gradient as one product, where the windows lie side by side: each position is in one."""
    dims, channels = len(geometry.window), x.shape[-1]
    covered = [
        (0, o * s - size, 0) for o, s, size in zip(geometry.outputs, geometry.strides, geometry.sizes, strict=True)
    ]
    x = lax.pad(x, _zero(x.dtype), [(0, 0, 0), *covered, (0, 0, 0)])
    x = x.reshape(
        x.shape[0], *[n for pair in zip(geometry.outputs, geometry.window, strict=True) for n in pair], channels
    )
    positions = (0, *range(1, 2 * dims, 2))
    return _dot(x, y, (positions, tuple(range(dims + 1))))


def rows_kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """Return the kernel's gradient from one product of whole rows of x and y, of which it is the sums of diagonals.

    The product meets every column of a row with every other, and most of them for nothing: worth it for the fewest
    channels, whose convolutions are too small to fill a vector. In 2 dimensions, of unit stride, without holes.
    """
    (height, width), (_, out_width), channels, features = geometry.window, geometry.outputs, x.shape[-1], y.shape[-1]
    x = lax.pad(x, _zero(x.dtype), [(0, 0, 0), *[(lo, hi, 0) for lo, hi in geometry.padding], (0, 0, 0)])
    columns = x.shape[2]
    x, y = x.reshape(*x.shape[:2], -1), y.reshape(*y.shape[:2], -1)
    seen = jnp.concatenate([x[:, t : t + y.shape[1]] for t in range(height)], axis=-1)
    product = _dot(seen, y, ((0, 1), (0, 1))).reshape(height, columns, channels, out_width, features)
    # In rows that are one longer than they are, column w + dx of row w is column dx of all.
    product = jnp.moveaxis(product, 3, 1).reshape(height, out_width * columns, channels, features)
    product = jnp.pad(product, ((0, 0), (0, out_width), (0, 0), (0, 0)))
    product = product.reshape(height, out_width, columns + 1, channels, features)
    return jnp.sum(product[:, :, :width], axis=1)


# Convolutions of another shape ---------------------------------------------------------------------------------------


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
    *ends, (left, right) = _exact_padding(geometry)
    ends = [*ends, (left * channels, right * channels)]
    if rows is not None and rows < out_rows and dims > 1:
        x = lax.pad(x, _zero(x.dtype), [(0, 0, 0), (*ends[0], 0), *[(0, 0, 0)] * dims])
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
    return _total(parts)


def by_examples(formulation: Formulation, count: int, x: Array, y: Array, geometry: Geometry) -> Array:
    """Return a kernel's gradient of so many examples at a time, added up in the formulation's dtype."""
    starts = range(0, x.shape[0], count)
    return _total([formulation(x[s : s + count], y[s : s + count], geometry) for s in starts])


def _total(parts: Sequence[Array]) -> Array:
    """Return the sum of results of convolutions.

    XLA (jaxlib 0.12) has oneDNN add to a convolution what follows it, and ends the process where that is more than 32
    arrays: so the sum is one over an axis.
    """
    return parts[0] if len(parts) == 1 else jnp.sum(jnp.stack(parts), axis=0)


def columns_kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """Return the kernel's gradient as one product with the matrix of all windows (im2col), for one group.

    A convolution with the identity gathers the windows, for the fewest channels faster than copies would.
    """
    columns = lax.conv_general_dilated_patches(
        x,
        geometry.window,
        geometry.strides,
        geometry.padding,
        rhs_dilation=geometry.dilation,
        dimension_numbers=LAYOUTS[len(geometry.window)],
    )
    columns = lax.optimization_barrier(columns)
    columns, y = columns.reshape(-1, columns.shape[-1]), y.reshape(-1, y.shape[-1])
    kernel = _dot(columns, y, ((0,), (0,))).reshape(x.shape[-1], *geometry.window, -1)
    return jnp.moveaxis(kernel, 0, -2)


def channels_as_dimension_kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """Return the kernel's gradient as above, with the channels in one more spatial dimension, of window 1.

    For windows with holes, in 1 or 2 dimensions and one group.
    """
    dims = len(geometry.window)
    x = jnp.moveaxis(x, 0, -1)[None]  # [1, *sizes, channels, batch]
    y = jnp.expand_dims(jnp.moveaxis(y, 0, -2), -3)  # [*outputs, 1, batch, features]
    kernel = lax.conv_general_dilated(
        x,
        y,
        (*geometry.dilation, 1),
        (*_exact_padding(geometry), (0, 0)),
        rhs_dilation=(*geometry.strides, 1),
        dimension_numbers=LAYOUTS[dims + 1],
    )
    return kernel[0]


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
        phases.append(lax.pad(part, _zero(part.dtype), [(0, 0, 0), *ends, (0, 0, 0)]))
    return cropped(_interleaved(phases, geometry.strides), geometry.sizes, geometry.padding)


def _interleaved(phases: Sequence[Array], strides: Sequence[int]) -> Array:
    """Return the array whose positions are those of the phases in turn; phases are in row-major order."""
    for axis in reversed(range(len(strides))):
        stride = strides[axis]
        grouped = [phases[i : i + stride] for i in range(0, len(phases), stride)]
        phases = [jnp.stack(group, axis=axis + 2) for group in grouped]
        phases = [p.reshape(*p.shape[: axis + 1], -1, *p.shape[axis + 3 :]) for p in phases]
    return phases[0]


# Each channel for itself ---------------------------------------------------------------------------------------------


def shifts_forward(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Return a depthwise convolution as a sum, over the taps, of the shifted input times a weight per channel."""
    multiplier = kernel.shape[-1] // geometry.groups
    total: Array | float = 0.0
    for tap, seen in _taps(x, geometry):
        seen = jnp.repeat(seen, multiplier, axis=-1) if multiplier > 1 else seen
        total = total + _wide(seen) * _wide(kernel[tap][0])
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
    taps = lax.pad(kernel[..., 0, :], _zero(kernel.dtype), [*ends, (0, 0, 0)])
    taps = taps.reshape(*[size for pair in zip(reach, strides, strict=True) for size in pair], -1)
    total = jnp.zeros((), _summed_in(y.dtype))
    for before in itertools.product(*map(range, reach)):
        given = blocks_after(y, before, reach, _zero(y.dtype))
        weights = taps[tuple(i for d in before for i in (d, slice(None)))]  # [*strides, channels]
        weights = weights.reshape(*[size for s in strides for size in (1, s)], -1)
        total = total + _wide(given) * _wide(weights)
    return cropped(joined_blocks(total.astype(y.dtype)), geometry.sizes, geometry.padding)


def shifts_kernel_gradient(x: Array, y: Array, geometry: Geometry) -> Array:
    """Return a depthwise convolution's gradient by its kernel: per tap, the sum of shifted x times y.

    Of eight examples at a time, one after the other, so that all taps find them in the caches. They are added up
    position by position, which the compiler does in one pass; it would write products that are summed at once to
    memory.
    """
    total = jnp.zeros((*geometry.window, 1, y.shape[-1]), _summed_in(x.dtype))
    for start in range(0, x.shape[0], 8):
        seen, given, total = lax.optimization_barrier((x[start : start + 8], y[start : start + 8], total))
        total = total + _shifts_kernel_gradient_of_few(seen, given, geometry)
    return total.astype(x.dtype)


def _shifts_kernel_gradient_of_few(x: Array, y: Array, geometry: Geometry) -> Array:
    multiplier = y.shape[-1] // geometry.groups
    sums = []
    for tap in itertools.product(*map(range, geometry.window)):
        seen, given = _met_by(tap, x, y, geometry)  # not of padded x, which would first be written to memory
        seen = jnp.repeat(seen, multiplier, axis=-1) if multiplier > 1 else seen
        products = functools.reduce(jnp.add, [_wide(a) * _wide(b) for a, b in zip(seen, given, strict=True)])
        sums.append(jnp.sum(lax.optimization_barrier(products), axis=tuple(range(products.ndim - 1))))
    return jnp.stack(sums).reshape(*geometry.window, 1, -1)


def _met_by(tap: Sequence[int], x: Array, y: Array, geometry: Geometry) -> tuple[Array, Array]:
    """Return the input positions that the outputs see by a tap, where it is not padding, and those outputs."""
    starts, stops, outputs = [], [], []
    for t, size, s, (lo, _), d, o in zip(tap, geometry.sizes, *geometry[2:5], geometry.outputs, strict=True):
        found = _seeing(t * d - lo, size, s, o)
        starts.append(t * d - lo + found.start * s)
        stops.append(starts[-1] + max(0, (len(found) - 1) * s + 1))
        outputs.append(slice(found.start, found.stop))
    seen = x[(slice(None), *map(slice, starts, stops, geometry.strides))]
    return seen, y[(slice(None), *outputs)]


# Several groups as one -----------------------------------------------------------------------------------------------


def merged_forward(x: Array, kernel: Array, geometry: Geometry, dense: Formulation, width: int) -> Array:
    """Return a grouped convolution as dense ones over `width` groups at a time, whose kernels are block-diagonal."""
    blocks = _merged_kernels(kernel, geometry.groups, width)
    xs = jnp.split(x, geometry.groups // width, axis=-1)
    one = geometry._replace(groups=1)
    return jnp.concatenate([dense(x, block, one) for x, block in zip(xs, blocks, strict=True)], axis=-1)


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


# im2col --------------------------------------------------------------------------------------------------------------


def im2col_forward(x: Array, kernel: Array, geometry: Geometry) -> Array:
    """Return the convolution as one product with the matrix of all windows (Chellapilla et al. 2006).

    The windows take as many times the memory of the input as a window has taps, over the strides.
    """
    groups, channels = geometry.groups, x.shape[-1]
    columns = jnp.stack([seen for _, seen in _taps(x, geometry)], axis=-2)  # [batch, *outputs, taps, channels]
    if groups == 1:
        columns = columns.reshape(*columns.shape[:-2], -1)
        return _dot(columns, kernel.reshape(-1, kernel.shape[-1]), ((columns.ndim - 1,), (0,)))
    columns = columns.reshape(*columns.shape[:-1], groups, channels // groups)
    kernel = kernel.reshape(-1, channels // groups, groups, kernel.shape[-1] // groups)
    found = jnp.einsum("...tgc,tcgf->...gf", _wide(columns), _wide(kernel))
    return found.reshape(*found.shape[:-2], -1).astype(x.dtype)


# Without what meets padding alone ------------------------------------------------------------------------------------


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
        return lax.pad(x, _zero(x.dtype), ends)

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
        if found := _seeing(tap * dilation - lo, size, stride, outputs):
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


def _seeing(first: int, size: int, stride: int, outputs: int) -> range:
    """Return which outputs see one of `size` input positions by the tap by which output 0 sees position `first`."""
    start = max(0, -(first // stride))
    return range(start, max(start, min(outputs, -((first - size) // stride))))


def _limits(x: Array, positions: Sequence[range], role: Role) -> tuple[list[int], list[int]]:
    """Return where the positions start and stop, on all axes of x."""
    first = 0 if role == "window" else 1
    starts, stops = [0] * x.ndim, list(x.shape)
    for axis, found in enumerate(positions, first):
        starts[axis], stops[axis] = found.start, found.stop
    return starts, stops


# Parts ---------------------------------------------------------------------------------------------------------------


def _exact_padding(geometry: Geometry) -> list[Edges]:
    """Return the padding up to the end of the last window, which may be less than the padding given, or negative."""
    return [
        (lo, (o - 1) * s + window_extent(w, d) - size - lo)
        for size, w, s, (lo, _), d, o in zip(*geometry[:5], geometry.outputs, strict=True)
    ]


def _taps(x: Array, geometry: Geometry) -> Iterator[tuple[tuple[int, ...], Array]]:
    """Yield each tap of the window in row-major order, with what it sees."""
    padded = lax.pad(x, _zero(x.dtype), [(0, 0, 0), *[(lo, hi, 0) for lo, hi in geometry.padding], (0, 0, 0)])
    taps = itertools.product(*map(range, geometry.window))
    seen = window_slices(padded, geometry.window, geometry.strides, geometry.dilation, geometry.outputs)
    yield from zip(taps, seen, strict=True)


def window_slices(
    padded: Array,
    window: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
    outputs: Sequence[int],
) -> Iterator[Array]:
    """Yield, for each tap of the window in row-major order, what it sees: [batch, *outputs, channels]."""
    batch, channels = padded.shape[0], padded.shape[-1]
    for tap in itertools.product(*map(range, window)):
        start = [t * d for t, d in zip(tap, dilation, strict=True)]
        limit = [b + (o - 1) * s + 1 for b, o, s in zip(start, outputs, strides, strict=True)]
        yield lax.slice(padded, (0, *start, 0), (batch, *limit, channels), (1, *strides, 1))


def blocks_after(y: Array, before: Sequence[int], reach: Sequence[int], beyond: Array | np.ndarray) -> Array:
    """Return, for each block of input positions, the output `before` blocks earlier: [batch, blocks, 1, ..., channels].

    Args:
        y: the outputs, one per block in each dimension.
        before: how many blocks earlier, per dimension.
        reach: how many blocks a window reaches over, per dimension.
        beyond: what stands for outputs that there are not.
    """
    ends = [(0, 0, 0), *[(d, n - 1 - d, 0) for d, n in zip(before, reach, strict=True)], (0, 0, 0)]
    return jnp.expand_dims(lax.pad(y, beyond, ends), [2 + 2 * axis for axis in range(len(reach))])


def joined_blocks(x: Array) -> Array:
    """Return [batch, blocks, positions of a block, ..., channels] with the positions of all blocks in a row."""
    return x.reshape(x.shape[0], *[x.shape[a] * x.shape[a + 1] for a in range(1, x.ndim - 1, 2)], x.shape[-1])


def cropped(x: Array, sizes: Sequence[int], padding: Sequence[Edges]) -> Array:
    """Return the input's positions of an array that begins with the padding; those after its end are zero."""
    ends = [(-lo, size + lo - found, 0) for size, (lo, _), found in zip(sizes, padding, x.shape[1:-1], strict=True)]
    return lax.pad(x, _zero(x.dtype), [(0, 0, 0), *ends, (0, 0, 0)])


def _strided(x: Array, geometry: Geometry) -> Array:
    """Return the positions of x that a pointwise convolution sees."""
    return x if geometry.unit_strides else x[(slice(None), *(slice(None, None, s) for s in geometry.strides))]


def _dot(a: Array, b: Array, contracted: tuple[tuple[int, ...], tuple[int, ...]]) -> Array:
    """Return the product of two arrays over the contracted axes, in their dtype."""
    return _wide_dot(a, b, contracted).astype(a.dtype)


def _wide_dot(a: Array, b: Array, contracted: tuple, batch: tuple[int, ...] = ()) -> Array:
    """Return the product in the type that it is summed in, one for each index of the axes `batch` of both."""
    return lax.dot_general(a, b, (contracted, (batch, batch)), preferred_element_type=_summed_in(a.dtype))


def _like(x: Array, shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
    """Return what has a shape and is otherwise like `x`.

    In a shard_map that is to differ between devices as x does: the gradient by what does not is summed over them.
    """
    kind = jax.typeof(x)
    return jax.ShapeDtypeStruct(shape, x.dtype, sharding=kind.sharding, manual_axis_type=kind.manual_axis_type)


def _wide(x: Array) -> Array:
    return x.astype(_summed_in(x.dtype))


def _summed_in(dtype: jnp.dtype) -> jnp.dtype:
    return jnp.dtype(jnp.float32) if dtype.itemsize < 4 else dtype


def _zero(dtype: jnp.dtype) -> Array:
    return jnp.zeros((), dtype)
