"""DenseNet: maps against table 1, concatenation, dropout, initial values."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.models import create
from jaxcnn.models.densenet import densenet_tiny
from jaxcnn.models.summary import stage_rows


def test_maps_of_the_stages():
    rows = {row.path: row.output_shape for row in stage_rows(create("densenet121"), (224, 224, 3))}
    assert rows == {
        "stem": (56, 56, 64),
        "stage1": (56, 56, 256),
        "transition1": (28, 28, 128),
        "stage2": (28, 28, 512),
        "transition2": (14, 14, 256),
        "stage3": (14, 14, 1024),
        "transition3": (7, 7, 512),
        "stage4": (7, 7, 1024),
        "norm": (7, 7, 1024),
        "head": (1000,),
    }


def test_a_layer_appends_to_what_it_was_given():
    model = densenet_tiny()
    x = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    apply = partial(model.apply, capture_intermediates=True, mutable=["intermediates"])
    _, state = jax.jit(apply)(model.init(jax.random.key(0), x), x)
    inner = state["intermediates"]
    (stem,), (first,) = inner["stem"]["__call__"], inner["stage1"]["block1"]["__call__"]
    (second,) = inner["stage1"]["block2"]["__call__"]
    assert [maps.shape[-1] for maps in (stem, first, second)] == [8, 12, 16]
    np.testing.assert_array_equal(first[..., :8], stem)
    np.testing.assert_array_equal(second[..., :12], first)
    assert np.any(second[..., 12:] != 0)


def test_dropout_follows_every_convolution_but_the_first():
    model = densenet_tiny(dropout=0.2)
    x = jax.random.normal(jax.random.key(1), (2, 32, 32, 3))
    variables = model.init(jax.random.key(0), x)
    apply = partial(model.apply, train=True, mutable=["intermediates", "batch_stats"], capture_intermediates=True)
    _, state = jax.jit(apply)(variables, x, rngs={"dropout": jax.random.key(2)})
    inner = state["intermediates"]
    units = [
        (inner["stage1"]["block1"], "dropout1"),
        (inner["stage1"]["block1"], "dropout2"),
        (inner["transition1"], "dropout"),
    ]
    for unit, name in units:
        (dropped,) = unit[name]["__call__"]
        assert np.mean(dropped == 0) == pytest.approx(0.2, abs=0.05)
    assert "dropout" not in inner["stem"]


def test_initial_kernels_are_he_normal_by_fan_out():
    variables = create("densenet_bc100_k12").init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))
    kernel = variables["params"]["stage3"]["block16"]["conv2"]["kernel"]
    assert kernel.shape == (3, 3, 48, 12)
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 12)), rel=0.05)
