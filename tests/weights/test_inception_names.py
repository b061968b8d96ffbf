"""Names of GoogLeNet, Inception and DenseNet in other libraries: what the golden logits do not meet."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxcnn.models import MODELS, create
from jaxcnn.weights import PEERS, load


def flat(variables):
    return traverse_util.flatten_dict(variables, sep="/")


def peer_tensors(peer, **options):
    """Our initial variables as the peer's file would have them (kernels in torch's layout)."""
    row = PEERS[peer]
    model = create(row.model, **row.options, **options)
    variables = flat(model.init(jax.random.key(7), jnp.zeros((1, *MODELS[row.model].input_shape))))
    tensors = {}
    for path, value in variables.items():
        value, inside = np.asarray(value), path.partition("/")[2]
        if path.endswith("/kernel"):
            channels = row.names.flattened.get(inside.removesuffix("/kernel"))
            if channels is not None:
                value = value.reshape(4, 4, channels, -1).transpose(2, 0, 1, 3).reshape(value.shape)
            value = value.transpose(value.ndim - 1, value.ndim - 2, *range(value.ndim - 2))
        tensors[row.names.peer_name(inside)] = value
    return variables, tensors


def assert_same(variables, expected):
    found = flat(variables)
    assert found.keys() == expected.keys()
    for path, value in expected.items():
        np.testing.assert_array_equal(found[path], value, err_msg=path)


@pytest.mark.parametrize("aux_heads", [True, False])
def test_auxiliary_heads_are_made_where_the_file_has_them(aux_heads):
    expected, tensors = peer_tensors("torchvision/googlenet", aux_heads=aux_heads)
    model, variables = load("torchvision/googlenet", tensors)
    assert model.aux_heads == aux_heads
    assert_same(variables, expected)


def test_densenets_published_files_have_dots_in_their_names():
    expected, tensors = peer_tensors("torchvision/densenet121")
    assert "features.denseblock1.denselayer1.norm1.weight" in tensors
    old = {}
    for name, value in tensors.items():
        for unit in ("norm1", "norm2", "conv1", "conv2"):
            name = name.replace(f".{unit}.", f".{unit[:-1]}.{unit[-1]}.")
        old[name] = value
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    _, variables = load("torchvision/densenet121", old)
    assert_same(variables, expected)


def test_keras_numbers_start_anywhere_and_its_norms_have_no_scale():
    prepare = PEERS["keras/InceptionV3"].names.prepare
    values = {number: np.full(3, number, np.float32) for number in (9, 10, 100)}
    fresh = {"conv2d/kernel": values[9], "conv2d_1/kernel": values[10], "conv2d_2/kernel": values[100]}
    later = {f"conv2d_{number}/kernel": value for number, value in values.items()}
    norm = {"batch_normalization_7/moving_mean": values[9], "conv_7b_bn/moving_mean": values[10]}
    for tensors in (fresh, dict(reversed(later.items()))):
        found = prepare({**tensors, **norm})
        assert [found[f"conv2d_{i}/kernel"][0] for i in (1, 2, 3)] == [9, 10, 100]
        np.testing.assert_array_equal(found["batch_normalization_1/gamma"], np.ones(3))
        np.testing.assert_array_equal(found["conv_7b_bn/gamma"], np.ones(3))
        assert len(found) == 7
