"""The mobile families: widths and sizes of the papers' tables, inverted residuals, the channel shuffle."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.layers import BatchNorm, Blocks, ConvNorm, InvertedResidual, SqueezeExcite
from jaxcnn.models import create
from jaxcnn.models.shufflenet_v2 import Unit, channel_shuffle


def stage_shapes(model, size=224):
    """Return (channels, size) of the maps of the stem, the stages and the last convolution."""
    _, state = jax.eval_shape(
        lambda x: model.init_with_output(jax.random.key(0), x, capture_intermediates=True, mutable=True),
        jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32),
    )
    names = ["stem", "conv1", *(f"stage{i}" for i in range(1, 8)), "top", "conv5"]
    calls = state["intermediates"]
    maps = [calls[name]["__call__"][0].shape for name in names if name in calls]
    return [(channels, height) for _, height, _, channels in maps]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        # 1704.04861, table 1.
        (create("mobilenet_v1"), [(32, 112), (64, 112), (128, 56), (256, 28), (512, 14), (1024, 7)]),
        # 1801.04381, table 2.
        (
            create("mobilenet_v2"),
            [(32, 112), (16, 112), (24, 56), (32, 28), (64, 14), (96, 14), (160, 7), (320, 7), (1280, 7)],
        ),
        # 1905.02244, tables 1 and 2.
        (
            create("mobilenet_v3_large"),
            [(16, 112), (16, 112), (24, 56), (40, 28), (80, 14), (112, 14), (160, 7), (960, 7)],
        ),
        (create("mobilenet_v3_small"), [(16, 112), (16, 56), (24, 28), (40, 14), (48, 14), (96, 7), (576, 7)]),
        # 1807.11164, table 5; the maps of 112 are pooled before stage 2.
        (create("shufflenet_v2_x1_5"), [(24, 112), (176, 28), (352, 14), (704, 7), (1024, 7)]),
        # 1807.11626, figure 7.
        (
            create("mnasnet_a1"),
            [(32, 112), (16, 112), (24, 56), (40, 28), (80, 14), (112, 14), (160, 7), (320, 7), (1280, 7)],
        ),
    ],
    ids=lambda value: type(value).__name__,
)
def test_stages_are_those_of_the_paper(model, expected):
    assert stage_shapes(model) == expected


def test_width_leaves_the_last_convolution_wide():
    # 1801.04381, section 6.1: below 1 the last layer keeps its 1280; above it grows.
    for width, top in ((0.35, 1280), (1.4, 1792)):
        assert stage_shapes(create("mobilenet_v2", width=width))[-1] == (top, 7)


@pytest.mark.parametrize(
    ("padding", "strides", "expected"),
    [
        # Windows start at -1, 1, 3 or at 0, 2, 4: pixel 2 is in one of the former and in two of the latter.
        ("symmetric", 2, {1}),
        ("same", 2, {0, 1}),
        ("symmetric", 1, {1, 2, 3}),
        ("same", 1, {1, 2, 3}),
    ],
)
def test_padding_modes_differ_at_stride_2_alone(padding, strides, expected):
    x = jnp.zeros((1, 8, 8, 1)).at[0, 2, 2].set(1.0)
    block = InvertedResidual(2, 1, strides=strides, padding=padding)
    variables = jax.tree.map(jnp.ones_like, block.init(jax.random.key(0), x))
    rows, columns = np.nonzero(np.asarray(block.apply(variables, x)[0, :, :, 0]))
    assert set(rows) == set(columns) == expected


def test_inverted_residual_is_linear_in_its_projection_and_has_the_identity_only_where_shapes_agree():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 4, 6)), jnp.float32)
    for features, strides, identity in ((6, 1, True), (8, 1, False), (6, 2, False)):
        block = InvertedResidual(features, 12, strides=strides)
        variables = block.init(jax.random.key(0), x)
        branch = block.apply(variables, x) - (x if identity else 0)
        variables["params"]["project"] = jax.tree.map(jnp.negative, variables["params"]["project"])
        opposite = block.apply(variables, x) - (x if identity else 0)
        np.testing.assert_allclose(branch, -opposite, atol=1e-6)  # no activation behind the projection
        assert np.abs(branch).max() > 0.1


def test_inverted_residual_without_expansion_and_with_squeeze_and_excitation():
    x = jnp.ones((2, 4, 4, 6))
    norm = partial(BatchNorm, use_running_average=True)
    block = InvertedResidual(4, 6, kernel_size=5, se=partial(SqueezeExcite, 3), norm=norm)
    params = block.init(jax.random.key(0), x)["params"]
    assert set(params) == {"depthwise", "se", "project"}
    assert params["depthwise"]["conv"]["kernel"].shape == (5, 5, 1, 6)
    assert params["se"]["fc1"]["kernel"].shape == (6, 3)


def test_stochastic_depth_drops_the_branch_of_whole_examples():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((64, 4, 4, 6)), jnp.float32)
    block = InvertedResidual(6, 12, drop_rate=0.5, deterministic=False)
    variables = block.init({"params": jax.random.key(0), "dropout": jax.random.key(1)}, x)
    y = block.apply(variables, x, rngs={"dropout": jax.random.key(2)})
    whole = block.clone(deterministic=True).apply(variables, x)
    kept = np.asarray([not np.array_equal(a, b) for a, b in zip(x, y, strict=True)])
    assert 16 < kept.sum() < 48
    np.testing.assert_allclose((y - x)[kept], 2 * (whole - x)[kept], atol=1e-5)


def test_blocks_are_numbered_and_run_in_order():
    makers = [partial(InvertedResidual, 4, 6), partial(InvertedResidual, 3, 8)]
    y, variables = Blocks(makers).init_with_output(jax.random.key(0), jnp.ones((1, 4, 4, 2)))
    assert y.shape == (1, 4, 4, 3)
    assert variables["params"]["block1"]["expand"]["conv"]["kernel"].shape == (1, 1, 2, 6)
    assert variables["params"]["block2"]["expand"]["conv"]["kernel"].shape == (1, 1, 4, 8)


def test_channel_shuffle_interleaves_the_halves():
    x = jnp.arange(6)[None, None, None]
    assert channel_shuffle(x, 2).ravel().tolist() == [0, 3, 1, 4, 2, 5]
    assert channel_shuffle(x, 3).ravel().tolist() == [0, 2, 4, 1, 3, 5]


def test_shuffle_unit_leaves_the_first_half_as_it_is():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, 4, 8)), jnp.float32)
    unit = Unit(8, 1, ConvNorm)
    y = unit.apply(unit.init(jax.random.key(0), x), x)
    np.testing.assert_array_equal(y[..., ::2], x[..., :4])


def test_mobilenet_v3_features_are_what_the_last_layer_reads():
    features = jax.eval_shape(
        lambda x: create("mobilenet_v3_large", num_classes=None).init_with_output(jax.random.key(0), x)[0],
        jax.ShapeDtypeStruct((2, 96, 96, 3), jnp.float32),
    )
    assert features.shape == (2, 1280)
