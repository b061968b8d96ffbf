"""Integer arithmetic of convolution and pooling: sizes, padding, receptive fields, parameters, MACs.

Everything here works on plain Python integers, one spatial dimension at a time unless it says otherwise.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from jaxcnn.errors import InputTooSmall, UsageError, unknown

Edges = tuple[int, int]
Padding = int | str | Sequence[int] | Sequence[Edges]
PADDING_NAMES = ("SAME", "VALID", "CAUSAL")


def per_dimension(what: str, value: int | Sequence[int], dims: int, minimum: int = 1) -> tuple[int, ...]:
    """Return `value` as one integer per spatial dimension (an int stands for all of them).

    Raises:
        UsageError: where the length is not `dims` or a number is below `minimum` or no integer.
    """
    values = tuple(value) if isinstance(value, Sequence) else (value,) * dims
    if len(values) != dims:
        raise UsageError(f"{what}={value!r}: expected an int or {dims} ints, one per spatial dimension")
    if not all(isinstance(v, int) and v >= minimum for v in values):
        raise UsageError(f"{what}={value!r}: expected integers of at least {minimum}")
    return values


def window_extent(kernel: int, dilation: int = 1) -> int:
    """Return how many input positions a dilated kernel spans."""
    return dilation * (kernel - 1) + 1


def same_padding(size: int, kernel: int, stride: int = 1, dilation: int = 1) -> Edges:
    """Return the (lo, hi) padding for an output of ceil(size / stride), the odd one at the end (TensorFlow).

    With stride 2 on an even size this is not the symmetric padding of Caffe and torch.

    >>> same_padding(224, kernel=7, stride=2)
    (2, 3)
    """
    total = total_padding(size, kernel, stride, dilation)
    return total // 2, total - total // 2


def total_padding(size: int, kernel: int, stride: int = 1, dilation: int = 1) -> int:
    """Return the sum of both edges' padding that makes the output ceil(size / stride)."""
    outputs = -(-size // stride)
    return max((outputs - 1) * stride + window_extent(kernel, dilation) - size, 0)


def _edges(padding: Any, size: int, kernel: int, stride: int, dilation: int) -> Edges:
    """Return the (lo, hi) padding of one dimension."""
    if padding == "SAME":
        return same_padding(size, kernel, stride, dilation)
    if padding == "VALID":
        return 0, 0
    if padding == "CAUSAL":
        return window_extent(kernel, dilation) - 1, 0
    if isinstance(padding, str):
        raise unknown("padding", padding, PADDING_NAMES)
    edges = tuple(padding) if isinstance(padding, Sequence) else (padding, padding)
    if len(edges) != 2 or not all(isinstance(edge, int) and edge >= 0 for edge in edges):
        raise UsageError(f"padding={padding!r}: expected an int, a (lo, hi) pair, none negative, or a name")
    return edges[0], edges[1]


def resolve_padding(
    padding: Padding,
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
    dilation: Sequence[int],
) -> tuple[Edges, ...]:
    """Return explicit (lo, hi) padding per spatial dimension.

    Args:
        padding: an int, an int or a (lo, hi) pair per dimension, or "SAME", "VALID" or (in 1-D) "CAUSAL".
        sizes: the input's spatial sizes.
        kernel: window sizes, per dimension as the following.
        strides: steps between windows.
        dilation: steps within a window.

    Raises:
        UsageError: where it is none of these.
    """
    dims = len(sizes)
    if padding == "CAUSAL" and dims != 1:
        raise UsageError(f"padding='CAUSAL' is for 1-D layers, this one has {dims} spatial dimensions")
    each: tuple[Any, ...] = (padding,) * dims
    if isinstance(padding, Sequence) and not isinstance(padding, str):
        each = tuple(padding)
    if len(each) != dims:
        raise UsageError(f"padding={padding!r}: expected an int, {dims} ints, {dims} (lo, hi) pairs or a name")
    return tuple(map(_edges, each, sizes, kernel, strides, dilation))


def output_size(
    size: int,
    kernel: int,
    stride: int = 1,
    padding: int | Edges | str = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
) -> int:
    """Return the number of outputs of a convolution or pooling along one dimension.

    With `ceil_mode` a last window may hang over the end, provided that it starts inside the input or the
    padding before it (torch's rule).

    Raises:
        InputTooSmall: where the window is larger than the padded input; names the smallest input.

    >>> output_size(227, kernel=11, stride=4)
    55
    """
    lo, hi = _edges(padding, size, kernel, stride, dilation)
    extent = window_extent(kernel, dilation)
    room = size + lo + hi - extent
    spare = stride - 1 if ceil_mode else 0
    if room + spare < 0:
        raise InputTooSmall(
            f"input of size {size} with padding {(lo, hi)} is smaller than the window, which spans {extent}: "
            f"the smallest input is {max(extent - lo - hi - spare, 1)}"
        )
    if not ceil_mode:
        return room // stride + 1
    outputs = -(-room // stride) + 1
    return outputs - 1 if (outputs - 1) * stride >= size + lo else outputs


def conv_transpose_output_size(
    size: int,
    kernel: int,
    stride: int = 1,
    padding: int | Edges = 0,
    dilation: int = 1,
    output_padding: int = 0,
) -> int:
    """Return the number of outputs of a transposed convolution along one dimension (torch's geometry).

    >>> conv_transpose_output_size(16, kernel=64, stride=32)
    544
    """
    lo, hi = _edges(padding, size, kernel, stride, dilation)
    outputs = (size - 1) * stride + window_extent(kernel, dilation) - lo - hi + output_padding
    if outputs < 1:
        raise InputTooSmall(f"padding {(lo, hi)} leaves nothing of a transposed convolution of size {size}")
    return outputs


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
    def dense(self) -> bool:
        """Whether the window has no holes."""
        return all(d == 1 for d in self.dilation)

    @property
    def unit_strides(self) -> bool:
        """Whether the window moves by one."""
        return all(s == 1 for s in self.strides)

    @property
    def exact_padding(self) -> list[Edges]:
        """The padding up to the end of the last window, which may be less than the padding given, or negative."""
        return [
            (lo, (o - 1) * s + window_extent(w, d) - size - lo)
            for size, w, s, (lo, _), d, o in zip(*self[:5], self.outputs, strict=True)
        ]


def outputs_seeing(first: int, size: int, stride: int, outputs: int) -> range:
    """Return which outputs see one of `size` input positions by the tap by which output 0 sees position `first`."""
    start = max(0, -(first // stride))
    return range(start, max(start, min(outputs, -((first - size) // stride))))


class ReceptiveField(NamedTuple):
    """What one output of a stack sees along one dimension."""

    size: int
    """Input positions seen by one output."""
    jump: int
    """Input positions between neighbouring outputs (the product of the strides)."""


def receptive_field(layers: Iterable[tuple[int, int, int]]) -> ReceptiveField:
    """Return the receptive field of a stack of (kernel, stride, dilation) layers, the first one first.

    >>> receptive_field([(3, 1, 1)] * 3) == receptive_field([(7, 1, 1)])
    True
    """
    size = jump = 1
    for kernel, stride, dilation in layers:
        size += (window_extent(kernel, dilation) - 1) * jump
        jump *= stride
    return ReceptiveField(size, jump)


def _kernel_area(kernel: int | Sequence[int]) -> int:
    """Return the number of taps; an int means a 2-D square, as in Conv."""
    return kernel * kernel if isinstance(kernel, int) else math.prod(kernel)


def conv_params(
    in_channels: int,
    out_channels: int,
    kernel: int | Sequence[int],
    groups: int = 1,
    use_bias: bool = True,
    shared: bool = True,
    output_shape: Sequence[int] = (),
) -> int:
    """Return the number of parameters of a convolution, or of a locally connected layer (`shared=False`).

    Args:
        in_channels: divided by `groups` it is what each output channel sees.
        out_channels: number of features.
        kernel: an int (2-D square) or one per spatial dimension.
        groups: number of groups of channels.
        use_bias: counts one bias per feature, or per neuron where unshared.
        shared: whether all positions have the same weights.
        output_shape: spatial output sizes, needed where unshared.

    >>> conv_params(3, 96, 11), conv_params(3, 96, 11, shared=False, output_shape=(55, 55))
    (34944, 105705600)
    """
    if not shared and not output_shape:
        raise UsageError("conv_params(shared=False) needs output_shape: each position has its own weights")
    neuron = in_channels // groups * _kernel_area(kernel) + use_bias
    return neuron * out_channels * (1 if shared else math.prod(output_shape))


def conv_macs(
    in_channels: int,
    out_channels: int,
    kernel: int | Sequence[int],
    output_shape: Sequence[int],
    groups: int = 1,
) -> int:
    """Return the multiply-accumulates of a convolution for one example, shared or not, without biases."""
    weights = conv_params(in_channels, out_channels, kernel, groups, use_bias=False)
    return weights * math.prod(output_shape)


def dense_params(in_features: int, out_features: int, use_bias: bool = True) -> int:
    """Return the number of parameters of a fully connected layer."""
    return (in_features + use_bias) * out_features


def dense_macs(in_features: int, out_features: int) -> int:
    """Return the multiply-accumulates of a fully connected layer for one example."""
    return in_features * out_features


def round_channels(channels: float, divisor: int = 8, minimum: int | None = None) -> int:
    """Return the multiple of `divisor` nearest to `channels`, at least `minimum` and nine tenths of `channels`.

    The rule of the MobileNets, EfficientNet and MNASNet for scaled widths (torchvision: `_make_divisible`).

    >>> round_channels(32 * 1.1), round_channels(11), round_channels(12 * 0.35)
    (32, 16, 8)
    """
    rounded = max(divisor if minimum is None else minimum, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
