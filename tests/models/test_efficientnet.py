"""EfficientNet's scaling, squeeze, regularisation and initialisation, against the paper and the authors' code."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxcnn import features
from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm, Dropout, InvertedResidual
from jaxcnn.models import MODELS, create
from jaxcnn.models.efficientnet import efficientnet_tiny
from jaxcnn.models.summary import stage_rows, summarize

# Stem, the seven stages and the last 1x1 convolution: channels; then blocks per stage.
SCALED = {
    0: ((32, 16, 24, 40, 80, 112, 192, 320, 1280), (1, 2, 2, 3, 3, 4, 1)),
    1: ((32, 16, 24, 40, 80, 112, 192, 320, 1280), (2, 3, 3, 4, 4, 5, 2)),
    2: ((32, 16, 24, 48, 88, 120, 208, 352, 1408), (2, 3, 3, 4, 4, 5, 2)),
    3: ((40, 24, 32, 48, 96, 136, 232, 384, 1536), (2, 3, 3, 5, 5, 6, 2)),
    4: ((48, 24, 32, 56, 112, 160, 272, 448, 1792), (2, 4, 4, 6, 6, 8, 2)),
    5: ((48, 24, 40, 64, 128, 176, 304, 512, 2048), (3, 5, 5, 7, 7, 9, 3)),
    6: ((56, 32, 40, 72, 144, 200, 344, 576, 2304), (3, 6, 6, 8, 8, 11, 3)),
    7: ((64, 32, 48, 80, 160, 224, 384, 640, 2560), (4, 7, 7, 10, 10, 13, 4)),
}


@pytest.mark.parametrize("i", [i if i == 1 else pytest.param(i, marks=pytest.mark.slow) for i in SCALED])
def test_widths_and_depths(i):
    name = f"efficientnet_b{i}"
    rows = stage_rows(create(name, num_classes=None), MODELS[name].input_shape)
    widths, depths = SCALED[i]
    assert tuple(row.output_shape[-1] for row in rows) == widths
    params = jax.eval_shape(create(name).init, jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    assert tuple(len(params[f"stage{stage}"]) for stage in range(1, 8)) == depths


def test_strides_and_kernel_sizes():
    # 1905.11946, table 1: the resolution is that of each stage's input there, of its output here.
    stages = create("efficientnet_b0").stages
    assert [stage.name for stage in stages] == ["stem", *(f"stage{i}" for i in range(1, 8)), "top"]
    assert [224 // stage.strides for stage in stages] == [112, 112, 56, 28, 14, 14, 7, 7, 7]
    params = create("efficientnet_b0").init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    kernels = [params[f"stage{i}"]["block1"]["depthwise"]["conv"]["kernel"].shape[0] for i in range(1, 8)]
    assert kernels == [3, 3, 5, 3, 5, 5, 3]


def test_the_squeeze_is_a_quarter_of_the_blocks_input():
    layers = {row.path: row for row in summarize(create("efficientnet_b0"), (224, 224, 3))}
    assert layers["stage1/block1/se/fc1"].output_shape == (8,)  # 32 / 4, nothing is expanded.
    assert layers["stage2/block1/se/fc1"].output_shape == (4,)  # 16 / 4, and not 96 / 4.
    assert layers["stage2/block2/se/fc1"].output_shape == (6,)
    assert layers["stage7/block1/se/fc2"].output_shape == (1152,)


def modules(model, kind, train=True):
    """Return all modules of a kind that a call of the model makes."""
    found = []

    def note(call, args, kwargs, context):
        if isinstance(context.module, kind) and context.method_name == "__call__":
            found.append(context.module)
        return call(*args, **kwargs)

    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    with nn.intercept_methods(note):
        jax.eval_shape(lambda x: nn.Module.init_with_output(model, rngs, x, train=train), jnp.zeros((1, 32, 32, 3)))
    return found


def test_branches_are_dropped_linearly_with_depth():
    blocks = modules(create("efficientnet_b0"), InvertedResidual)
    assert len(blocks) == 16
    np.testing.assert_allclose([block.drop_rate for block in blocks], 0.2 * np.arange(16) / 16)
    assert not any(block.deterministic for block in blocks)
    assert all(block.deterministic for block in modules(create("efficientnet_b0"), InvertedResidual, train=False))


@pytest.mark.parametrize(("i", "rate"), [(0, 0.2), (2, 0.3), (4, 0.4), (7, 0.5)])
def test_dropout_before_the_classifier(i, rate):
    (dropout,) = modules(create(f"efficientnet_b{i}"), Dropout)
    assert (dropout.rate, dropout.deterministic) == (rate, False)


@pytest.mark.parametrize(("name", "constants"), [("b4", (1e-5, 0.9)), ("b5", (1e-3, 0.99))])
def test_constants_of_batch_norm(name, constants):
    norms = modules(create(f"efficientnet_{name}"), BatchNorm)
    assert {(norm.epsilon, norm.momentum) for norm in norms} == {constants}
    norms = modules(create(f"efficientnet_{name}", epsilon=1e-2, momentum=0.5), BatchNorm)
    assert {(norm.epsilon, norm.momentum) for norm in norms} == {(1e-2, 0.5)}


@pytest.mark.parametrize(("padding", "edges"), [("symmetric", (1, 1)), ("same", (0, 1))])
def test_padding_of_the_stem(padding, edges):
    model = efficientnet_tiny(padding=padding)
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 32, 32, 3)), jnp.float32)
    variables = model.init(jax.random.key(0), x)
    got = jax.jit(lambda x: features(model, variables, x, ["stem/conv"])["stem/conv"])(x)
    kernel = variables["params"]["stem"]["conv"]["kernel"]
    layout = ("NHWC", "HWIO", "NHWC")
    expected = lax.conv_general_dilated(x, kernel, (2, 2), (edges, edges), dimension_numbers=layout)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_initial_kernels_are_those_of_the_authors_code():
    params = create("efficientnet_b0").init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    block = params["stage6"]["block2"]
    assert np.std(block["expand"]["conv"]["kernel"]) == pytest.approx(np.sqrt(2 / 1152), rel=0.02)
    assert np.std(block["depthwise"]["conv"]["kernel"]) == pytest.approx(np.sqrt(2 / 25), rel=0.02)
    assert np.std(block["se"]["fc1"]["kernel"]) == pytest.approx(np.sqrt(2 / 48), rel=0.02)
    assert np.abs(params["head"]["kernel"]).max() == pytest.approx(1 / np.sqrt(1000), rel=1e-3)


def test_multipliers_are_checked():
    assert create("efficientnet_b0", width=2).width == 2.0
    for wrong in (-1.0, float("nan"), float("inf"), "wide", True):
        with pytest.raises(UsageError, match="width of efficientnet_b0"):
            create("efficientnet_b0", width=wrong)
