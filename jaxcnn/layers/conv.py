"""Convolution, transposed convolution, locally connected and fully connected layers.

Images are channels-last: [batch, length, channels], [batch, height, width, channels] or
[batch, depth, height, width, channels]. Kernels are [*window, input channels / groups, features].
Like every framework's, the "convolution" is a cross-correlation: the kernel is not flipped.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, get_args

import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from jaxcnn.errors import UsageError, unknown
from jaxcnn.layers.cpu.lowering import convolve, transposed
from jaxcnn.layers.geometry import (
    Geometry,
    Padding,
    conv_transpose_output_size,
    output_size,
    per_dimension,
    resolve_padding,
)
from jaxcnn.layers.initialisers import Initializer, he_normal_fan_in, he_normal_fan_out, zeros
from jaxcnn.layers.reference import LAYOUTS, im2col_forward
from jaxcnn.layers.windows import window_slices

Lowering = Literal["fast", "im2col"]


def check_rank(layer: str, x: Array, dims: int) -> None:
    """Raise UsageError unless `x` is [batch, `dims` spatial sizes, channels]."""
    if x.ndim != dims + 2:
        raise UsageError(f"{layer} in {dims} dimensions expects [batch, {dims} sizes, channels], got shape {x.shape}")


def check_groups(groups: int, in_channels: int, features: int) -> None:
    """Raise UsageError unless `groups` divides both channel numbers; names the nearest ones that do."""
    common = math.gcd(in_channels, features)
    if groups >= 1 and common % groups == 0:
        return
    valid = [g for g in range(1, common + 1) if common % g == 0]
    below, above = [g for g in valid if g < groups][-1:], [g for g in valid if g > groups][:1]
    raise UsageError(
        f"groups={groups} does not divide both {in_channels} input channels and {features} features: "
        f"nearest valid groups {' and '.join(map(str, below + above))}"
    )


def conv(
    x: Float[Array, "batch *sizes channels"],
    kernel: Float[Array, "*window group_channels features"],
    strides: int | Sequence[int] = 1,
    padding: Padding = 0,
    kernel_dilation: int | Sequence[int] = 1,
    groups: int = 1,
    lowering: Lowering = "fast",
) -> Float[Array, "batch *out_sizes features"]:
    """Cross-correlate `x` with `kernel` in 1, 2 or 3 spatial dimensions.

    Args:
        x: the input, of the same dtype as the kernel.
        kernel: its rank says how many spatial dimensions there are.
        strides: an int or one per dimension.
        padding: an int, ints, (lo, hi) pairs, "SAME", "VALID" or (1-D) "CAUSAL".
        kernel_dilation: an int or one per dimension; 1 is dense.
        groups: the channels are split in this many groups that do not see each other.
        lowering: "fast", what is measured to be fastest on the platform, or "im2col", one product with the matrix of
            all windows, as textbooks teach it: the same numbers to rounding.

    Raises:
        UsageError: for a wrong rank, groups that do not divide, bad padding, an input smaller than a window.
    """
    if lowering not in get_args(Lowering):
        raise unknown("lowering", str(lowering), get_args(Lowering))
    window, dims = kernel.shape[:-2], kernel.ndim - 2
    check_rank("conv", x, dims)
    check_groups(groups, x.shape[-1], kernel.shape[-1])
    strides = per_dimension("strides", strides, dims)
    dilation = per_dimension("kernel_dilation", kernel_dilation, dims)
    edges = resolve_padding(padding, x.shape[1:-1], window, strides, dilation)
    for where in zip(x.shape[1:-1], window, strides, edges, dilation, strict=True):
        output_size(*where)  # raises where the window does not fit
    geometry = Geometry(x.shape[1:-1], window, strides, edges, dilation, groups)
    return _rounded((im2col_forward if lowering == "im2col" else convolve)(x, kernel, geometry))


def conv_transpose(
    x: Float[Array, "batch *sizes channels"],
    kernel: Float[Array, "*window group_channels features"],
    strides: int | Sequence[int] = 1,
    padding: Padding = 0,
    output_padding: int | Sequence[int] = 0,
    kernel_dilation: int | Sequence[int] = 1,
    groups: int = 1,
) -> Float[Array, "batch *out_sizes features"]:
    """Transposed convolution: each input adds a multiple of the kernel, `strides` apart, to the output.

    The output size is (in - 1) * stride + dilation * (kernel - 1) + 1 - lo - hi + output_padding (torch's):
    it is the exact transpose of `conv` with the same padding. Padding crops, `output_padding` adds an end.

    Raises:
        UsageError: as `conv`, for named padding, and for output_padding not below the stride or the dilation.
    """
    window, dims = kernel.shape[:-2], kernel.ndim - 2
    check_rank("conv_transpose", x, dims)
    check_groups(groups, x.shape[-1], kernel.shape[-1])
    if isinstance(padding, str):
        raise UsageError(f"padding={padding!r}: a transposed convolution takes ints or (lo, hi) pairs")
    strides = per_dimension("strides", strides, dims)
    dilation = per_dimension("kernel_dilation", kernel_dilation, dims)
    extra = per_dimension("output_padding", output_padding, dims, minimum=0)
    edges = resolve_padding(padding, x.shape[1:-1], window, strides, dilation)
    for s, d, e in zip(strides, dilation, extra, strict=True):
        if e >= max(s, d):
            raise UsageError(f"output_padding={e} must be smaller than the stride {s} or the dilation {d}")
    outputs = tuple(
        conv_transpose_output_size(*sizes)  # raises where nothing is left
        for sizes in zip(x.shape[1:-1], window, strides, edges, dilation, extra, strict=True)
    )
    # The convolution that this is the transpose of: of each group, inputs and features change places in its kernel.
    split = kernel.reshape(*kernel.shape[:-1], groups, -1)
    forward_kernel = jnp.swapaxes(split, -1, -3).reshape(*window, -1, x.shape[-1])
    ends = tuple((lo, hi - e) for (lo, hi), e in zip(edges, extra, strict=True))
    return _rounded(transposed(x, forward_kernel, Geometry(outputs, window, strides, ends, dilation, groups)))


def _rounded(y: Array) -> Array:
    """Return `y`, a convolution's result, as it is, and keep XLA from fusing it with what follows.

    With bfloat16, XLA's CPU compiler (jaxlib 0.12) fuses some convolutions with the operations behind them
    into code that returns NaN and wrong numbers. Rounding to bfloat16 what is bfloat16 already changes nothing.
    """
    return lax.reduce_precision(y, exponent_bits=8, mantissa_bits=7) if y.dtype == jnp.bfloat16 else y


def locally_connected(
    x: Float[Array, "batch *sizes channels"],
    kernel: Float[Array, "*window channels neurons"],
    strides: int | Sequence[int] = 1,
    padding: Padding = 0,
    kernel_dilation: int | Sequence[int] = 1,
) -> Float[Array, "batch *out_sizes features"]:
    """Convolve with weights of its own at each position (unshared). The neurons are [*out_sizes, features].

    Raises:
        UsageError: as `conv`, and where the number of neurons is no multiple of the positions.
    """
    window, dims = kernel.shape[:-2], kernel.ndim - 2
    check_rank("locally_connected", x, dims)
    strides = per_dimension("strides", strides, dims)
    dilation = per_dimension("kernel_dilation", kernel_dilation, dims)
    edges = resolve_padding(padding, x.shape[1:-1], window, strides, dilation)
    outputs = tuple(map(output_size, x.shape[1:-1], window, strides, edges, dilation))
    positions = math.prod(outputs)
    if kernel.shape[-1] % positions:
        raise UsageError(f"{kernel.shape[-1]} neurons do not divide over {positions} positions")
    padded = jnp.pad(x, ((0, 0), *edges, (0, 0)))
    seen = jnp.stack(list(window_slices(padded, window, strides, dilation, outputs)), axis=1)
    seen = seen.reshape(x.shape[0], math.prod(window), positions, x.shape[-1])
    weights = kernel.reshape(math.prod(window), x.shape[-1], positions, -1)
    return jnp.einsum("bkpc,kcpo->bpo", seen, weights).reshape(x.shape[0], *outputs, -1)


def _window(kernel_size: int | Sequence[int]) -> tuple[int, ...]:
    """Return the kernel's sizes; an int means a 2-D square."""
    window = (kernel_size, kernel_size) if isinstance(kernel_size, int) else tuple(kernel_size)
    if len(window) not in LAYOUTS:
        raise UsageError(f"kernel_size={kernel_size!r}: expected an int (2-D square) or 1, 2 or 3 ints")
    return per_dimension("kernel_size", window, len(window))


class Conv(nn.Module):
    """Convolution in 1, 2 or 3 dimensions; computes in `dtype`, parameters `kernel` and `bias` are float32.

    `kernel_size` is an int (2-D square) or a tuple, one int per spatial dimension. See `conv` for the others.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = 0
    kernel_dilation: int | Sequence[int] = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: Initializer = he_normal_fan_out
    bias_init: Initializer = zeros
    dtype: Any = jnp.float32
    lowering: Lowering = "fast"

    @nn.compact
    def __call__(self, x: Float[Array, "batch *sizes channels"]) -> Float[Array, "batch *out_sizes features"]:
        """Return the convolution of `x` plus the bias."""
        window = _window(self.kernel_size)
        check_rank("Conv", x, len(window))
        check_groups(self.groups, x.shape[-1], self.features)
        shape = (*window, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = conv(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            self.strides,
            self.padding,
            self.kernel_dilation,
            self.groups,
            self.lowering,
        )
        if self.use_bias:
            y += self.param("bias", self.bias_init, (self.features,), jnp.float32).astype(self.dtype)
        return y


class ConvTranspose(nn.Module):
    """Transposed convolution in 1, 2 or 3 dimensions (torch's geometry); see `conv_transpose`.

    The kernel is [*window, input channels / groups, features] with the input of this layer, and not flipped.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = 0
    output_padding: int | Sequence[int] = 0
    kernel_dilation: int | Sequence[int] = 1
    groups: int = 1
    use_bias: bool = True
    kernel_init: Initializer = he_normal_fan_in
    bias_init: Initializer = zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch *sizes channels"]) -> Float[Array, "batch *out_sizes features"]:
        """Return the transposed convolution of `x` plus the bias."""
        window = _window(self.kernel_size)
        check_rank("ConvTranspose", x, len(window))
        check_groups(self.groups, x.shape[-1], self.features)
        shape = (*window, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = conv_transpose(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            self.strides,
            self.padding,
            self.output_padding,
            self.kernel_dilation,
            self.groups,
        )
        if self.use_bias:
            y += self.param("bias", self.bias_init, (self.features,), jnp.float32).astype(self.dtype)
        return y


class LocallyConnected(nn.Module):
    """Convolution whose weights are not shared: each output position has its own kernel and bias.

    `kernel` is [*window, input channels, positions * features], the layout in which fan-in initialisers see
    what one neuron sees (fan-out would count all positions); `bias` is [*out_sizes, features].
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = 0
    kernel_dilation: int | Sequence[int] = 1
    use_bias: bool = True
    kernel_init: Initializer = he_normal_fan_in
    bias_init: Initializer = zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch *sizes channels"]) -> Float[Array, "batch *out_sizes features"]:
        """Return what the locally connected neurons see in `x`, plus their biases."""
        window = _window(self.kernel_size)
        check_rank("LocallyConnected", x, len(window))
        strides = per_dimension("strides", self.strides, len(window))
        dilation = per_dimension("kernel_dilation", self.kernel_dilation, len(window))
        edges = resolve_padding(self.padding, x.shape[1:-1], window, strides, dilation)
        outputs = tuple(map(output_size, x.shape[1:-1], window, strides, edges, dilation))
        shape = (*window, x.shape[-1], math.prod(outputs) * self.features)
        kernel = self.param("kernel", self.kernel_init, shape, jnp.float32)
        y = locally_connected(x.astype(self.dtype), kernel.astype(self.dtype), strides, edges, dilation)
        if self.use_bias:
            y += self.param("bias", self.bias_init, (*outputs, self.features), jnp.float32).astype(self.dtype)
        return y


class Dense(nn.Module):
    """Fully connected layer over the last axis; computes in `dtype`, `kernel` and `bias` are float32."""

    features: int
    use_bias: bool = True
    kernel_init: Initializer = he_normal_fan_in
    bias_init: Initializer = zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch features"]:
        """Return x @ kernel + bias."""
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features), jnp.float32)
        y = jnp.dot(x.astype(self.dtype), kernel.astype(self.dtype))
        if self.use_bias:
            y += self.param("bias", self.bias_init, (self.features,), jnp.float32).astype(self.dtype)
        return y
