"""AlexNet and ZFNet against the papers' figures and sections."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn import features
from jaxcnn.errors import UsageError
from jaxcnn.layers import (
    conv,
    local_response_norm_caffe,
    local_response_norm_paper,
    local_response_norm_torch,
    max_pool,
)
from jaxcnn.models import create
from jaxcnn.models.alexnet import alexnet_2012_tiny, alexnet_tiny
from jaxcnn.models.zfnet import zfnet_tiny

TINY = {"alexnet_2012": (alexnet_2012_tiny, 67), "alexnet": (alexnet_tiny, 63), "zfnet": (zfnet_tiny, 64)}


def started(model, side, n=2):
    x = 5.0 * jnp.asarray(np.random.default_rng(0).standard_normal((n, side, side, 3)), jnp.float32)
    return model.init(jax.random.key(0), x), x


@pytest.mark.parametrize(
    ("name", "side", "maps", "flat"),
    [
        # Krizhevsky et al. 2012, figure 2 and section 3.5.
        ("alexnet_2012", 227, [(55, 96), (27, 256), (13, 384), (13, 384), (13, 256)], 9216),
        ("alexnet", 224, [(55, 64), (27, 192), (13, 384), (13, 256), (13, 256)], 9216),
        # Zeiler and Fergus 2013, figure 3.
        ("zfnet", 224, [(110, 96), (26, 256), (13, 384), (13, 384), (13, 256)], 9216),
        ("zfnet_512_1024_512", 224, [(110, 96), (26, 256), (13, 512), (13, 1024), (13, 512)], 18432),
    ],
)
def test_maps_are_the_papers(name, side, maps, flat):
    model, images = create(name), jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    names = [f"conv{i}" for i in range(1, 6)]
    found = jax.eval_shape(lambda v, x: features(model, v, x, names), variables, images)
    assert [found[name].shape[1:] for name in names] == [(size, size, channels) for size, channels in maps]
    assert variables["params"]["fc6"]["dense"]["kernel"].shape == (flat, 4096)


def test_two_groups_see_half_of_the_channels():
    images = jax.ShapeDtypeStruct((1, 227, 227, 3), jnp.float32)
    params = jax.eval_shape(create("alexnet_2012").init, jax.random.key(0), images)["params"]
    shapes = [params[f"conv{i}"]["conv"]["kernel"].shape for i in range(1, 6)]
    assert shapes == [(11, 11, 3, 96), (5, 5, 48, 256), (3, 3, 256, 384), (3, 3, 192, 384), (3, 3, 192, 256)]


@pytest.mark.parametrize(
    ("name", "ones"),
    [
        ("alexnet_2012", {"conv2", "conv4", "conv5", "fc6", "fc7"}),
        ("alexnet", {"conv2", "conv4", "conv5", "fc6", "fc7"}),
        ("zfnet", set()),
    ],
)
def test_biases_that_start_at_one(name, ones):
    tiny, side = TINY[name]
    params = started(tiny(), side)[0]["params"]
    biases = {name: next(iter(layer.values()))["bias"] for name, layer in params.items() if name != "head"}
    assert {name for name, bias in biases.items() if np.all(bias == 1)} == ones
    assert {name for name, bias in biases.items() if np.all(bias == 0)} == set(biases) - ones
    assert np.all(params["head"]["bias"] == 0)


@pytest.mark.parametrize(
    ("options", "between"),
    [
        ({}, lambda x: max_pool(local_response_norm_paper(x, 5, 1e-4, 0.75, 2.0), 3, 2)),
        ({"norm": "caffe"}, lambda x: max_pool(local_response_norm_caffe(x, 5, 1e-4, 0.75, 1.0), 3, 2)),
        ({"norm": "torch"}, lambda x: max_pool(local_response_norm_torch(x, 5, 1e-4, 0.75, 2.0), 3, 2)),
        ({"pool_first": True}, lambda x: local_response_norm_paper(max_pool(x, 3, 2), 5, 1e-4, 0.75, 2.0)),
    ],
)
def test_between_conv1_and_conv2(options, between):
    model = alexnet_2012_tiny(**options)
    variables, x = started(model, 67)
    # Maps so large that the response norms differ in what they do to them.
    found = features(model, variables, 1000 * x, ["conv1", "conv2"])
    layer = variables["params"]["conv2"]["conv"]
    expected = conv(between(found["conv1"]), layer["kernel"], padding=2, groups=2) + layer["bias"]
    np.testing.assert_allclose(found["conv2"], jnp.maximum(expected, 0), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "first_to_differ"),
    # Krizhevsky et al. 2012, section 4.2, drops the outputs of the first two fully connected layers; torchvision
    # the inputs.
    [("alexnet_2012", "fc7"), ("zfnet", "fc7"), ("alexnet", "fc6")],
)
def test_dropout(name, first_to_differ):
    tiny, side = TINY[name]
    model = tiny()
    variables, x = started(model, side)
    names = ["conv5", "fc6", "fc7", "output"]
    tested = features(model, variables, x, names)
    trained = features(model, variables, x, names, train=True, key=jax.random.key(0))
    differ = [name for name in names if not np.array_equal(tested[name], trained[name])]
    assert differ == names[names.index(first_to_differ) :]


@pytest.mark.parametrize("name", TINY)
def test_features_are_fc7(name):
    tiny, side = TINY[name]
    variables, x = started(tiny(), side)
    fc7 = features(tiny(), variables, x, ["fc7"])["fc7"]
    np.testing.assert_array_equal(tiny(num_classes=None).apply(variables, x), fc7)


def test_zfnet_by_the_papers_initialisation():
    params = started(zfnet_tiny(initialisation="paper", hidden=256), 64)[0]["params"]
    assert np.std(params["fc6"]["dense"]["kernel"]) == pytest.approx(0.01, rel=0.02)
    assert np.std(params["conv3"]["conv"]["kernel"]) == pytest.approx(0.01, rel=0.1)


def test_wrong_widths_are_named():
    with pytest.raises(UsageError, match=r"widths=\(8, 8\): expected 5"):
        started(zfnet_tiny(widths=(8, 8)), 64)
