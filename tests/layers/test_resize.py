"""Bilinear resizing against torch's numbers and a loop, and as a transposed convolution."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxcnn.errors import UsageError
from jaxcnn.layers import BilinearUpsample, resize_bilinear
from jaxcnn.layers.resize import bilinear_kernel


def loop_resize(x, height, width):
    """Interpolate pixel by pixel between the four nearest centres, clamped to the image."""
    y = np.zeros((x.shape[0], height, width, x.shape[-1]))
    for i in range(height):
        for j in range(width):
            corners = []
            for position, size, new in ((i, x.shape[1], height), (j, x.shape[2], width)):
                source = max((position + 0.5) * size / new - 0.5, 0.0)
                low = min(int(source), size - 1)
                corners.append((low, min(low + 1, size - 1), source - low))
            (top, bottom, down), (left, right, across) = corners
            upper = (1 - across) * x[:, top, left] + across * x[:, top, right]
            lower = (1 - across) * x[:, bottom, left] + across * x[:, bottom, right]
            y[:, i, j] = (1 - down) * upper + down * lower
    return y


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 20), st.integers(1, 20))
def test_resizing_is_its_loop(height, width, new_height, new_width):
    x = np.random.default_rng(0).standard_normal((2, height, width, 3)).astype(np.float32)
    y = resize_bilinear(x, (new_height, new_width))
    np.testing.assert_allclose(y, loop_resize(x, new_height, new_width), atol=1e-5)


def test_fixed_numbers():
    # torch.nn.functional.interpolate(..., mode="bilinear", align_corners=False)
    row = jnp.asarray([0.0, 4.0, 8.0]).reshape(1, 1, 3, 1)
    assert resize_bilinear(row, (1, 6)).ravel().tolist() == [0, 1, 3, 5, 7, 8]
    assert resize_bilinear(row, (1, 2)).ravel().tolist() == [1, 7]
    assert resize_bilinear(row, (2, 1)).ravel().tolist() == [4, 4]
    ramp = jnp.arange(5.0).reshape(1, 5, 1, 1)
    np.testing.assert_allclose(resize_bilinear(ramp, (3, 1)).ravel(), [1 / 3, 2, 11 / 3], atol=1e-6)


def test_result_is_float32():
    x = jnp.ones((1, 3, 3, 1), jnp.bfloat16)
    assert resize_bilinear(x, 3).dtype == resize_bilinear(x, 5).dtype == jnp.float32


@pytest.mark.parametrize(("shape", "sizes", "message"), [((3, 3, 1), 4, "got shape"), ((1, 3, 3, 1), (4, 0), "sizes=")])
def test_wrong_use_is_named(shape, sizes, message):
    with pytest.raises(UsageError, match=message):
        resize_bilinear(jnp.ones(shape), sizes)


def test_kernels_on_fixed_numbers():
    np.testing.assert_allclose(bilinear_kernel(3), np.outer([0.5, 1, 0.5], [0.5, 1, 0.5]))
    np.testing.assert_allclose(bilinear_kernel(4)[1], 0.75 * np.array([0.25, 0.75, 0.75, 0.25]))


@pytest.mark.parametrize("factor", [2, 3, 8])
def test_upsampling_interpolates_inside(factor):
    # Away from the border, where the transposed convolution fades to zero, both ways interpolate alike.
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 3)).astype(np.float32)
    y = BilinearUpsample(factor).apply({}, x)
    assert y.shape[1:3] == tuple((n + 1) * factor - factor % 2 for n in (4, 5))
    inside = y[:, factor // 2 :, factor // 2 :][:, : 4 * factor, : 5 * factor]
    cut = slice(factor, -factor)
    np.testing.assert_allclose(
        inside[:, cut, cut], resize_bilinear(x, (4 * factor, 5 * factor))[:, cut, cut], atol=1e-5
    )


def test_learned_upsampling_starts_as_the_fixed_one():
    x = np.random.default_rng(0).standard_normal((2, 4, 5, 3)).astype(np.float32)
    y, variables = BilinearUpsample(4, learned=True).init_with_output(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, variables) == {"params": {"conv": {"kernel": (8, 8, 3, 3)}}}
    np.testing.assert_allclose(y, BilinearUpsample(4).apply({}, x), atol=1e-6)
