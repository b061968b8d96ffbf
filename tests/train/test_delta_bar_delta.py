"""Jacobs' rule on numbers worked by hand, on a badly conditioned valley, and as a transformation."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.errors import UsageError
from jaxcnn.train.delta_bar_delta import delta_bar_delta


def test_hand_worked_numbers():
    # theta 0.5: the average is 0, 2, 0, -2, 0 before the five gradients.
    tx = delta_bar_delta(0.5, kappa=0.25, phi=0.5, theta=0.5)
    params = {"w": jnp.zeros(())}
    state = tx.init(params)
    expected = [  # gradient, rate, update, average after
        (4.0, 0.5, -2.0, 2.0),  # no past: unchanged
        (-2.0, 0.25, 0.5, 0.0),  # flipped: halved
        (-4.0, 0.25, 1.0, -2.0),  # average of 0: unchanged
        (-1.0, 0.5, 0.5, -1.5),  # agrees: plus kappa
        (-3.0, 0.75, 2.25, -2.25),
    ]
    for gradient, rate, update, average in expected:
        updates, state = tx.update({"w": jnp.float32(gradient)}, state, params)
        assert (float(state.rate["w"]), float(updates["w"]), float(state.delta_bar["w"])) == (
            rate,
            update,
            average,
        )


def _distance(tx, steps):
    scale = jnp.array([1.0, 100.0])
    start = jnp.array([1.0, 1.0])

    def step(carry, _):
        w, state = carry
        updates, state = tx.update(scale * w, state, w)
        return (optax.apply_updates(w, updates), state), None

    (w, _), _ = jax.lax.scan(step, (start, tx.init(start)), None, steps)
    return float(jnp.linalg.norm(w))


def test_beats_gradient_descent_in_a_narrow_valley():
    plain = _distance(optax.sgd(0.001), 200)
    own_rates = _distance(delta_bar_delta(0.001, kappa=0.001, phi=0.3, theta=0.7), 200)
    assert plain > 0.5
    assert own_rates < plain / 100


@settings(deadline=None, max_examples=25)
@given(
    gradients=st.lists(st.integers(-800, 800).map(lambda n: n / 8), min_size=1, max_size=8),
    kappa=st.floats(0, 0.5),
    phi=st.floats(0, 0.9),
    theta=st.floats(0, 0.9),
)
def test_agrees_with_plain_python(gradients, kappa, phi, theta):
    tx = delta_bar_delta(0.1, kappa, phi, theta)
    state = tx.init(jnp.zeros(()))
    rate, bar = np.float32(0.1), np.float32(0)
    for gradient in gradients:
        if np.sign(bar) * np.sign(gradient) > 0:
            rate = rate + np.float32(kappa)
        elif np.sign(bar) * np.sign(gradient) < 0:
            rate = rate * np.float32(1 - phi)
        previous = float(state.delta_bar)
        update, state = tx.update(jnp.float32(gradient), state)
        # The average is checked against its own past: rounding may otherwise tip a sign near 0.
        bar = np.float32(state.delta_bar)
        np.testing.assert_allclose(bar, (1 - theta) * gradient + theta * previous, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(state.rate, rate, rtol=1e-5)
        np.testing.assert_allclose(update, -rate * np.float32(gradient), rtol=1e-5)
        assert state.rate > 0


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_keeps_the_tree_and_the_types_under_jit(dtype):
    params = {"conv": {"kernel": jnp.ones((2, 3), dtype)}, "bias": jnp.ones(3, dtype)}
    tx = delta_bar_delta(0.1)
    state = tx.init(params)
    plain = tx.update(params, state)
    jitted = jax.jit(tx.update)(params, state)
    assert jax.tree.map(jnp.shape, plain[0]) == jax.tree.map(jnp.shape, params)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(plain[0])} == {dtype}
    assert {leaf.dtype.name for leaf in jax.tree.leaves(plain[1])} == {"float32"}
    for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(jitted), strict=True):
        np.testing.assert_allclose(a.astype(jnp.float32), b.astype(jnp.float32), rtol=1e-6)


def test_tiny_gradients_of_one_sign_still_agree():
    tx = delta_bar_delta(0.1, kappa=1.0)
    state = tx.init(jnp.zeros(()))
    for _ in range(2):  # the product of the two would be 0 in float32
        _, state = tx.update(jnp.float32(1e-30), state)
    assert float(state.rate) == pytest.approx(1.1)


@pytest.mark.parametrize(
    ("name", "value"), [("learning_rate", 0.0), ("kappa", -0.1), ("phi", 1.0), ("theta", float("nan"))]
)
def test_values_out_of_range(name, value):
    with pytest.raises(UsageError, match=f"^{name} is {value}: expected"):
        delta_bar_delta(**{"learning_rate": 0.1, name: value})
