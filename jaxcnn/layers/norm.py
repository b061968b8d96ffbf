"""Normalisation: batch, group, layer and instance norm, and the three local response norms in use.

Statistics are computed in float32 whatever the input's type, parameters are float32, results are in `dtype`.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from jaxcnn.errors import UsageError
from jaxcnn.layers.cpu.channel_sums import channel_lines, channel_moments, channel_sums
from jaxcnn.layers.cpu.lowering import materialised
from jaxcnn.layers.initialisers import Initializer, ones, zeros
from jaxcnn.layers.mapped import norm_axis


def _affine(module: Any, x: Array, mean: Array, var: Array, shape: tuple[int, ...]) -> Array:
    """Return (x - mean) / sqrt(var + epsilon) times `scale` plus `bias`, in the module's dtype."""
    gain = lax.rsqrt(var + module.epsilon)
    if module.use_scale:
        gain = gain * module.param("scale", module.scale_init, shape, jnp.float32)
    y = (x.astype(jnp.float32) - mean) * gain
    if module.use_bias:
        y += module.param("bias", module.bias_init, shape, jnp.float32)
    return y.astype(module.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last (Ioffe and Szegedy 2015).

    The running statistics move as `momentum * old + (1 - momentum) * batch`: `momentum=0.9` is torch's 0.1.
    The running variance is the biased one, which normalises the batch (torch keeps the unbiased one). They
    are updated only where `batch_stats` is mutable, and not while initialising. Statistics are those of the input,
    or of the inputs of all devices where `mapped_over` says that these share a batch.

    Attributes:
        use_running_average: normalise with the running statistics (evaluation) and leave them alone.
        momentum: share of the old running statistics that is kept in each step.
        epsilon: added to the variance.
        use_scale: whether to multiply by the parameter `scale`.
        use_bias: whether to add the parameter `bias`.
        scale_init: initialiser of `scale`.
        bias_init: initialiser of `bias`.
        dtype: type of the result.
    """

    use_running_average: bool
    momentum: float = 0.9
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Initializer = ones
    bias_init: Initializer = zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch *sizes channels"], use_running_average: bool = False
    ) -> Float[Array, "batch *sizes channels"]:
        """Return the normalised `x`; `use_running_average` does for this call what the attribute does for all."""
        shape = (x.shape[-1],)
        running_mean = self.variable("batch_stats", "mean", zeros, None, shape)
        running_var = self.variable("batch_stats", "var", ones, None, shape)
        if self.use_running_average or use_running_average:
            return _affine(self, x, running_mean.value, running_var.value, shape)
        scale = self.param("scale", self.scale_init, shape, jnp.float32) if self.use_scale else jnp.ones(shape)
        bias = self.param("bias", self.bias_init, shape, jnp.float32) if self.use_bias else jnp.zeros(shape)
        axis_name = None if self.is_initializing() else norm_axis()
        near = lax.stop_gradient(running_mean.value)
        y, mean, var = batch_norm(x.astype(jnp.float32), scale, bias, near, self.epsilon, axis_name)
        if self.is_mutable_collection("batch_stats") and not self.is_initializing():
            keep = self.momentum
            running_mean.value = keep * running_mean.value + (1 - keep) * mean
            running_var.value = keep * running_var.value + (1 - keep) * var
        return y.astype(self.dtype)


@partial(jax.custom_jvp, nondiff_argnums=(4, 5))
def batch_norm(
    x: Float[Array, "batch *sizes channels"],
    scale: Float[Array, " channels"],
    bias: Float[Array, " channels"],
    near: Float[Array, " channels"],
    epsilon: float,
    axis_name: str | None = None,
) -> tuple[Float[Array, "batch *sizes channels"], Float[Array, " channels"], Float[Array, " channels"]]:
    """Return `x` normalised by its own statistics, scaled and shifted, and their mean and biased variance.

    The derivative is the closed form of Ioffe and Szegedy 2015 (section 3): two sums over the positions, and then
    per channel a multiple of each of the gradient, the normalised input and one.

    Args:
        x: the input, float32 or wider.
        scale: gamma.
        bias: beta.
        near: a guess of the mean, which the variance is measured around: E[x^2] - E[x]^2 cancels where the mean is
            large against the spread, E[(x - near)^2] - (E[x] - near)^2 does not, and needs no second pass.
        epsilon: added to the variance.
        axis_name: mapped axis to average the statistics over; None: there is none.
    """
    moments = _averaged(channel_moments(x, near) / _positions(x), axis_name)
    mean, var = near + moments[0], jnp.maximum(moments[1] - jnp.square(moments[0]), 0.0)
    return (x - mean) * (scale * lax.rsqrt(var + epsilon)) + bias, mean, var


@batch_norm.defjvp
@partial(jax.jit, static_argnums=(0, 1), inline=True)  # traced once for all of one shape
def _batch_norm_jvp(epsilon: float, axis_name: str | None, primals: tuple, tangents: tuple) -> tuple:
    x, scale, _, _ = primals
    dx, dscale, dbias, _ = tangents
    y, mean, var = batch_norm.fun(*primals, epsilon, axis_name)  # not itself: rematerialisation looks into it
    gain = lax.rsqrt(var + epsilon)
    dmean, dcovariance = _averaged(channel_sums(dx, x, mean) / _positions(x), axis_name)
    slope = scale * gain
    per_centred = gain * dscale - slope * jnp.square(gain) * dcovariance
    moved = channel_lines(jnp.stack([dbias - slope * dmean, per_centred]), x, mean)
    return (y, mean, var), (slope * dx + moved, dmean, 2 * dcovariance)


def _positions(x: Array) -> int:
    return x.size // x.shape[-1]


def _averaged(values: Array, axis_name: str | None) -> Array:
    """Return the values averaged over a mapped axis, in one message."""
    return values if axis_name is None else lax.pmean(values, axis_name)


class GroupNorm(nn.Module):
    """Group normalisation (Wu and He 2018): statistics per example over positions and a group of channels.

    Raises:
        UsageError: where `groups` does not divide the channels.
    """

    groups: int = 32
    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Initializer = ones
    bias_init: Initializer = zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch *sizes channels"]) -> Float[Array, "batch *sizes channels"]:
        """Return the normalised `x`."""
        channels = x.shape[-1]
        if self.groups < 1 or channels % self.groups:
            valid = [g for g in range(1, channels + 1) if channels % g == 0]
            nearest = min(valid, key=lambda g: abs(g - self.groups))
            raise UsageError(f"groups={self.groups} does not divide {channels} channels: nearest valid is {nearest}")
        x = materialised(x)
        grouped = x.reshape(*x.shape[:-1], self.groups, channels // self.groups)
        mean, var = _statistics(grouped, (*range(1, x.ndim - 1), x.ndim))
        mean, var = (jnp.repeat(s[..., 0], channels // self.groups, axis=-1) for s in (mean, var))
        return materialised(_affine(self, x, mean, var, (channels,)))


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al. 2016) over the channels of each position, as ConvNeXt has it."""

    epsilon: float = 1e-6
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Initializer = ones
    bias_init: Initializer = zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch channels"]) -> Float[Array, "*batch channels"]:
        """Return the normalised `x`."""
        x = materialised(x)
        mean, var = _statistics(x, (x.ndim - 1,))
        return materialised(_affine(self, x, mean, var, (x.shape[-1],)))


class InstanceNorm(nn.Module):
    """Instance normalisation (Ulyanov et al. 2016): statistics per example and channel over the positions."""

    epsilon: float = 1e-5
    use_scale: bool = True
    use_bias: bool = True
    scale_init: Initializer = ones
    bias_init: Initializer = zeros
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch *sizes channels"]) -> Float[Array, "batch *sizes channels"]:
        """Return the normalised `x`."""
        x = materialised(x)
        mean, var = _statistics(x, tuple(range(1, x.ndim - 1)))
        return materialised(_affine(self, x, mean, var, (x.shape[-1],)))


def _statistics(x: Array, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """Return float32 mean and variance over `axes`, which are kept with size 1.

    XLA's CPU compiler makes one slow operation of these sums and the convolution or product before or after them. So
    those who call this read `x` from memory, and write the result to it.
    """
    x = x.astype(jnp.float32)
    mean = jnp.mean(x, axes, keepdims=True)
    return mean, jnp.mean(jnp.square(x - mean), axes, keepdims=True)


def _local_response_norm(x: Array, size: int, alpha: float, beta: float, k: float) -> Array:
    """Return x / (k + alpha * sum of x^2 over `size` neighbouring channels)^beta, zeros beyond the ends."""
    if size < 1:
        raise UsageError(f"size={size}: a local response norm needs at least one channel")
    wide = x.astype(jnp.float32)
    ones = (1,) * (x.ndim - 1)
    edges = ((0, 0),) * (x.ndim - 1) + ((size // 2, (size - 1) // 2),)
    sums = lax.reduce_window(jnp.square(wide), np.zeros((), np.float32), lax.add, (*ones, size), (*ones, 1), edges)
    return (wide / (k + alpha * sums) ** beta).astype(x.dtype)


def local_response_norm_paper(
    x: Float[Array, "batch *sizes channels"],
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 2.0,
) -> Float[Array, "batch *sizes channels"]:
    """Local response norm as Krizhevsky et al. 2012 (section 3.3) write it; `alpha` is not divided by `size`.

    The window of channel i is i - size // 2 to i + (size - 1) // 2: with an even size it has one more channel
    before than after, as in cuda-convnet and torch. (The paper's formula would make it size + 1 wide.)
    """
    return _local_response_norm(x, size, alpha, beta, k)


def local_response_norm_caffe(
    x: Float[Array, "batch *sizes channels"],
    size: int = 5,
    alpha: float = 1.0,
    beta: float = 0.75,
    k: float = 1.0,
) -> Float[Array, "batch *sizes channels"]:
    """Local response norm of Caffe (ACROSS_CHANNELS and its defaults): `alpha` is divided by the odd `size`.

    Raises:
        UsageError: for an even size, as Caffe does.
    """
    if size % 2 == 0:
        raise UsageError(f"size={size}: Caffe's local response norm takes an odd size, such as {size + 1}")
    return _local_response_norm(x, size, alpha / size, beta, k)


def local_response_norm_torch(
    x: Float[Array, "batch *sizes channels"],
    size: int = 5,
    alpha: float = 1e-4,
    beta: float = 0.75,
    k: float = 1.0,
) -> Float[Array, "batch *sizes channels"]:
    """Local response norm of torch: `alpha` is divided by `size`.

    An even size has one more channel before than after (size // 2 and (size - 1) // 2).
    """
    return _local_response_norm(x, size, alpha / size, beta, k)
