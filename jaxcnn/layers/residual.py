"""Residual connections: the shortcuts of He et al. 2016 (section 3.3) and the sum."""

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from jaxcnn.errors import UsageError, unknown
from jaxcnn.layers.conv import Conv
from jaxcnn.layers.geometry import per_dimension
from jaxcnn.layers.initialisers import Initializer, he_normal_fan_out

SHORTCUTS = ("identity", "A", "A_centred", "B", "C")


def subsample_and_widen(
    x: Float[Array, "batch *sizes channels"], features: int, strides: Sequence[int], centred: bool = False
) -> Float[Array, "batch *out_sizes features"]:
    """Take every `strides`-th position and add zero channels (option A).

    The zeros come after the given channels, as in fb.resnet.torch; `centred` puts half of them on each side, as
    some CIFAR codes do.

    Raises:
        UsageError: where there are more channels than `features`.
    """
    extra = features - x.shape[-1]
    if extra < 0:
        raise UsageError(f"shortcut A cannot narrow {x.shape[-1]} channels to {features}: use option 'B'")
    x = x[(slice(None), *(slice(None, None, s) for s in strides))]
    before = extra // 2 if centred else 0
    return jnp.pad(x, ((0, 0),) * (x.ndim - 1) + ((before, extra - before),))


class Shortcut(nn.Module):
    """The way around a residual branch that yields `features` channels at `strides`.

    Attributes:
        features: channels of the branch's result.
        strides: total stride of the branch, an int or one per spatial dimension.
        option: "identity" (shapes must agree); "A" subsampling with zero channels where the shapes change, no
            parameters; "A_centred" the same with half of the zeros on each side; "B" projection (1x1 convolution
            `conv`, then `norm`) where they change; "C" projection always.
        norm: makes the norm after the projection when called with `name=`, say a partial of BatchNorm; None
            leaves it out (pre-activation networks).
        kernel_init: initialiser of the projection.
        dtype: compute type.

    Raises:
        UsageError: for an unknown option, or an identity whose shape would have to change.
    """

    features: int
    strides: int | Sequence[int] = 1
    option: str = "B"
    norm: Callable[..., nn.Module] | None = None
    kernel_init: Initializer = he_normal_fan_out
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch *sizes channels"]) -> Float[Array, "batch *out_sizes features"]:
        """Return `x` in the shape of the branch's result."""
        dims = x.ndim - 2
        strides = per_dimension("strides", self.strides, dims)
        changes = x.shape[-1] != self.features or any(s != 1 for s in strides)
        if self.option not in SHORTCUTS:
            raise unknown("shortcut option", self.option, SHORTCUTS)
        if self.option == "identity" and changes:
            raise UsageError(f"identity cannot turn {x.shape[-1]} channels into {self.features}, strides {strides}")
        if self.option != "C" and not changes:
            return x
        if self.option in ("A", "A_centred"):
            return subsample_and_widen(x, self.features, strides, centred=self.option == "A_centred")
        y = Conv(
            self.features,
            (1,) * dims,
            strides,
            use_bias=False,
            kernel_init=self.kernel_init,
            dtype=self.dtype,
            name="conv",
        )(x)
        return y if self.norm is None else self.norm(name="norm")(y)


def residual(
    x: Float[Array, "batch *sizes channels"],
    branch: Float[Array, "batch *out_sizes features"],
    shortcut: Callable[[Array], Array] | None = None,
    scale: float = 1.0,
) -> Float[Array, "batch *out_sizes features"]:
    """Return shortcut(x) + scale * branch.

    Args:
        x: what the block was given.
        branch: what its residual branch made of it (after StochasticDepth, where there is one).
        shortcut: a `Shortcut`, or None for the identity.
        scale: multiplies the branch (0.1 to 0.3 in Inception-ResNet).

    Raises:
        UsageError: where the two shapes differ.
    """
    around = x if shortcut is None else shortcut(x)
    if around.shape != branch.shape:
        raise UsageError(f"residual sum of different shapes: shortcut {around.shape}, branch {branch.shape}")
    return around + (branch if scale == 1 else scale * branch)
