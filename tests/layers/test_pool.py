import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.errors import UsageError
from jaxcnn.layers import (
    adaptive_avg_pool,
    adaptive_max_pool,
    avg_pool,
    global_avg_pool,
    global_max_pool,
    max_pool,
    prod_pool,
    sum_pool,
)

POOLS = {"max": max_pool, "avg": avg_pool, "sum": sum_pool, "prod": prod_pool}


def loop_pool(x, reduce, window, strides, edges, ceil_mode):
    """Pool by a loop over windows; `reduce` gets the input's values and the number with padding."""
    x = np.asarray(x, np.float64)
    starts = []
    for size, k, s, (lo, hi) in zip(x.shape[1:-1], window, strides, edges, strict=True):
        here = []
        for start in range(-lo, size + hi, s):
            fits = start + k <= size + hi
            previous_reached_the_end = here and here[-1] + k >= size + hi
            if fits or (ceil_mode and not previous_reached_the_end and start < size):
                here.append(start)
        starts.append(here)
    y = np.zeros((x.shape[0], *map(len, starts), x.shape[-1]))
    for position in itertools.product(*(range(len(s)) for s in starts)):
        begin = [s[p] for s, p in zip(starts, position, strict=True)]
        inside = tuple(slice(max(b, 0), b + k) for b, k in zip(begin, window, strict=True))
        counted = [min(b + k, n + hi) - b for b, k, n, (_, hi) in zip(begin, window, x.shape[1:-1], edges, strict=True)]
        values = x[(slice(None), *inside)].reshape(x.shape[0], -1, x.shape[-1])
        y[(slice(None), *position)] = reduce(values, math.prod(counted))
    return y


REFERENCES = {
    "max": lambda values, counted: values.max(1),
    "sum": lambda values, counted: values.sum(1),
    "prod": lambda values, counted: values.prod(1),
    "avg": lambda values, counted: values.sum(1) / counted,
    "avg without padding": lambda values, counted: values.mean(1),
}


@st.composite
def poolings(draw):
    dims = draw(st.integers(1, 3))
    window = tuple(draw(st.integers(1, 3)) for _ in range(dims))
    strides = tuple(draw(st.integers(1, 4)) for _ in range(dims))
    edges = tuple((draw(st.integers(0, k - 1)), draw(st.integers(0, k - 1))) for k in window)
    sizes = tuple(max(1, k - sum(e)) + draw(st.integers(0, 4)) for k, e in zip(window, edges, strict=True))
    x = np.random.default_rng(draw(st.integers(0, 99))).standard_normal((2, *sizes, 2)).astype(np.float32)
    return x, window, strides, edges, draw(st.booleans())


@settings(deadline=None, max_examples=12)
@given(poolings())
def test_poolings_are_their_loops(pooling):
    x, window, strides, edges, ceil_mode = pooling
    for name, reduce in REFERENCES.items():
        kind, *without = name.split(" ", 1)
        options = {"count_include_pad": False} if without else {}
        y = POOLS[kind](x, window, strides, edges, ceil_mode, **options)
        np.testing.assert_allclose(
            y, loop_pool(x, reduce, window, strides, edges, ceil_mode), rtol=1e-4, atol=1e-5, err_msg=name
        )


def test_textbook_max_pool():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    assert max_pool(x, 2, 1).ravel().tolist() == [4, 5, 7, 8]


def test_padding_is_never_the_maximum():
    assert max_pool(-jnp.ones((1, 3, 1)), 2, padding=1).ravel().tolist() == [-1, -1]
    assert max_pool(-jnp.ones((1, 3, 1), jnp.int32), 2, padding=1).ravel().tolist() == [-1, -1]


def test_ceil_mode_divisor_on_fixed_numbers():
    x = jnp.asarray([[[1.0], [2.0], [3.0]]])
    assert avg_pool(x, 2, ceil_mode=True).ravel().tolist() == [1.5, 3.0]  # beyond the end is not counted
    assert avg_pool(x, 2, padding=1, ceil_mode=True).ravel().tolist() == [0.5, 2.5]
    assert avg_pool(x, 2, padding=1, count_include_pad=False).ravel().tolist() == [1.0, 2.5]
    four = jnp.asarray([[[1.0], [2.0], [3.0], [4.0]]])
    # Windows -1..1, 1..3, 3..5 of which the padding ends at 4: the last one divides by 2.
    assert avg_pool(four, 3, 2, padding=1, ceil_mode=True).ravel().tolist() == [1.0, 3.0, 2.0]


def square(size):
    """1, 2, 3, ... in rows: [1, size, size, 1]."""
    return jnp.arange(1.0, size * size + 1).reshape(1, size, size, 1)


def test_ceil_mode_on_fixed_numbers():
    # 3x3 windows with stride 2, as in GoogLeNet and SqueezeNet: the last row and column of 4x4 are seen or not.
    assert max_pool(square(4), 3, 2).ravel().tolist() == [11]
    assert max_pool(square(4), 3, 2, ceil_mode=True).ravel().tolist() == [11, 12, 15, 16]
    assert avg_pool(square(4), 3, 2).ravel().tolist() == [6]
    assert avg_pool(square(4), 3, 2, ceil_mode=True).ravel().tolist() == [6, 7.5, 12, 13.5]
    # An odd size has no such rest.
    assert max_pool(square(5), 3, 2, ceil_mode=True).ravel().tolist() == [13, 15, 23, 25]
    # With padding the last windows see one more row and column, and padding after them.
    padded = max_pool(square(4), 3, 2, padding=1, ceil_mode=True)
    assert padded.ravel().tolist() == [6, 8, 8, 14, 16, 16, 14, 16, 16]


def test_counted_and_uncounted_padding_on_fixed_numbers():
    x = square(4)
    counted = [14 / 9, 30 / 9, 57 / 9, 11]  # 1 + 2 + 5 + 6 = 14, and so on, over nine positions
    assert avg_pool(x, 3, 2, padding=1).ravel().tolist() == pytest.approx(counted)
    uncounted = [14 / 4, 30 / 6, 57 / 6, 11]
    assert avg_pool(x, 3, 2, padding=1, count_include_pad=False).ravel().tolist() == pytest.approx(uncounted)
    # Ceil mode too: windows that reach beyond the padding count what is before its end, 9, 6 or 4 positions.
    counted = [14 / 9, 30 / 9, 12 / 6, 57 / 9, 11, 36 / 6, 27 / 6, 45 / 6, 16 / 4]
    assert avg_pool(x, 3, 2, padding=1, ceil_mode=True).ravel().tolist() == pytest.approx(counted)
    uncounted = [14 / 4, 30 / 6, 12 / 2, 57 / 6, 11, 36 / 3, 27 / 2, 45 / 3, 16]
    y = avg_pool(x, 3, 2, padding=1, ceil_mode=True, count_include_pad=False)
    assert y.ravel().tolist() == pytest.approx(uncounted)


def test_torch_and_tensorflow_padding_on_fixed_numbers():
    # TensorFlow pads an even size at the end only, torch at both ends.
    assert max_pool(square(4), 3, 2, padding=1).ravel().tolist() == [6, 8, 14, 16]
    assert max_pool(square(4), 3, 2, padding="SAME").ravel().tolist() == [11, 12, 15, 16]
    y = avg_pool(square(4), 3, 2, padding="SAME", count_include_pad=False)
    assert y.ravel().tolist() == [6, 7.5, 12, 13.5]
    # An odd size is padded alike.
    odd = [7, 9, 10, 17, 19, 20, 22, 24, 25]
    assert max_pool(square(5), 3, 2, padding=1).ravel().tolist() == odd
    assert max_pool(square(5), 3, 2, padding="SAME").ravel().tolist() == odd


def test_same_padding_is_tensorflows():
    x = jnp.arange(4.0).reshape(1, 4, 1)
    assert max_pool(x, 3, 2, "SAME").ravel().tolist() == [2, 3]
    assert avg_pool(x, 3, 2, "SAME", count_include_pad=False).ravel().tolist() == [1.0, 2.5]


def test_max_pool_of_integers_keeps_the_type():
    x = jnp.arange(16, dtype=jnp.uint8).reshape(1, 4, 4, 1)
    y = max_pool(x, 2)
    assert y.dtype == jnp.uint8
    assert y.ravel().tolist() == [5, 7, 13, 15]
    assert sum_pool(x.astype(jnp.int32), 2).ravel().tolist() == [10, 18, 42, 50]
    with pytest.raises(UsageError, match="floats, got uint8"):
        avg_pool(x, 2)


def test_global_poolings():
    x = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    np.testing.assert_allclose(global_avg_pool(x), x.astype(np.float64).mean((1, 2)), atol=1e-6)
    np.testing.assert_array_equal(global_max_pool(x), x.max((1, 2)))


@settings(deadline=None, max_examples=8)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
def test_adaptive_poolings_are_loops_over_bins(height, width, rows, columns):
    x = np.random.default_rng(0).standard_normal((2, height, width, 2)).astype(np.float32)
    average, largest = adaptive_avg_pool(x, (rows, columns)), adaptive_max_pool(x, (rows, columns))
    for i, j in itertools.product(range(rows), range(columns)):
        top, bottom = math.floor(i * height / rows), math.ceil((i + 1) * height / rows)
        left, right = math.floor(j * width / columns), math.ceil((j + 1) * width / columns)
        bin_ = x[:, top:bottom, left:right].astype(np.float64)
        np.testing.assert_allclose(average[:, i, j], bin_.mean((1, 2)), atol=1e-5)
        np.testing.assert_allclose(largest[:, i, j], bin_.max((1, 2)))


def test_adaptive_pool_in_one_and_three_dimensions():
    x = jnp.arange(5.0).reshape(1, 5, 1)
    assert adaptive_avg_pool(x, 3).ravel().tolist() == [0.5, 2.0, 3.5]
    volume = jnp.arange(64.0).reshape(1, 4, 4, 4, 1)
    assert adaptive_max_pool(volume, 2).ravel().tolist() == max_pool(volume, 2).ravel().tolist()


def test_gradients_on_fixed_numbers():
    x = jnp.asarray([[[1.0], [3.0], [2.0], [0.0]]])
    total = lambda pool: jax.grad(lambda x: jnp.sum(pool(x)))(x).ravel().tolist()  # noqa: E731
    assert total(lambda x: max_pool(x, 2, 1)) == [0, 2, 1, 0]
    assert total(lambda x: max_pool(x, 2, 2, 1, ceil_mode=True)) == [1, 1, 0, 1]
    assert total(lambda x: sum_pool(x, 2, 1)) == [1, 2, 2, 1]
    assert total(lambda x: avg_pool(x, 3, 2, 1)) == pytest.approx([1 / 3, 2 / 3, 1 / 3, 1 / 3])
    assert total(lambda x: prod_pool(x, 4)) == [0, 0, 0, 6]  # one zero: only its own derivative is left
    two_zeros = jnp.asarray([[[0.0], [5.0], [0.0]]])
    assert jax.grad(lambda x: jnp.sum(prod_pool(x, 3)))(two_zeros).ravel().tolist() == [0, 0, 0]
    assert jax.hessian(lambda x: jnp.sum(prod_pool(x, 3)))(two_zeros).squeeze()[0].tolist() == [0, 0, 5]


@pytest.mark.parametrize("name", POOLS)
def test_jit_vmap_and_bfloat16(name):
    x = jnp.asarray(np.random.default_rng(0).uniform(0.5, 1.5, (3, 7, 7, 2)), jnp.float32)
    pool = lambda x: POOLS[name](x, 3, 2, 1, ceil_mode=True)  # noqa: E731
    np.testing.assert_allclose(jax.jit(pool)(x), pool(x), rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(lambda image: pool(image[None])[0])(x), pool(x), rtol=1e-5)
    low = pool(x.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), pool(x), rtol=0.1)
    gradient = jax.grad(lambda x: jnp.sum(pool(x)))(x.astype(jnp.bfloat16))
    assert gradient.dtype == jnp.bfloat16
    assert np.isfinite(gradient.astype(jnp.float32)).all()


def test_bfloat16_averages_are_added_up_in_float32():
    # 400 ones in bfloat16 stop growing at 256.
    assert float(avg_pool(jnp.ones((1, 20, 20, 1), jnp.bfloat16), 20).squeeze()) == 1
    assert float(sum_pool(jnp.ones((1, 20, 20, 1), jnp.bfloat16), 20).squeeze()) == 400


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 9}, "smallest input is 9"),
        ({"window": 2, "padding": 2}, "padding=2 must be smaller"),
        ({"window": (2, 2, 2)}, r"window=\(2, 2, 2\)"),
        ({"window": 0}, "window=0"),
        ({"window": 2, "strides": 0}, "strides=0"),
        ({"window": 2, "padding": "CAUSAL"}, "CAUSAL"),
        ({"window": 2, "padding": "valid"}, "did you mean 'VALID'"),
    ],
)
def test_wrong_use_is_named(arguments, message):
    with pytest.raises(UsageError, match=message):
        max_pool(jnp.ones((1, 8, 8, 1)), **arguments)


def test_wrong_rank_is_named():
    with pytest.raises(UsageError, match=r"\(8, 8\)"):
        max_pool(jnp.ones((8, 8)), 2)
