"""Initialisers as values: what a parameter is drawn from, kept apart from the drawing.

Each is a frozen dataclass called as `init(key, shape, dtype)`, like Flax's own. Being values, they can also be
*recorded* instead of drawn: `models.base.Model.init` traces a model for shapes alone and then draws every
parameter here, so that initialising costs no compilation of the forward pass (ResNet-50: 0.5 s against 20 s).

Random numbers come in chunks of one fixed size from one compiled function. XLA's CPU compiler takes 0.3 s for
each *shape* of `jax.random.normal`; this way it meets one shape per distribution. The numbers are the same whether
the key is concrete or traced, and concrete keys draw on the CPU, so every backend starts from the same bits.
"""

import contextlib
import contextvars
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

_CHUNK = 1 << 16
_SAMPLERS: dict[str, Callable[..., jax.Array]] = {
    "normal": jax.random.normal,
    "truncated_normal": lambda key, shape: jax.random.truncated_normal(key, -2.0, 2.0, shape),
    "uniform": lambda key, shape: jax.random.uniform(key, shape, minval=-1.0, maxval=1.0),
}
# The standard deviation of a standard normal truncated to [-2, 2].
_TRUNCATED_STD = 0.87962566103423978


@partial(jax.jit, static_argnames="sampler")
def _chunk(sampler: str, key: jax.Array, index: jax.Array) -> jax.Array:
    return _SAMPLERS[sampler](jax.random.fold_in(key, index), (_CHUNK,))


def _draw(sampler: str, key: jax.Array, shape: tuple[int, ...], scale: float) -> jax.Array:
    """Return float32 draws of `sampler` times `scale`, the same bits for a concrete and a traced key."""
    size = math.prod(shape)
    indices = np.arange(max(1, -(-size // _CHUNK)), dtype=np.uint32)
    if isinstance(key, jax.core.Tracer):
        chunks = jax.lax.map(lambda index: _chunk(sampler, key, index), jnp.asarray(indices))
        return chunks.reshape(-1)[:size].reshape(shape) * np.float32(scale)
    cpu = jax.local_devices(backend="cpu")[0]
    with jax.default_device(cpu):
        key = jax.device_put(key, cpu)
        flat = np.concatenate([np.asarray(_chunk(sampler, key, index)) for index in indices])
    return jax.device_put(flat[:size].reshape(shape) * np.float32(scale))


class Initializer:
    """Base of all initialisers: `init(key, shape, dtype)` draws, unless a recording is under way."""

    def __call__(self, key: jax.Array | None, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
        """Return an array of `shape` and `dtype`."""
        recorded = _RECORD.get()
        if recorded is None:
            return self.draw(key, tuple(shape)).astype(dtype)
        placeholder = jnp.zeros(shape, dtype)
        recorded[id(placeholder)] = (self, placeholder)
        return placeholder

    def draw(self, key: jax.Array | None, shape: tuple[int, ...]) -> jax.Array:
        """Return float32 values of `shape`."""
        raise NotImplementedError


@dataclass(frozen=True)
class Constant(Initializer):
    """Every value the same."""

    value: float

    def draw(self, key, shape):
        """Return `value` everywhere; the key is not used."""
        return jax.device_put(np.full(shape, self.value, np.float32))


@dataclass(frozen=True)
class Normal(Initializer):
    """N(0, std^2): the plain Gaussians of AlexNet and VGG (std 0.01)."""

    std: float

    def draw(self, key, shape):
        """Return normal values with standard deviation `std`."""
        return _draw("normal", key, shape, self.std)


@dataclass(frozen=True)
class TruncatedNormal(Initializer):
    """A Gaussian cut at two standard deviations; the result's own deviation is 0.88 `std`, as in TensorFlow."""

    std: float

    def draw(self, key, shape):
        """Return values in [-2 std, 2 std]."""
        return _draw("truncated_normal", key, shape, self.std)


@dataclass(frozen=True)
class Uniform(Initializer):
    """Uniform in [-limit, limit)."""

    limit: float

    def draw(self, key, shape):
        """Return values in [-limit, limit)."""
        return _draw("uniform", key, shape, self.limit)


@dataclass(frozen=True)
class VarianceScaling(Initializer):
    """Variance `scale / fan`, for kernels laid out (*window, in, out), as every layer here has them.

    LeCun 1998 (scale 1, fan_in), Glorot and Bengio 2010 (scale 1, fan_avg), He et al. 2015, 1502.01852 (scale 2).
    The input channels of a grouped convolution's kernel are those of one group. fan_out counts all output
    channels, groups or not, as torch does.
    """

    scale: float
    mode: Literal["fan_in", "fan_out", "fan_avg"]
    distribution: Literal["normal", "truncated_normal", "uniform"] = "normal"

    def draw(self, key, shape):
        """Return values of variance scale / fan."""
        if len(shape) < 2:
            raise ValueError(f"a fan is defined for kernels of at least 2 dimensions, not for shape {shape}")
        window = math.prod(shape[:-2])
        fan_in, fan_out = window * shape[-2], window * shape[-1]
        fan = {"fan_in": fan_in, "fan_out": fan_out, "fan_avg": (fan_in + fan_out) / 2}[self.mode]
        std = math.sqrt(self.scale / max(1.0, fan))
        width = {"normal": std, "truncated_normal": std / _TRUNCATED_STD, "uniform": math.sqrt(3) * std}
        return _draw(self.distribution, key, shape, width[self.distribution])


@dataclass(frozen=True)
class UniformFanIn(Initializer):
    """Uniform in +-gain / fan_in: LeCun et al. 1998, section III-B, takes gain 2.4."""

    gain: float

    def draw(self, key, shape):
        """Return values in [-gain / fan_in, gain / fan_in)."""
        return _draw("uniform", key, shape, self.gain / math.prod(shape[:-1]))


zeros = Constant(0.0)
ones = Constant(1.0)
lecun_normal = VarianceScaling(1.0, "fan_in")
lecun_uniform = VarianceScaling(1.0, "fan_in", "uniform")
glorot_normal = VarianceScaling(1.0, "fan_avg")
glorot_uniform = VarianceScaling(1.0, "fan_avg", "uniform")
he_normal_fan_in = VarianceScaling(2.0, "fan_in")
he_normal_fan_out = VarianceScaling(2.0, "fan_out")
# The scale of a residual branch's last BatchNorm: the block starts as the identity (Goyal et al. 2017, 1706.02677).
zero_gamma = zeros


_Record = dict[int, tuple[Initializer, jax.Array]]
_RECORD: contextvars.ContextVar[_Record | None] = contextvars.ContextVar("record", default=None)


@contextlib.contextmanager
def recording() -> Iterator[_Record]:
    """Within this context initialisers return zeros and note themselves under the id of what they returned.

    The record holds the returned arrays too, so that no id is used twice while it lives.
    """
    record: _Record = {}
    token = _RECORD.set(record)
    try:
        yield record
    finally:
        _RECORD.reset(token)
