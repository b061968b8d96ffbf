"""Squeeze and excitation in residual networks: where it is, how wide it is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.models import create
from jaxcnn.models.senet import se_resnet_tiny


def test_the_gate_scales_the_branch_before_the_addition():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 32, 32, 3)), jnp.float32)
    model = se_resnet_tiny()
    variables = model.init(jax.random.key(0), x)
    variables["params"]["stage1"]["block2"]["se"]["fc2"]["bias"] -= 1e4  # All gates are 0.
    _, state = model.apply(variables, x, capture_intermediates=True, mutable=["intermediates"])
    blocks = state["intermediates"]["stage1"]
    assert np.any(blocks["block2"]["bn3"]["__call__"][0])
    np.testing.assert_array_equal(blocks["block2"]["__call__"][0], blocks["block1"]["__call__"][0])


@pytest.mark.parametrize(
    ("name", "options", "hidden"),
    [
        ("se_resnet18", {}, [4, 8, 16, 32]),
        ("se_resnet18", {"min_hidden": 8}, [8, 8, 16, 32]),
        ("se_resnet50", {}, [16, 32, 64, 128]),
        ("se_resnext50_32x4d", {"reduction": 8}, [32, 64, 128, 256]),
    ],
)
def test_hidden_features(name, options, hidden):
    x = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    params = jax.eval_shape(create(name, **options).init, jax.random.key(0), x)["params"]
    assert [params[f"stage{i}"]["block2"]["se"]["fc1"]["bias"].size for i in (1, 2, 3, 4)] == hidden
