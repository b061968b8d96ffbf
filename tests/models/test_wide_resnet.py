"""Wide residual networks: widths, where the dropout is, depths."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.models import create
from jaxcnn.models.wide_resnet import wrn_tiny


def images():
    return jnp.asarray(np.random.default_rng(0).standard_normal((2, 8, 8, 3)), jnp.float32)


def test_widths_of_the_imagenet_bottlenecks():
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    stage4 = jax.eval_shape(create("wide_resnet50_2").init, jax.random.key(0), x)["params"]["stage4"]
    kernels = [stage4["block1"][f"conv{i}"]["kernel"].shape for i in (1, 2, 3)]
    assert kernels == [(1, 1, 1024, 1024), (3, 3, 1024, 1024), (1, 1, 1024, 2048)]


def test_dropout_is_between_the_convolutions():
    model = wrn_tiny(dropout=1.0)
    variables = model.init(jax.random.key(0), images())
    _, state = model.apply(variables, images(), train=True, capture_intermediates=True, mutable=True)
    block = state["intermediates"]["stage1"]["block1"]
    assert np.any(block["bn2"]["__call__"][0])
    np.testing.assert_array_equal(block["dropout"]["__call__"][0], 0)
    np.testing.assert_array_equal(block["conv2"]["__call__"][0], 0)


def test_kernels_start_he_normal_by_fan_in():
    variables = create("wrn_16_4").init(jax.random.key(0), images())
    kernel = variables["params"]["stage3"]["block1"]["conv1"]["kernel"]
    assert kernel.shape == (3, 3, 128, 256)
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 128)), rel=0.02)


@pytest.mark.parametrize(("depth", "nearest"), [(27, "22 and 28"), (5, "10 and 16"), (4, "10 and 16")])
def test_other_depths_are_refused(depth, nearest):
    with pytest.raises(UsageError, match=nearest):
        create("wrn_28_10", depth=depth).init(jax.random.key(0), images())
