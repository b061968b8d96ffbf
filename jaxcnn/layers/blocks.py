"""Blocks that many papers share: convolution with norm and activation, squeeze and excitation, inverted residuals."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxcnn.layers.conv import Conv, Dense
from jaxcnn.layers.cpu.lowering import materialised
from jaxcnn.layers.dropout import StochasticDepth
from jaxcnn.layers.geometry import Padding
from jaxcnn.layers.initialisers import Initializer, he_normal_fan_in, zeros
from jaxcnn.layers.pool import global_avg_pool
from jaxcnn.layers.residual import residual


class ConvNorm(nn.Module):
    """Convolution (`conv`), norm (`bn`) where there is one, activation where there is one.

    Attributes:
        features: channels of the result.
        kernel_size: as in `Conv`, like the strides, padding, dilation and groups.
        conv: makes the convolution when called with these and `name=`; a partial of `Conv`.
        norm: makes the norm when called with `name=`, say a partial of `BatchNorm`; None leaves it out.
        act: the activation; None leaves it out.
    """

    features: int
    kernel_size: int | Sequence[int]
    strides: int | Sequence[int] = 1
    padding: Padding = 0
    kernel_dilation: int | Sequence[int] = 1
    groups: int = 1
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] | None = None
    act: Callable[[Array], Array] | None = nn.relu

    @nn.compact
    def __call__(self, x: Float[Array, "batch *sizes channels"]) -> Float[Array, "batch *out_sizes features"]:
        """Return act(norm(conv(x)))."""
        x = self.conv(
            self.features,
            self.kernel_size,
            strides=self.strides,
            padding=self.padding,
            kernel_dilation=self.kernel_dilation,
            groups=self.groups,
            name="conv",
        )(x)
        x = x if self.norm is None else self.norm(name="bn")(x)
        return x if self.act is None else self.act(x)


class DenseAct(nn.Module):
    """Fully connected layer (`dense`) and activation.

    Attributes:
        features: width of the result.
        act: the activation.
        kernel_init: initialiser of the weights.
        bias_init: likewise of the biases.
        dtype: compute type.
    """

    features: int
    act: Callable[[Array], Array] = nn.relu
    kernel_init: Initializer = he_normal_fan_in
    bias_init: Initializer = zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch inputs"]) -> Float[Array, "*batch features"]:
        """Return act(dense(x))."""
        make = partial(Dense, kernel_init=self.kernel_init, bias_init=self.bias_init, dtype=self.dtype)
        return self.act(make(self.features, name="dense")(x))


class NormRelu(nn.Module):
    """The norm (`bn`) and ReLU behind the last sum or concatenation of a pre-activation network."""

    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
        """Return relu(norm(x))."""
        return nn.relu(self.norm(name="bn")(x))


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all channels' means (Hu et al. 2018, 1709.01507, section 3).

    Attributes:
        features: width of the bottleneck `fc1` between the means and the gates `fc2`; both have biases.
        act: activation of the bottleneck.
        gate: makes a factor for each channel, usually in 0 to 1.
        kernel_init: initialiser of both layers.
        bias_init: likewise.
    """

    features: int
    act: Callable[[Array], Array] = nn.relu
    gate: Callable[[Array], Array] = nn.sigmoid
    kernel_init: Initializer = he_normal_fan_in
    bias_init: Initializer = zeros

    @nn.compact
    def __call__(self, x: Float[Array, "batch *sizes channels"]) -> Float[Array, "batch *sizes channels"]:
        """Return `x` with its channels scaled."""
        # In float32: it is next to no work, and an error of a gate is one of a whole channel.
        make = partial(Dense, kernel_init=self.kernel_init, bias_init=self.bias_init)
        y = self.act(make(self.features, name="fc1")(global_avg_pool(x.astype(jnp.float32))))
        y = self.gate(make(x.shape[-1], name="fc2")(y))
        return x * y.reshape(y.shape[0], *(1,) * (x.ndim - 2), y.shape[-1]).astype(x.dtype)


PaddingMode = Literal["symmetric", "same"]


def padding_of(mode: PaddingMode, kernel_size: int) -> Padding:
    """Return the padding that keeps the size at stride 1: torch's, "symmetric", or TensorFlow's, "same".

    They differ at stride 2: TensorFlow puts the odd row and column at the end.
    """
    return "SAME" if mode == "same" else kernel_size // 2


class InvertedResidual(nn.Module):
    """1x1 `expand`, `depthwise`, linear 1x1 `project`, identity around (Sandler et al. 2018, 1801.04381, section 3.3).

    There is no `expand` where it would not widen, and no identity where the shapes differ.

    Attributes:
        features: channels of the result.
        expanded: channels between `expand` and `project`.
        kernel_size: of the depthwise convolution, like the strides.
        strides: see above.
        padding: of the depthwise convolution, see `padding_of`.
        act: after `expand` and `depthwise`.
        se: makes the squeeze and excitation `se` before `project` when called with `name=`, a partial of
            `SqueezeExcite`; None leaves it out (MobileNetV3, 1905.02244, section 4, has it).
        conv: as in `ConvNorm`, here a partial without biases.
        norm: as in `ConvNorm`.
        drop_rate: of the stochastic depth of the branch, where there is an identity.
        deterministic: no stochastic depth.
    """

    features: int
    expanded: int
    kernel_size: int = 3
    strides: int = 1
    padding: PaddingMode = "symmetric"
    act: Callable[[Array], Array] = nn.relu6
    se: Callable[..., nn.Module] | None = None
    conv: Callable[..., nn.Module] = partial(Conv, use_bias=False)
    norm: Callable[..., nn.Module] | None = None
    drop_rate: float = 0.0
    deterministic: bool = True

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 features"]:
        """Return the block's output, h2 = ceil(h / strides)."""
        unit = partial(ConvNorm, conv=self.conv, norm=self.norm)
        y = x if self.expanded == x.shape[-1] else unit(self.expanded, 1, act=self.act, name="expand")(x)
        y = unit(
            self.expanded,
            self.kernel_size,
            strides=self.strides,
            padding=padding_of(self.padding, self.kernel_size),
            groups=self.expanded,
            act=self.act,
            name="depthwise",
        )(y)
        y = y if self.se is None else self.se(name="se")(y)
        y = unit(self.features, 1, act=None, name="project")(y)
        if x.shape != y.shape:
            return y
        return residual(x, StochasticDepth(self.drop_rate, self.deterministic, name="stochastic_depth")(y))


class Blocks(nn.Module):
    """A stage: blocks in a row, each made by one of `makers` when called with `name=`: block1, block2, ..."""

    makers: Sequence[Callable[..., nn.Module]]

    @nn.compact
    def __call__(self, x: Float[Array, "batch *sizes channels"]) -> Float[Array, "batch *out_sizes features"]:
        """Return the output of the last block."""
        for i, make in enumerate(self.makers, 1):
            x = materialised(make(name=f"block{i}")(x))
        return x
