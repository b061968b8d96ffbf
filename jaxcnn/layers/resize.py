"""Bilinear resizing: to any size, and by a whole factor as a transposed convolution."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from jaxcnn.layers.conv import ConvTranspose, check_rank, conv_transpose
from jaxcnn.layers.geometry import per_dimension
from jaxcnn.layers.initialisers import Initializer


def resize_bilinear(
    x: Float[Array, "batch h w channels"], sizes: int | Sequence[int]
) -> Float[Array, "batch h2 w2 channels"]:
    """Return the maps resized to `sizes`, in float32 whatever the input's type.

    Pixels are areas: the centre of output i lies at (i + 0.5) * size / new_size - 0.5 of the input, and beyond the
    outermost centres the outermost values continue (torch's `interpolate` with align_corners=False). There is no
    smoothing before shrinking.

    Raises:
        UsageError: for another rank, or sizes that are no positive integers.
    """
    check_rank("resize_bilinear", x, 2)
    y = x.astype(jnp.float32)
    # Two products with small matrices rather than gathers, whose gradients add in no fixed order on a GPU.
    for axis, size in enumerate(per_dimension("sizes", sizes, 2), 1):
        if size != x.shape[axis]:
            weights = _interpolation(x.shape[axis], size)
            y = jnp.einsum(("oh,bhwc->bowc", "ow,bhwc->bhoc")[axis - 1], weights, y, precision=lax.Precision.HIGHEST)
    return y


def _interpolation(size: int, new_size: int) -> np.ndarray:
    """Return what each of `size` inputs contributes to each output: [new_size, size], rows that sum to 1."""
    centres = (np.arange(new_size) + 0.5) * size / new_size - 0.5
    distances = np.abs(centres.clip(0, size - 1)[:, None] - np.arange(size))
    return np.maximum(0, 1 - distances).astype(np.float32)


def bilinear_kernel(kernel_size: int) -> np.ndarray:
    """Return the [kernel_size, kernel_size] kernel with which a transposed convolution interpolates.

    >>> bilinear_kernel(4)[0].tolist()
    [0.0625, 0.1875, 0.1875, 0.0625]
    """
    factor = (kernel_size + 1) // 2
    taps = 1 - np.abs(np.arange(kernel_size) - (kernel_size - 1) / 2) / factor
    return np.outer(taps, taps).astype(np.float32)


@dataclass(frozen=True)
class Bilinear(Initializer):
    """Kernels of a transposed convolution that interpolates each channel by itself."""

    def draw(self, key, shape):
        """Return `bilinear_kernel` from each channel to itself, zeros elsewhere; the key is not used."""
        *window, inputs, features = shape
        return jnp.asarray(bilinear_kernel(window[0])[..., None, None] * np.eye(inputs, features, dtype=np.float32))


class BilinearUpsample(nn.Module):
    """Upsampling by a whole factor with a transposed convolution (Long et al. 2015, 1411.4038, section 3.3).

    The window spans two steps and is not cropped: maps of size n become (n + 1) * factor for an even factor,
    (n + 1) * factor - 1 for an odd one. Computes in float32.

    Attributes:
        factor: how many outputs lie between neighbouring inputs.
        learned: whether bilinear interpolation is where a trained kernel starts, dense over the channels and
            without bias, or all there is, without parameters.
    """

    factor: int
    learned: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w channels"]) -> Float[Array, "batch h2 w2 channels"]:
        """Return the larger maps."""
        x, channels, size = x.astype(jnp.float32), x.shape[-1], 2 * self.factor - self.factor % 2
        if self.learned:
            layer = ConvTranspose(channels, size, self.factor, use_bias=False, kernel_init=Bilinear(), name="conv")
            return layer(x)
        kernel = np.broadcast_to(bilinear_kernel(size)[..., None, None], (size, size, 1, channels))
        return conv_transpose(x, jnp.asarray(kernel), self.factor, groups=channels)
