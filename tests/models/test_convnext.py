"""ConvNeXt's stages, layer scale, stochastic depth, initialisation and smallest input."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import features
from jaxcnn.errors import UsageError
from jaxcnn.layers import StochasticDepth
from jaxcnn.models import create
from jaxcnn.models.convnext import convnext_test
from jaxcnn.models.summary import stage_rows, summarize

IMAGES = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)


def test_stages():
    # 2201.03545, table 9.
    rows = stage_rows(create("convnext_tiny"), (224, 224, 3))
    assert [(row.path, row.output_shape) for row in rows] == [
        ("stem", (56, 56, 96)),
        ("stage1", (56, 56, 96)),
        ("stage2", (28, 28, 192)),
        ("stage3", (14, 14, 384)),
        ("stage4", (7, 7, 768)),
        ("norm", (768,)),
        ("head", (1000,)),
    ]


def test_a_block_is_an_inverted_bottleneck():
    layers = [row for row in summarize(create("convnext_tiny"), (224, 224, 3)) if row.path.startswith("stage2/")]
    assert [(row.path, row.output_shape[-1]) for row in layers[:6]] == [
        ("stage2/norm", 96),
        ("stage2/downsample", 192),
        ("stage2/block1", 192),  # The layer scale is the block's own.
        ("stage2/block1/depthwise", 192),
        ("stage2/block1/norm", 192),
        ("stage2/block1/fc1", 768),
    ]
    assert layers[3].params == 7 * 7 * 192 + 192


@pytest.mark.parametrize(("size", "blocks", "rate"), [("tiny", 18, 0.1), ("small", 36, 0.4), ("large", 36, 0.5)])
def test_branches_are_dropped_linearly_with_depth(size, blocks, rate):
    rates = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, StochasticDepth):
            rates.append(context.module.rate)
            assert not context.module.deterministic
        return call(*args, **kwargs)

    model = create(f"convnext_{size}")
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    with nn.intercept_methods(note):
        jax.eval_shape(lambda x: nn.Module.init_with_output(model, rngs, x, train=True), IMAGES)
    np.testing.assert_allclose(rates, np.linspace(0, rate, blocks))


def test_initial_values():
    params = create("convnext_tiny").init(jax.random.key(0), IMAGES)["params"]
    block = params["stage3"]["block9"]
    for kernel in (block["fc1"]["kernel"], block["depthwise"]["kernel"], params["stem"]["conv"]["kernel"]):
        assert np.std(kernel) == pytest.approx(0.02, rel=0.02)
    np.testing.assert_array_equal(block["layer_scale"], np.full(384, 1e-6, np.float32))


def test_the_layer_scale_multiplies_the_branch_per_channel():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 16, 16, 3)), jnp.float32)
    model = convnext_test(layer_scale=1.0)
    variables = model.init(jax.random.key(0), x)
    scales = variables["params"]["stage1"]["block1"]["layer_scale"]

    @jax.jit
    def branch(scales):
        variables["params"]["stage1"]["block1"]["layer_scale"] = scales
        maps = features(model, variables, x, ["stem", "stage1/block1"])
        return maps["stage1/block1"] - maps["stem"]

    whole, one = branch(scales), branch(jnp.zeros_like(scales).at[3].set(0.5))
    assert np.abs(whole).max() > 1e-4
    np.testing.assert_allclose(one[..., 3], 0.5 * whole[..., 3], atol=1e-6)
    np.testing.assert_array_equal(np.delete(one, 3, axis=-1), 0)


def test_features_are_normalised():
    model = convnext_test(num_classes=None)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 16, 16, 3)), jnp.float32)
    pooled = jax.jit(model.apply)(model.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(pooled.mean(-1), 0, atol=1e-5)


def test_the_smallest_image():
    init = partial(jax.eval_shape, create("convnext_tiny").init, jax.random.key(0))
    init(jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32))
    with pytest.raises(UsageError, match="at least 32x32"):
        init(jax.ShapeDtypeStruct((1, 31, 32, 3), jnp.float32))


def test_a_width_for_each_stage():
    with pytest.raises(UsageError, match="one of each per stage"):
        create("convnext_tiny", depths=(3, 3)).init(jax.random.key(0), IMAGES)
