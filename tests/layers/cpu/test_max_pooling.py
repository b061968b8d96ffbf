"""Max pooling on the CPU against XLA's reduce_window, in values and derivatives: the same bits, ties and all."""

import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from jaxcnn.layers import max_pool
from jaxcnn.layers.cpu.max_pooling import Windows, max_of_windows

# Sizes, windows, strides, padding with what ceil mode reaches.
CASES = {
    "side by side": ((6, 8), Windows((2, 2), (2, 2), ((0, 0), (0, 0)))),
    "overlapping": ((7, 9), Windows((3, 3), (2, 2), ((1, 1), (1, 0)))),
    "unit strides": ((4, 5), Windows((3, 2), (1, 1), ((1, 1), (0, 1)))),
    "strides larger than windows": ((9, 8), Windows((2, 1), (3, 2), ((0, 0), (0, 0)))),
    "ceil mode": ((6, 7), Windows((3, 3), (2, 2), ((0, 1), (1, 2)))),
    "1-D": ((9,), Windows((3,), (2,), ((1, 1),))),
    "3-D": ((4, 5, 3), Windows((2, 3, 2), (2, 1, 2), ((0, 0), (1, 1), (0, 1)))),
    "more taps than an int8 counts": ((14, 13), Windows((12, 11), (2, 1), ((1, 1), (0, 0)))),
}


def xla(x, windows):
    window, strides, padding = windows
    lowest = -np.inf if jnp.issubdtype(x.dtype, jnp.floating) else jnp.iinfo(x.dtype).min
    return lax.reduce_window(
        x, np.array(lowest, x.dtype), lax.max, (1, *window, 1), (1, *strides, 1), ((0, 0), *padding, (0, 0))
    )


def activations(sizes, dtype=np.float32, seed=0):
    """Half of them zero, as after a ReLU, and few different values: most windows have several maxima."""
    values = np.maximum(np.random.default_rng(seed).integers(-3, 4, (2, *sizes, 3)), 0)
    return jnp.asarray(values, dtype)


def distinct(sizes, seed=0):
    """No two are equal."""
    shape = (2, *sizes, 3)
    return jnp.asarray(np.random.default_rng(seed).permutation(np.prod(shape)).reshape(shape), jnp.float32)


def first_order(pool, x, windows):
    """Values and gradient; whole numbers all, so that sums are exact in any order."""
    y, back = jax.vjp(partial(pool, windows=windows), x)
    return y, back((jnp.arange(y.size) % 8).astype(y.dtype).reshape(y.shape))


def everything(pool, x, windows):
    """Also what a direction does to them."""
    direction = (jnp.arange(x.size) % 16).astype(x.dtype).reshape(x.shape)
    squares = lambda x: first_order(lambda x, windows: jnp.square(pool(x, windows)), x, windows)  # noqa: E731
    return jax.jvp(squares, (x,), (direction,))


@pytest.mark.parametrize("case", CASES)
def test_it_is_xlas_to_the_bit(case):
    sizes, windows = CASES[case]
    both = jax.jit(lambda x, of: [of(pool, x, windows) for pool in (max_of_windows, xla)], static_argnums=1)
    for x, of in ((activations(sizes), first_order), (distinct(sizes), everything)):
        found, expected = both(x, of)
        jax.tree.map(np.testing.assert_array_equal, found, expected)
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(found))


@pytest.mark.parametrize("case", CASES)
def test_forward_mode_is_the_transpose_of_reverse_mode_where_maxima_are_equal(case):
    """XLA's own forward mode may pick another of several maxima than its reverse mode does."""
    sizes, windows = CASES[case]
    x = activations(sizes)
    dx = jnp.arange(x.size, dtype=x.dtype).reshape(x.shape) % 16
    pool = partial(max_of_windows, windows=windows)
    y, dy = jax.jit(lambda: jax.jvp(pool, (x,), (dx,)))()
    weights = jnp.arange(y.size, dtype=y.dtype).reshape(y.shape) % 8
    (back,) = jax.jit(lambda: jax.vjp(pool, x)[1](weights))()
    assert float(jnp.sum(weights * dy)) == float(jnp.sum(back * dx)) > 0


@st.composite
def poolings(draw):
    dims = draw(st.integers(1, 3))
    window = tuple(draw(st.integers(1, 4)) for _ in range(dims))
    strides = tuple(draw(st.integers(1, 4)) for _ in range(dims))
    edges = tuple((draw(st.integers(0, w - 1)), draw(st.integers(0, w - 1))) for w in window)
    sizes = tuple(max(1, w - sum(e)) + draw(st.integers(0, 4)) for w, e in zip(window, edges, strict=True))
    return activations(sizes, seed=draw(st.integers(0, 99))), Windows(window, strides, edges)


@settings(deadline=None, max_examples=12, database=None)
@given(poolings())
def test_it_is_xlas_for_any_windows(pooling):
    x, windows = pooling
    found, expected = jax.jit(lambda x: [first_order(pool, x, windows) for pool in (max_of_windows, xla)])(x)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("dtype", [np.float64, jnp.bfloat16, np.float16])
def test_other_floats(dtype):
    sizes, windows = CASES["overlapping"]
    with jax.enable_x64(True):
        x = activations(sizes, dtype)
        gradient = lambda pool: jax.value_and_grad(lambda x: jnp.sum(pool(x, windows)))(x)  # noqa: E731
        found, expected = jax.jit(lambda: (gradient(max_of_windows), gradient(xla)))()
        assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
        jax.tree.map(np.testing.assert_array_equal, found, expected)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, np.int8])
def test_integers(dtype):
    sizes, windows = CASES["overlapping"]
    info = np.iinfo(dtype)
    x = np.random.default_rng(0).integers(info.min, info.max, (2, *sizes, 3), dtype, endpoint=True)
    found = jax.jit(partial(max_of_windows, windows=windows))(x)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found, xla(x, windows))


@pytest.mark.parametrize("special", [np.nan, -np.inf, np.inf])
def test_values_that_are_no_numbers(special):
    """NaN is the largest; where a window is full of -inf the gradient goes to the input, not to the padding."""
    windows = CASES["overlapping"][1]
    rng = np.random.default_rng(0)
    few = rng.normal(size=(1, 7, 9, 1)).astype(np.float32)
    few[rng.uniform(size=few.shape) < 0.3] = special
    for x in (few, np.full_like(few, special)):
        both = jax.jit(lambda x: [first_order(pool, x, windows) for pool in (max_of_windows, xla)])
        (found, gradient), (expected, xlas) = both(x)
        np.testing.assert_array_equal(found, expected)
        if not np.isnan(special):  # XLA's gradient goes past a NaN, to the last number or NaN behind it
            np.testing.assert_array_equal(gradient, xlas)


def test_the_first_of_equals_has_the_gradient():
    gradient = jax.jit(jax.grad(lambda x: jnp.sum(max_pool(x, 2))))
    assert gradient(jnp.zeros((1, 4, 2, 1))).ravel().tolist() == [1, 0, 0, 0, 1, 0, 0, 0]
    x = jnp.array([[1.0, 5, 5, 2, 5, 5]]).reshape(1, 6, 1)
    overlapping = jax.grad(lambda x: jnp.sum(max_pool(x, 3, 1)))
    assert jax.jit(overlapping)(x).ravel().tolist() == [0, 2, 1, 0, 1, 0]


def test_vmap_of_values_gradients_and_derivatives():
    sizes, windows = CASES["overlapping"]
    x = jnp.stack([distinct(sizes, seed=seed) for seed in range(3)], 1)
    found, expected = jax.jit(
        lambda x: [jax.vmap(partial(everything, pool, windows=windows), 1)(x) for pool in (max_of_windows, xla)]
    )(x)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    # Only the gradient's direction is mapped, or only the input's values.
    back = lambda pool: jax.vmap(jax.vjp(partial(pool, windows=windows), x[:, 0])[1])  # noqa: E731
    directions = jnp.stack([xla(x[:, 0], windows) * n for n in (1.0, 2.0)])
    jax.tree.map(np.testing.assert_array_equal, back(max_of_windows)(directions), back(xla)(directions))


@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map(check_vma):
    sizes, windows = CASES["overlapping"]
    x = jnp.concatenate([activations(sizes, seed=seed) for seed in range(4)])
    mesh = Mesh(np.array(jax.devices()[:4]), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    batch = PartitionSpec("devices")
    gradient = lambda pool: jax.grad(lambda x: jnp.sum(jnp.square(pool(x, windows))))  # noqa: E731
    sharded = jax.shard_map(gradient(max_of_windows), mesh=mesh, in_specs=batch, out_specs=batch, check_vma=check_vma)
    np.testing.assert_array_equal(jax.jit(sharded)(x), gradient(xla)(x))


def test_outside_of_jit():
    sizes, windows = CASES["overlapping"]
    x = distinct(sizes)
    jax.tree.map(np.testing.assert_array_equal, everything(max_of_windows, x, windows), everything(xla, x, windows))


def test_the_programs_of_the_platforms():
    sizes, windows = CASES["overlapping"]
    x = jnp.zeros((2, *sizes, 3))

    def operations(pool, platform):
        gradient = jax.jit(jax.value_and_grad(lambda x: jnp.sum(pool(x, windows))))
        text = gradient.trace(x).lower(lowering_platforms=(platform,)).as_text()
        return set(re.findall(r"stablehlo\.\w+|custom_call", text))

    assert operations(max_of_windows, "tpu") == operations(xla, "tpu")
    assert {"stablehlo.reduce_window", "stablehlo.select_and_scatter"} <= operations(max_of_windows, "tpu")
    for platform in ("cuda", "rocm"):
        assert "stablehlo.reduce_window" in operations(max_of_windows, platform)
        assert not any("scatter" in name for name in operations(max_of_windows, platform))
    assert not any("window" in name or "scatter" in name for name in operations(max_of_windows, "cpu"))
