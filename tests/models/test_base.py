"""`Model.init`: from shapes alone, each parameter a function of (key, path)."""

import logging

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn
from jaxcnn.layers import Dense
from jaxcnn.models.base import Model

pytestmark = pytest.mark.smoke

KEY = jax.random.key(7)
IMAGES = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)


def test_init_has_the_tree_that_the_forward_pass_asks_for():
    model = jaxcnn.create("resnet20")
    expected = jax.eval_shape(lambda: nn.Module.init(model, KEY, jnp.zeros(IMAGES.shape)))
    variables = model.init(KEY, IMAGES)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), variables) == jax.tree.map(lambda x: (x.shape, x.dtype), expected)
    assert float(variables["batch_stats"]["stem"]["bn"]["var"].min()) == 1.0
    kernel = variables["params"]["stage3"]["block2"]["conv1"]["kernel"]
    np.testing.assert_allclose(kernel.std(), (2 / (9 * 64)) ** 0.5, rtol=0.05)


def test_init_compiles_no_convolution(caplog):
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        jaxcnn.create("resnet50").init(KEY, jnp.zeros((1, 224, 224, 3)))
    compiled = [record.getMessage() for record in caplog.records if "ompiling" in record.getMessage()]
    assert len(compiled) < 25  # one for each distribution, and a few for keys
    assert not any("conv_general_dilated" in message for message in compiled)


def test_init_takes_keys_arrays_and_mappings_alike():
    model = jaxcnn.create("lenet5")
    ours = model.init(KEY, jnp.ones((4, 28, 28, 1)))
    other = model.init({"params": KEY, "dropout": jax.random.key(1)}, jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32))
    jax.tree.map(np.testing.assert_array_equal, ours, other)


def test_init_maps_over_keys_to_the_same_bits():
    model = jaxcnn.create("lenet5")
    images = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
    keys = jax.random.split(KEY, 3)
    mapped = jax.vmap(lambda key: model.init(key, images))(keys)
    jax.tree.map(lambda many, one: np.testing.assert_array_equal(many[2], one), mapped, model.init(keys[2], images))


class _Two(Model):
    extra: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        if self.extra:
            x = Dense(4, name="extra")(x)
        return Dense(3, name="head")(x)


def test_a_new_layer_leaves_the_other_parameters_as_they_were():
    x = jnp.zeros((1, 4))
    plain, extended = (_Two(extra=extra).init(KEY, x)["params"] for extra in (False, True))
    assert set(extended) == {"head", "extra"}
    np.testing.assert_array_equal(plain["head"]["kernel"], extended["head"]["kernel"])


class _Foreign(Model):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(Dense(4, name="ours")(x))


def test_layers_from_elsewhere_are_initialised_too():
    params = _Foreign().init(KEY, jnp.zeros((1, 4)))["params"]
    assert params["Dense_0"]["kernel"].shape == (4, 3)
    assert params["Dense_0"]["kernel"].any() and params["ours"]["kernel"].any()
