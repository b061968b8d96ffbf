"""FCN and DeepLabV3 on a ResNet: output stride, auxiliary head, what the pyramid sees."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.layers import ConvNorm
from jaxcnn.models.base import WithAux
from jaxcnn.models.deeplabv3 import AtrousPyramid, deeplabv3_tiny
from jaxcnn.models.fcn_resnet import fcn_resnet_tiny

IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((2, 33, 24, 3)), jnp.float32)


@pytest.mark.parametrize("make", [fcn_resnet_tiny, deeplabv3_tiny])
def test_features_have_an_eighth_of_the_size(make):
    features, _ = make(num_classes=None).init_with_output(jax.random.key(0), IMAGES)
    assert features.shape == (2, 5, 3, 4 * 4 * 8)


@pytest.mark.parametrize("make", [fcn_resnet_tiny, deeplabv3_tiny])
def test_the_auxiliary_head_answers_while_training(make):
    model = make(aux_heads=True)
    variables = model.init(jax.random.key(0), IMAGES)
    assert set(variables["params"]) - set(make().init(jax.random.key(0), IMAGES)["params"]) == {"aux1"}
    logits = model.apply(variables, IMAGES)
    assert logits.shape == (2, 33, 24, 5)
    trained, _ = model.apply(
        variables, IMAGES, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)}
    )
    assert isinstance(trained, WithAux)
    assert ([aux.shape for aux in trained.aux], trained.weight) == ([logits.shape], 0.5)
    plain, _ = make().apply(variables, IMAGES, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(0)})
    np.testing.assert_array_equal(plain, trained.logits)


def test_the_pyramid_sees_at_its_rates():
    # Where position 0 of the maps is seen from: by the 1x1, at each rate, and by the mean from everywhere.
    pyramid = AtrousPyramid(4, (2, 5), ConvNorm)
    x = jnp.zeros((1, 1, 16, 3))
    variables = pyramid.init(jax.random.key(0), x)
    variables = jax.tree.map(jnp.ones_like, variables)
    variables["params"]["image"]["conv"]["kernel"] *= 0
    moved = pyramid.apply(variables, x.at[:, :, 0].set(1.0)) - pyramid.apply(variables, x)
    assert np.flatnonzero(moved[0, 0, :, 0]).tolist() == [0, 2, 5]
