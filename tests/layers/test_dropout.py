import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.layers import Dropout, StochasticDepth

KEY = {"dropout": jax.random.key(0)}


@pytest.mark.parametrize("layer", [Dropout, StochasticDepth])
def test_deterministic_or_rate_zero_is_the_identity_without_a_key(layer):
    x = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(layer(0.5, deterministic=True).apply({}, x), x)
    np.testing.assert_array_equal(layer(0.0, deterministic=False).apply({}, x), x)


@pytest.mark.parametrize("layer", [Dropout, StochasticDepth])
def test_rate_one_drops_everything_with_a_finite_gradient(layer):
    apply = lambda x: layer(1.0, deterministic=False).apply({}, x, rngs=KEY)  # noqa: E731
    assert np.all(apply(jnp.ones((4, 5))) == 0)
    assert np.all(jax.grad(lambda x: jnp.sum(apply(x)))(jnp.ones((4, 5))) == 0)


def test_dropout_keeps_the_mean_and_the_rate():
    y = Dropout(0.3, deterministic=False).apply({}, jnp.ones((200, 100)), rngs=KEY)
    assert set(np.unique(y)) == {0, np.float32(1 / 0.7)}
    assert np.mean(y == 0) == pytest.approx(0.3, abs=0.02)
    other = Dropout(0.3, deterministic=False).apply({}, jnp.ones((200, 100)), rngs={"dropout": jax.random.key(1)})
    assert np.mean((y == 0) == (other == 0)) == pytest.approx(0.58, abs=0.02)  # 0.3^2 + 0.7^2: independent


def test_stochastic_depth_drops_whole_examples():
    x = jnp.ones((2000, 2, 3))
    y = StochasticDepth(0.2, deterministic=False).apply({}, x, rngs=KEY)
    per_example = np.asarray(y).reshape(2000, -1)
    assert np.all(per_example == per_example[:, :1])
    assert np.mean(per_example[:, 0] == 0) == pytest.approx(0.2, abs=0.04)
    assert per_example.max() == np.float32(1.25)


@pytest.mark.parametrize("layer", [Dropout, StochasticDepth])
def test_jit_grad_vmap_and_bfloat16(layer):
    x = jnp.full((8, 4, 4, 2), 2.0)
    apply = lambda x: layer(0.5, deterministic=False).apply({}, x, rngs=KEY)  # noqa: E731
    y = apply(x)
    np.testing.assert_array_equal(jax.jit(apply)(x), y)
    np.testing.assert_array_equal(jax.vmap(apply, in_axes=2, out_axes=2)(x)[:, :, 0], apply(x[:, :, 0]))
    np.testing.assert_array_equal(jax.grad(lambda x: jnp.sum(apply(x)))(x), y / 2)
    assert apply(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize("rate", [-0.1, 1.5])
@pytest.mark.parametrize("layer", [Dropout, StochasticDepth])
def test_bad_rates_are_named(layer, rate):
    with pytest.raises(UsageError, match=f"rate={rate}"):
        layer(rate, deterministic=True).apply({}, jnp.ones((2, 2)))
