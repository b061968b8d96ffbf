"""Chains and branches: names, padding, order."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from jaxcnn.layers import Branches, Chain, Conv, Row, max_pool
from jaxcnn.layers.branches import branch_paths, conv_paths

STEPS = (
    Row(4, 3, 2, "VALID"),
    partial(max_pool, window=2),
    ((Row(2, 1),), (partial(max_pool, window=3, strides=1, padding=1), Row(3, (1, 7)), ((Row(1, 3),), (Row(2, 5),)))),
    Row(6, 1),
)


def started(module, shape):
    return jax.jit(module.init)(jax.random.key(0), jnp.zeros(shape))


def test_paths_are_those_of_the_parameters_in_the_order_of_the_steps():
    found = list(conv_paths(STEPS, "stem"))
    second = "stem/block1/branch2"
    assert found == [
        *("stem/conv1", "stem/block1/branch1/conv1", f"{second}/conv1"),
        *(f"{second}/block1/branch1/conv1", f"{second}/block1/branch2/conv1", "stem/conv2"),
    ]
    params = traverse_util.flatten_dict(started(Chain(STEPS, Conv), (1, 17, 17, 3))["params"], sep="/")
    assert {f"stem/{path}".rpartition("/")[0] for path in params} == set(found)


def test_branch_paths_are_those_of_the_parameters():
    branches = ((Row(2, 1),), (Row(3, 1), Row(3, 3)))
    params = traverse_util.flatten_dict(started(Branches(branches, Conv), (1, 5, 5, 3))["params"], sep="/")
    assert {f"mixed/{path}".rpartition("/")[0] for path in params} == set(branch_paths(branches, "mixed"))


@pytest.mark.parametrize(
    ("row", "size"),
    [(Row(2, 3), (9, 9)), (Row(2, (1, 7)), (9, 9)), (Row(2, 7, 2), (5, 5)), (Row(2, 3, 2, "VALID"), (4, 4))],
)
def test_padding_of_a_row(row, size):
    out, _ = jax.eval_shape(Chain((row,), Conv).init_with_output, jax.random.key(0), jnp.zeros((1, 9, 9, 1)))
    assert out.shape == (1, *size, 2)


def test_branches_are_concatenated_in_their_order():
    module = Branches(((Row(2, 1),), (lambda x: 3 * x,), (Row(1, 3),)), Conv)
    x = jax.random.normal(jax.random.key(1), (2, 4, 4, 2))
    variables = started(module, x.shape)
    y = module.apply(variables, x)
    params = variables["params"]
    first = jnp.einsum("bhwc,cf->bhwf", x, params["branch1"]["conv1"]["kernel"][0, 0])
    np.testing.assert_allclose(y[..., :2], first, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(y[..., 2:4], 3 * x)
    assert y.shape == (2, 4, 4, 5)
