import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.errors import UsageError
from jaxcnn.layers import (
    Conv,
    ConvTranspose,
    Dense,
    LocallyConnected,
    conv,
    conv_params,
    conv_transpose,
    locally_connected,
    output_size,
)


def taps(window):
    return itertools.product(*map(range, window))


def loop_conv(x, kernel, strides, edges, dilation, groups):
    """Cross-correlation by explicit loops over outputs and taps, in float64."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    window, per_group, features = kernel.shape[:-2], kernel.shape[-2], kernel.shape[-1]
    x = np.pad(x, [(0, 0), *edges, (0, 0)])
    outputs = [
        (n - d * (k - 1) - 1) // s + 1 for n, k, s, d in zip(x.shape[1:-1], window, strides, dilation, strict=True)
    ]
    y = np.zeros((x.shape[0], *outputs, features))
    for position in itertools.product(*map(range, outputs)):
        for tap in taps(window):
            at = tuple(p * s + t * d for p, s, t, d in zip(position, strides, tap, dilation, strict=True))
            for feature in range(features):
                group = feature // (features // groups)
                seen = x[(slice(None), *at, slice(group * per_group, (group + 1) * per_group))]
                y[(slice(None), *position, feature)] += seen @ kernel[(*tap, slice(None), feature)]
    return y


def scatter_conv_transpose(x, kernel, strides, edges, output_padding, dilation, groups):
    """Each input position adds its multiple of the kernel to the output, which is then cropped; float64."""
    x, kernel = np.asarray(x, np.float64), np.asarray(kernel, np.float64)
    window, per_group, features = kernel.shape[:-2], kernel.shape[-2], kernel.shape[-1]
    full = [
        (n - 1) * s + d * (k - 1) + 1 + e
        for n, s, d, k, e in zip(x.shape[1:-1], strides, dilation, window, output_padding, strict=True)
    ]
    y = np.zeros((x.shape[0], *full, features))
    for position in itertools.product(*map(range, x.shape[1:-1])):
        for tap in taps(window):
            at = tuple(p * s + t * d for p, s, t, d in zip(position, strides, tap, dilation, strict=True))
            for feature in range(features):
                group = feature // (features // groups)
                seen = x[(slice(None), *position, slice(group * per_group, (group + 1) * per_group))]
                y[(slice(None), *at, feature)] += seen @ kernel[(*tap, slice(None), feature)]
    return y[(slice(None), *(slice(lo, n - hi) for n, (lo, hi) in zip(full, edges, strict=True)))]


@st.composite
def geometries(draw, max_dims=3):
    """Random small geometry whose window fits, and a seed."""
    dims = draw(st.integers(1, max_dims))
    several = lambda low, high: tuple(draw(st.integers(low, high)) for _ in range(dims))  # noqa: E731
    window, strides, dilation = several(1, 3), several(1, 3), several(1, 2)
    edges = tuple((draw(st.integers(0, 2)), draw(st.integers(0, 2))) for _ in range(dims))
    sizes = tuple(
        max(1, d * (k - 1) + 1 - lo - hi) + draw(st.integers(0, 3))
        for d, k, (lo, hi) in zip(dilation, window, edges, strict=True)
    )
    groups = draw(st.integers(1, 2))
    return sizes, window, strides, edges, dilation, groups, draw(st.integers(0, 99))


def arrays(seed, *shapes):
    rng = np.random.default_rng(seed)
    return [rng.standard_normal(shape).astype(np.float32) for shape in shapes]


def test_textbook_cross_correlation():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    kernel = jnp.arange(4.0).reshape(2, 2, 1, 1)
    assert conv(x, kernel).ravel().tolist() == [19, 25, 37, 43]


def test_torch_and_tensorflow_padding_on_fixed_numbers():
    kernel = jnp.arange(1.0, 10).reshape(3, 3, 1, 1)
    even, odd = (jnp.arange(1.0, n * n + 1).reshape(1, n, n, 1) for n in (4, 5))
    # The first output by hand: 1 5 + 2 6 + 5 8 + 6 9 = 111, with zeros above and to the left.
    assert conv(even, kernel, 2, padding=1).ravel().tolist() == [111, 217, 363, 573]
    # TensorFlow has its zeros below and to the right: 1 1 + 2 2 + 3 3 + 4 5 + 5 6 + 6 7 + 7 9 + 8 10 + 9 11 = 348.
    assert conv(even, kernel, 2, padding="SAME").ravel().tolist() == [348, 252, 274, 175]
    assert conv(even, kernel, 2, padding=((0, 1), (0, 1))).ravel().tolist() == [348, 252, 274, 175]
    # An odd size is padded alike.
    alike = [128, 241, 184, 441, 681, 453, 320, 457, 280]
    assert conv(odd, kernel, 2, padding=1).ravel().tolist() == alike
    assert conv(odd, kernel, 2, padding="SAME").ravel().tolist() == alike


@settings(deadline=None, max_examples=20)
@given(geometries())
def test_conv_is_the_loop(geometry):
    sizes, window, strides, edges, dilation, groups, seed = geometry
    x, kernel = arrays(seed, (2, *sizes, 2 * groups), (*window, 2, 2 * groups))
    y = conv(x, kernel, strides, edges, dilation, groups)
    np.testing.assert_allclose(y, loop_conv(x, kernel, strides, edges, dilation, groups), atol=1e-4)


@settings(deadline=None, max_examples=20)
@given(geometries(max_dims=2), st.integers(0, 1))
def test_conv_transpose_is_the_scatter(geometry, extra):
    sizes, window, strides, edges, dilation, groups, seed = geometry
    output_padding = tuple(min(extra, max(s, d) - 1) for s, d in zip(strides, dilation, strict=True))
    sizes = tuple(n + 4 for n in sizes)  # enough that the padding does not crop everything
    x, kernel = arrays(seed, (2, *sizes, 2 * groups), (*window, 2, 3 * groups))
    y = conv_transpose(x, kernel, strides, edges, output_padding, dilation, groups)
    expected = scatter_conv_transpose(x, kernel, strides, edges, output_padding, dilation, groups)
    np.testing.assert_allclose(y, expected, atol=1e-4)


@settings(deadline=None, max_examples=10)
@given(geometries(max_dims=2))
def test_conv_transpose_is_the_exact_transpose(geometry):
    sizes, window, strides, edges, dilation, _, seed = geometry
    (kernel,) = arrays(seed, (*window, 2, 3))
    outputs = tuple(map(output_size, sizes, window, strides, edges, dilation))
    y, x = arrays(seed + 1, (1, *outputs, 3), (1, *sizes, 2))
    (expected,) = jax.vjp(lambda x: conv(x, kernel, strides, edges, dilation), x)[1](jnp.asarray(y))
    # What the strides leave over at the end of the input has to be named: many sizes share an output size.
    extra = tuple(
        n + lo + hi - (o - 1) * s - d * (k - 1) - 1
        for n, (lo, hi), o, s, d, k in zip(sizes, edges, outputs, strides, dilation, window, strict=True)
    )
    transposed = conv_transpose(y, np.swapaxes(kernel, -1, -2), strides, edges, extra, dilation)
    np.testing.assert_allclose(transposed, expected, atol=1e-4)


def test_causal_outputs_do_not_see_the_future():
    (x,) = arrays(0, (1, 12, 2))
    layer = Conv(3, (3,), padding="CAUSAL", kernel_dilation=2)
    variables = layer.init(jax.random.key(0), x)
    before = layer.apply(variables, x)
    assert before.shape == (1, 12, 3)
    for t in range(12):
        after = layer.apply(variables, x + 9 * np.eye(12, dtype="f")[t, :, None])
        changed = np.flatnonzero(np.any(after != before, -1))
        assert changed.min() == t
        assert changed.max() == min(t + 4, 10 + t % 2)


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_locally_connected_with_tied_kernels_is_conv(dims):
    window, strides, edges, dilation = (2,) * dims, (2,) * dims, ((1, 2),) * dims, (2,) * dims
    x, kernel = arrays(dims, (2, *(5, 6, 4)[:dims], 3), (*window, 3, 4))
    y = conv(x, kernel, strides, edges, dilation)
    tied = np.tile(kernel, int(np.prod(y.shape[1:-1])))
    np.testing.assert_allclose(locally_connected(x, tied, strides, edges, dilation), y, atol=1e-5)


def test_locally_connected_positions_have_their_own_weights():
    (x,) = arrays(0, (1, 5, 5, 2))
    kernel = np.zeros((3, 3, 2, 3, 3, 4), np.float32)  # 3x3 positions, 4 features
    kernel[..., 1, 2, 3] = 1
    y = locally_connected(x, kernel.reshape(3, 3, 2, -1))
    assert y[0, 1, 2, 3] == pytest.approx(x[0, 1:4, 2:5].sum(), rel=1e-5)
    assert np.count_nonzero(y) == 1


def test_layers_have_the_parameters_that_geometry_counts():
    x = jnp.ones((1, 9, 8, 4))
    count = lambda layer: sum(p.size for p in jax.tree.leaves(layer.init(jax.random.key(0), x)))  # noqa: E731
    assert count(Conv(6, (3, 2), groups=2)) == conv_params(4, 6, (3, 2), groups=2)
    assert count(Conv(6, 3, use_bias=False)) == conv_params(4, 6, 3, use_bias=False)
    assert count(ConvTranspose(6, 3)) == conv_params(4, 6, 3)
    unshared = conv_params(4, 6, 3, shared=False, output_shape=(4, 3))
    assert count(LocallyConnected(6, 3, strides=2)) == unshared


def test_bias_is_added_per_feature():
    x = jnp.ones((1, 4, 4, 2))
    for layer in (Conv(3, 2), ConvTranspose(3, 2), LocallyConnected(3, 2)):
        variables = layer.init(jax.random.key(0), x)
        raised = {"params": {**variables["params"], "bias": variables["params"]["bias"] + jnp.arange(3.0)}}
        rise = layer.apply(raised, x) - layer.apply(variables, x)
        np.testing.assert_allclose(rise, np.broadcast_to(np.arange(3.0), rise.shape), atol=1e-5)


def test_dense_is_the_matrix_product_over_the_last_axis():
    (x,) = arrays(0, (2, 3, 5))
    layer = Dense(4)
    params = layer.init(jax.random.key(0), x)["params"]
    params["bias"] = jnp.arange(4.0)
    expected = x.astype(np.float64) @ np.asarray(params["kernel"], np.float64) + np.arange(4)
    np.testing.assert_allclose(layer.apply({"params": params}, x), expected, atol=1e-5)


LAYERS = {
    "conv": lambda dtype: Conv(4, 3, padding=1, groups=2, dtype=dtype),
    "conv_transpose": lambda dtype: ConvTranspose(4, 3, strides=2, padding=1, dtype=dtype),
    "locally_connected": lambda dtype: LocallyConnected(4, 3, padding="SAME", dtype=dtype),
    "dense": lambda dtype: Dense(4, dtype=dtype),
}


@pytest.mark.parametrize("name", LAYERS)
def test_jit_grad_vmap_and_bfloat16(name):
    (x,) = arrays(0, (3, 6, 6, 2))
    layer = LAYERS[name](jnp.float32)
    variables = layer.init(jax.random.key(0), x)
    y = layer.apply(variables, x)
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, x), y, atol=1e-5)
    one = lambda image: layer.apply(variables, image[None])[0]  # noqa: E731
    np.testing.assert_allclose(jax.vmap(one)(jnp.asarray(x)), y, atol=1e-5)

    def loss(variables, scale):
        return jnp.sum(layer.apply(variables, x * scale) ** 2)

    grads = jax.grad(loss)(variables, 1.0)
    assert all(np.isfinite(g).all() and np.any(g != 0) for g in jax.tree.leaves(grads))

    low = LAYERS[name](jnp.bfloat16)
    assert jax.tree.all(jax.tree.map(lambda p: p.dtype == jnp.float32, low.init(jax.random.key(0), x)))
    for given_dtype in (jnp.float32, jnp.bfloat16):
        rounded = low.apply(variables, jnp.asarray(x, given_dtype))
        assert rounded.dtype == jnp.bfloat16
        np.testing.assert_allclose(rounded.astype(jnp.float32), y, atol=0.1)


@pytest.mark.parametrize(
    ("layer", "shape", "message"),
    [
        (Conv(96, 3, groups=3), (1, 8, 8, 64), "groups=3 .*64 input channels and 96 features.* 2 and 4"),
        (Conv(4, 3, groups=0), (1, 8, 8, 4), "groups=0.* 1"),
        (ConvTranspose(6, 3, groups=4), (1, 8, 8, 4), "groups=4.* 2"),
        (Conv(4, 7, padding=1), (1, 4, 8, 3), "smallest input is 5"),
        (LocallyConnected(4, 3, kernel_dilation=3), (1, 8, 6, 3), "smallest input is 7"),
        (Conv(4, 3), (8, 8, 3), r"2 dimensions.*\(8, 8, 3\)"),
        (Conv(4, (3,)), (1, 8, 8, 3), r"1 dimensions.*\(1, 8, 8, 3\)"),
        (Conv(4, (3, 3, 3, 3)), (1, 8, 8, 3), "kernel_size"),
        (Conv(4, 0), (1, 8, 8, 3), "kernel_size=.*at least 1"),
        (Conv(4, 3, strides=(1, 2, 3)), (1, 8, 8, 3), r"strides=\(1, 2, 3\)"),
        (Conv(4, 3, strides=0.5), (1, 8, 8, 3), r"strides=0.5"),
        (Conv(4, 3, padding="FULL"), (1, 8, 8, 3), "unknown padding 'FULL'"),
        (Conv(4, 3, padding="CAUSAL"), (1, 8, 8, 3), "1-D"),
        (ConvTranspose(4, 3, padding="SAME"), (1, 8, 8, 3), "padding='SAME'"),
        (ConvTranspose(4, 3, strides=2, output_padding=2), (1, 8, 8, 3), "output_padding=2.*stride 2"),
    ],
)
def test_wrong_use_is_named(layer, shape, message):
    with pytest.raises(UsageError, match=message):
        jax.eval_shape(layer.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, jnp.float32))
