"""Networks of a few parameters, without kinks: rounding errors stay rounding errors."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxcnn.keys import init_key
from jaxcnn.layers import BatchNorm, Conv, Dense, Dropout, global_avg_pool
from jaxcnn.models import Model
from jaxcnn.train.state import create_state

SHAPE, CLASSES = (6, 6, 2), 3


class Toy(Model):
    """Two convolutions, with BatchNorm and dropout if asked for."""

    norm: bool = False
    dropout: float = 0.0
    num_classes: int = CLASSES
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, train=False):
        for name in ("a", "b"):
            x = Conv(4, 3, padding=1, name=f"conv_{name}", dtype=self.dtype)(x)
            if self.norm:
                x = BatchNorm(not train, dtype=self.dtype, name=f"bn_{name}")(x)
            x = jnp.tanh(x)
        x = Dropout(self.dropout, deterministic=not train)(global_avg_pool(x))
        return Dense(self.num_classes, name="head")(x.astype(jnp.float32))


def images(n):
    return jax.ShapeDtypeStruct((n, *SHAPE), jnp.float32)


def start(model, tx, *, ema=False, seed=0):
    key = jax.random.key(seed)
    return create_state(model.init(init_key(key), images(1)), tx, key, ema=ema)


def state_like(model, tx, images, *, ema=False):
    """Return the shapes of a state."""
    return jax.eval_shape(
        lambda key: create_state(model.init(init_key(key), images), tx, key, ema=ema), jax.random.key(0)
    )


def batch(n, seed=0):
    """Return n images, of several brightnesses, so that no part of the batch looks like another."""
    rng = np.random.default_rng(seed)
    image = rng.normal(size=(n, *SHAPE)) + rng.normal(size=(n, 1, 1, 1))
    return {
        "image": image.astype(np.float32),
        "label": rng.integers(0, CLASSES, n).astype(np.int32),
        "mask": np.ones(n, bool),
    }


def host(tree):
    """Return copies: a view of a device's buffer would keep it from being donated."""
    return jax.tree.map(np.array, tree)


def assert_close(found, expected, rtol=1e-5, atol=1e-6):
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=rtol, atol=atol), host(found), host(expected))


def assert_same_bits(found, expected):
    jax.tree.map(np.testing.assert_array_equal, host(found), host(expected))
