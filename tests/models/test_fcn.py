"""FCN-32s, 16s and 8s: geometry, and one starting from another."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.models.fcn import IMAGE_OFFSET, SKIPS, fcn_tiny, from_coarser, from_vgg
from jaxcnn.models.vgg import vgg_tiny

IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((2, 24, 20, 3)), jnp.float32)


def randomised(variables):
    """Parameters none of which is zero."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda p: (0.1 * rng.standard_normal(p.shape)).astype(np.float32), variables)


def test_offsets_follow_from_the_geometry():
    # A layer of kernel k, stride s and padding p sees around input i at its output (i + p - (k - 1) / 2) / s;
    # a transposed one puts it at i * s + (k - 1) / 2 - p. Here for the image's first pixel, i = 0.
    half = Fraction(1, 2)
    at = {1: Fraction(100 - 1)}  # conv1_1: 3x3, padding 100
    for stride in (2, 4, 8, 16, 32):
        at[stride] = (at[stride // 2] - half) / 2  # 2x2 pooling
    scores = at[32] - 3  # fc6: 7x7 without padding
    found = {32: scores * 32 + 63 * half}
    for _, _, stride, offset in SKIPS:
        scores = scores * 2 + 3 * half
        assert at[stride] - scores == offset
        found[stride] = scores * stride + (2 * stride - 1) * half
    assert found == IMAGE_OFFSET


@pytest.mark.parametrize("stride", [32, 16, 8])
def test_any_size_is_admitted(stride):
    model = fcn_tiny(stride=stride)
    for height in (1, 2, *range(30, 36), 63, 64, 65, 500):
        spec = jax.ShapeDtypeStruct((1, height, height + 7, 3), jnp.float32)
        logits, _ = jax.eval_shape(model.init_with_output, jax.random.key(0), spec)
        assert logits.shape == (1, height, height + 7, 5)


def test_starts_from_a_classifier():
    spec = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    vgg = randomised(vgg_tiny(depths=(1, 1, 2, 1, 1)).init(jax.random.key(0), spec))
    variables = from_vgg(fcn_tiny().init(jax.random.key(0), IMAGES), vgg)
    params = variables["params"]
    last = [tree["params"]["stage3"]["block2"]["conv"]["kernel"] for tree in (variables, vgg)]
    np.testing.assert_array_equal(*last)
    maps = np.random.default_rng(1).standard_normal((7, 7, 8))
    dense = maps.reshape(-1) @ vgg["params"]["fc6"]["dense"]["kernel"]
    np.testing.assert_allclose(np.tensordot(maps, params["fc6"]["conv"]["kernel"], 3), dense, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(params["fc7"]["conv"]["kernel"][0, 0], vgg["params"]["fc7"]["dense"]["kernel"])
    # Whatever VGG says, all scores start at zero.
    assert not np.any(fcn_tiny().apply(variables, IMAGES))


def test_a_classifier_of_other_depths_is_refused():
    spec = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    vgg = jax.eval_shape(vgg_tiny(depths=(1, 1, 1, 1, 2)).init, jax.random.key(0), spec)
    with pytest.raises(UsageError, match=r"missing stage3/block2.*left over.*stage5/block2"):
        from_vgg(fcn_tiny().init(jax.random.key(0), IMAGES), vgg)


@pytest.mark.parametrize(("coarse", "fine"), [(32, 16), (16, 8)])
def test_a_finer_network_starts_as_the_coarser_one(coarse, fine):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 96, 96, 3)), jnp.float32)
    model, finer = fcn_tiny(stride=coarse), fcn_tiny(stride=fine)
    trained = randomised(model.init(jax.random.key(0), x))
    continued = from_coarser(finer.init(jax.random.key(1), x), trained)
    added = continued["params"]["head"][{16: "score_pool4", 8: "score_pool3"}[fine]]
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(added))
    # Equal but for bilinear interpolation in two steps, which is not quite that in one.
    expected, got = model.apply(trained, x), finer.apply(continued, x)
    assert np.linalg.norm(got - expected) < 0.1 * np.linalg.norm(expected - expected.mean())


def test_learned_upsampling_is_continued():
    model, finer = (fcn_tiny(stride=stride, learned_upsampling=True) for stride in (16, 8))
    trained = randomised(model.init(jax.random.key(0), IMAGES))
    start = finer.init(jax.random.key(1), IMAGES)
    continued = from_coarser(start, trained)
    for name, source in (("upscore2", trained), ("upscore8", start)):
        kernel, expected = (tree["params"]["head"][name]["conv"]["kernel"] for tree in (continued, source))
        np.testing.assert_array_equal(kernel, expected)


def test_a_coarser_network_cannot_start_from_a_finer_one():
    coarser, finer = (fcn_tiny(stride=stride).init(jax.random.key(0), IMAGES) for stride in (32, 16))
    with pytest.raises(UsageError, match=r"left over.*head/score_pool4"):
        from_coarser(coarser, finer)
