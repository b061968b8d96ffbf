"""Dropout of activations and of whole residual branches; both draw from the rng stream `dropout`."""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax
from jaxtyping import Array, Float

from jaxcnn.errors import UsageError
from jaxcnn.layers.mapped import batch_axis


def _drop(module: nn.Module, x: Array, rate: float, shape: tuple[int, ...]) -> Array:
    """Zero `x` with probability `rate`, independently over `shape`, and divide what stays by 1 - rate."""
    if rate == 1:  # 0 / 0 otherwise
        return jnp.zeros_like(x)
    axis = None if module.is_initializing() else batch_axis()
    if axis is None:
        keep = jax.random.bernoulli(module.make_rng("dropout"), 1 - rate, shape)
    else:
        rows, *others = shape
        drawn = jax.random.bernoulli(module.make_rng("dropout"), 1 - rate, (rows * lax.axis_size(axis), *others))
        keep = lax.dynamic_slice_in_dim(drawn, rows * lax.axis_index(axis), rows)
    return jnp.where(keep, x / (1 - rate), jnp.zeros_like(x))


def _check(rate: float) -> None:
    if not 0 <= rate <= 1:
        raise UsageError(f"rate={rate}: expected the probability of dropping, from 0 to 1")


class Dropout(nn.Module):
    """Zero each activation with probability `rate` and scale the rest up (Srivastava et al. 2014, inverted).

    Raises:
        UsageError: for a rate outside 0 to 1.
    """

    rate: float
    deterministic: bool

    @nn.compact
    def __call__(self, x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """Return `x` with dropout, or as it is where deterministic."""
        _check(self.rate)
        return x if self.deterministic or self.rate == 0 else _drop(self, x, self.rate, x.shape)


class StochasticDepth(nn.Module):
    """Zero the residual branch of an example with probability `rate`, scale the rest up (Huang et al. 2016).

    The paper scales by 1 - rate in evaluation instead; the expectation is the same.

    Raises:
        UsageError: for a rate outside 0 to 1.
    """

    rate: float
    deterministic: bool

    @nn.compact
    def __call__(self, branch: Float[Array, "batch *shape"]) -> Float[Array, "batch *shape"]:
        """Return the branch with whole examples dropped, or as it is where deterministic."""
        _check(self.rate)
        if self.deterministic or self.rate == 0:
            return branch
        return _drop(self, branch, self.rate, (branch.shape[0],) + (1,) * (branch.ndim - 1))
