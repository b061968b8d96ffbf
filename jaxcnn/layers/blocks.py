"""Blocks that many papers share: convolution with norm and activation, squeeze and excitation."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxcnn.layers.conv import Conv, Dense
from jaxcnn.layers.geometry import Padding
from jaxcnn.layers.initialisers import Initializer, he_normal_fan_in, zeros
from jaxcnn.layers.pool import global_avg_pool


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


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate computed from all channels' means (Hu et al. 2018, 1709.01507, section 3).

    Attributes:
        features: width of the bottleneck `fc1` between the means and the gates `fc2`; both have biases.
        act: activation of the bottleneck.
        gate: makes a factor for each channel, usually in 0 to 1.
        kernel_init: initialiser of both layers.
        bias_init: likewise.
        dtype: compute type.
    """

    features: int
    act: Callable[[Array], Array] = nn.relu
    gate: Callable[[Array], Array] = nn.sigmoid
    kernel_init: Initializer = he_normal_fan_in
    bias_init: Initializer = zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch *sizes channels"]) -> Float[Array, "batch *sizes channels"]:
        """Return `x` with its channels scaled."""
        inits = {"kernel_init": self.kernel_init, "bias_init": self.bias_init}
        y = global_avg_pool(x)
        y = self.act(Dense(self.features, dtype=self.dtype, name="fc1", **inits)(y))
        y = self.gate(Dense(x.shape[-1], dtype=self.dtype, name="fc2", **inits)(y))
        return x * y.reshape(y.shape[0], *(1,) * (x.ndim - 2), y.shape[-1])
