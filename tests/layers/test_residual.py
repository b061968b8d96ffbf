from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm, Conv, Shortcut, StochasticDepth, residual

NORM = partial(BatchNorm, use_running_average=True)


def images(shape=(2, 5, 6, 3)):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def run(shortcut, x):
    variables = shortcut.init(jax.random.key(0), x)
    return shortcut.apply(variables, x), variables.get("params", {})


@pytest.mark.parametrize("option", ["identity", "A", "B"])
def test_shortcuts_are_the_identity_where_nothing_changes(option):
    x = images()
    y, params = run(Shortcut(3, 1, option, NORM), x)
    np.testing.assert_array_equal(y, x)
    assert params == {}


@pytest.mark.parametrize("shape", [(2, 6, 3), (2, 5, 6, 3), (2, 3, 4, 5, 3)])
def test_option_a_subsamples_and_appends_zeros(shape):
    x = images(shape)
    y, params = run(Shortcut(8, 2, "A", NORM), x)
    assert params == {}
    every_second = (slice(None), *[slice(None, None, 2)] * (x.ndim - 2))
    np.testing.assert_array_equal(y[..., :3], x[every_second])
    assert y.shape[-1] == 8
    assert np.all(y[..., 3:] == 0)


def test_option_a_may_put_half_of_the_zeros_first():
    x = images((2, 5, 6, 4))
    y, params = run(Shortcut(8, 2, "A_centred", NORM), x)
    assert params == {}
    np.testing.assert_array_equal(y[..., 2:6], x[:, ::2, ::2])
    assert np.all(y[..., :2] == 0) and np.all(y[..., 6:] == 0)


@pytest.mark.parametrize(("option", "features", "strides"), [("B", 8, 2), ("B", 3, 2), ("B", 8, 1), ("C", 3, 1)])
def test_projections_are_a_1x1_convolution_and_a_norm(option, features, strides):
    x = images()
    y, params = run(Shortcut(features, strides, option, NORM), x)
    assert jax.tree.map(jnp.shape, params) == {
        "conv": {"kernel": (1, 1, 3, features)},
        "norm": {"scale": (features,), "bias": (features,)},
    }
    expected = np.asarray(x, np.float64)[:, ::strides, ::strides] @ np.asarray(params["conv"]["kernel"][0, 0])
    np.testing.assert_allclose(y, expected / np.sqrt(1 + 1e-5), atol=1e-5)


def test_projection_without_norm():
    assert list(run(Shortcut(8, 2, "B"), images())[1]) == ["conv"]


@pytest.mark.parametrize("option", ["A", "B"])
@pytest.mark.parametrize("size", [7, 8])
def test_shortcuts_have_the_shape_of_a_3x3_branch(option, size):
    x = images((1, size, size, 3))
    shortcut, branch = Shortcut(8, 2, option, NORM), Conv(8, 3, 2, padding=1)
    y = branch.apply(branch.init(jax.random.key(0), x), x)
    around = run(shortcut, x)[0]
    np.testing.assert_allclose(residual(x, y, lambda _: around, scale=0.5), around + 0.5 * y)


def test_residual_sums_with_a_scale():
    x, branch = images(), images() + 1.0
    np.testing.assert_array_equal(residual(x, branch), x + branch)
    np.testing.assert_allclose(residual(x, branch, scale=0.1), x + 0.1 * branch, rtol=1e-6)


def test_stochastic_depth_leaves_the_shortcut():
    x, branch = jnp.ones((64, 2, 2, 1)), jnp.full((64, 2, 2, 1), 3.0)
    drop = StochasticDepth(0.25, deterministic=False)
    y = residual(x, drop.apply({}, branch, rngs={"dropout": jax.random.key(0)}))
    assert set(np.unique(y)) == {1, 5}


@pytest.mark.parametrize("option", ["A", "B", "C"])
def test_jit_grad_vmap_and_bfloat16(option):
    x = images()
    shortcut = Shortcut(8, 2, option, NORM)
    variables = shortcut.init(jax.random.key(0), x)
    y = shortcut.apply(variables, x)
    np.testing.assert_allclose(jax.jit(shortcut.apply)(variables, x), y, atol=1e-6)
    np.testing.assert_allclose(jax.vmap(lambda i: shortcut.apply(variables, i[None])[0])(x), y, atol=1e-6)
    gradient = jax.grad(lambda x: jnp.sum(shortcut.apply(variables, x) ** 2))(x)
    assert np.all(gradient[:, ::2, ::2] != 0)
    assert np.all(gradient[:, 1::2] == 0)
    low = Shortcut(8, 2, option, partial(NORM, dtype=jnp.bfloat16), dtype=jnp.bfloat16)
    assert low.apply(variables, x.astype(jnp.bfloat16)).dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("shortcut", "message"),
    [
        (Shortcut(8, 1, "identity"), "identity cannot turn 3 channels into 8"),
        (Shortcut(3, 2, "identity"), r"strides \(2, 2\)"),
        (Shortcut(2, 1, "A"), "narrow 3 channels to 2"),
        (Shortcut(8, 1, "b"), "unknown shortcut option 'b': did you mean 'B'"),
        (Shortcut(8, (1, 2, 1), "B"), r"strides=\(1, 2, 1\)"),
    ],
)
def test_wrong_use_is_named(shortcut, message):
    with pytest.raises(UsageError, match=message):
        shortcut.init(jax.random.key(0), images())


def test_sums_of_different_shapes_are_named():
    with pytest.raises(UsageError, match=r"\(2, 5, 6, 3\), branch \(2, 5, 6, 4\)"):
        residual(images(), images((2, 5, 6, 4)))
