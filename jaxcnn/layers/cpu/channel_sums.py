"""Two sums for each channel over one reading of the arrays, and their transpose: what BatchNorm is made of.

XLA's CPU compiler makes each sum by itself, more slowly than it passes over arrays element by element. Here such a pass
first adds up eight positions at a time, for both sums at once; what is left is small. At 14x14, 576 channels and batch
32, both sums of one array take 1.7 ms in place of 3.9; of two arrays, 2.4 in place of 4.4.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend.core import Primitive
from jax.interpreters import ad
from jaxtyping import Array, Float

from jaxcnn.layers.cpu.primitives import alike_over_devices, platform_primitive

POSITIONS_AT_ONCE = 8


def channel_sums(x: Float[Array, "*positions channels"], d: Float[Array, "*positions channels"]) -> Float[Array, "2 c"]:
    """Return the sums of `x` and of `x * d` over all positions."""
    return _sums.bind(*alike_over_devices(x, d))


def channel_lines(
    ab: Float[Array, "2 c"], d: Float[Array, "*positions channels"]
) -> Float[Array, "*positions channels"]:
    """Return `a + b * d` for the two rows of `ab`: the transpose of `channel_sums` by `x`."""
    return _lines.bind(*alike_over_devices(ab, d))


def _xla_sums(x: Array, d: Array) -> Array:
    axes = tuple(range(x.ndim - 1))
    return jnp.stack([jnp.sum(x, axes), jnp.sum(x * d, axes)])


def _cpu_sums(x: Array, d: Array) -> Array:
    positions, channels = x.size // x.shape[-1], x.shape[-1]
    at_once = max(n for n in range(1, POSITIONS_AT_ONCE + 1) if positions % n == 0)
    if at_once < POSITIONS_AT_ONCE // 2:
        return _xla_sums(x, d)
    x, d = (each.reshape(-1, at_once, 1, channels) for each in (x, d))
    first, second = np.array([[1], [0]], x.dtype), np.array([[0], [1]], x.dtype)
    total = sum(x[:, n] * (first + second * d[:, n]) for n in range(at_once))  # [positions / at_once, 2, channels]
    return jnp.sum(lax.optimization_barrier(total), 0)


def _lines_of(ab: Array, d: Array) -> Array:
    return ab[0] + ab[1] * d


def _batched(primitive: Primitive, operands, axes):
    reference = _xla_sums if primitive is _sums else _lines_of
    return jax.vmap(reference, axes)(*operands), 0


_sums = platform_primitive("channel_sums", _xla_sums, _cpu_sums, _batched)
_lines = platform_primitive("channel_lines", _lines_of, _lines_of, _batched)


def _sums_jvp(primals: tuple, tangents: tuple):
    (x, d), (dx, dd) = primals, map(ad.instantiate_zeros, tangents)
    moved = jnp.sum(x * dd, tuple(range(x.ndim - 1)))
    return channel_sums(x, d), channel_sums(dx, d) + jnp.stack([jnp.zeros_like(moved), moved])


def _lines_jvp(primals: tuple, tangents: tuple):
    (ab, d), (dab, dd) = primals, map(ad.instantiate_zeros, tangents)
    return channel_lines(ab, d), channel_lines(dab, d) + ab[1] * dd


ad.primitive_jvps[_sums] = _sums_jvp
ad.primitive_jvps[_lines] = _lines_jvp
ad.primitive_transposes[_sums] = lambda ab, x, d: [channel_lines(ad.instantiate_zeros(ab), d), None]
ad.primitive_transposes[_lines] = lambda x, ab, d: [channel_sums(ad.instantiate_zeros(x), d), None]
