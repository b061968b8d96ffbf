"""GoogLeNet and the Inception networks: maps against the papers' tables, auxiliary heads, residual scales."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.errors import UsageError
from jaxcnn.models import create
from jaxcnn.models.base import WithAux
from jaxcnn.models.googlenet import googlenet_tiny
from jaxcnn.models.inception_resnet import inception_resnet_v2_tiny
from jaxcnn.models.inception_v3 import inception_v3_tiny
from jaxcnn.models.summary import stage_rows

MAPS = {
    # 1409.4842, table 1.
    "googlenet": {
        "stem": (28, 192),
        "inception3a": (28, 256),
        "inception3b": (28, 480),
        **{f"inception4{letter}": (14, 512) for letter in "abc"},
        "inception4d": (14, 528),
        "inception4e": (14, 832),
        "inception5a": (7, 832),
        "inception5b": (7, 1024),
    },
    # 1512.00567, table 1, with the channels of the released code.
    "inception_v3": {
        "stem": (35, 192),
        "inception_a": (35, 288),
        "reduction_a": (17, 768),
        "inception_b": (17, 768),
        "reduction_b": (8, 1280),
        "inception_c": (8, 2048),
    },
    # 1602.07261, figure 9.
    "inception_v4": {
        "stem": (35, 384),
        "inception_a": (35, 384),
        "reduction_a": (17, 1024),
        "inception_b": (17, 1024),
        "reduction_b": (8, 1536),
        "inception_c": (8, 1536),
    },
    "inception_resnet_v2": {
        "stem": (35, 192),
        "mixed_5b": (35, 320),
        "inception_a": (35, 320),
        "reduction_a": (17, 1088),
        "inception_b": (17, 1088),
        "reduction_b": (8, 2080),
        "inception_c": (8, 2080),
        "last_conv": (8, 1536),
    },
}


@pytest.mark.parametrize("name", MAPS)
def test_maps_of_the_stages(name):
    size = 224 if name == "googlenet" else 299
    rows = {row.path: row.output_shape for row in stage_rows(create(name), (size, size, 3))}
    assert {path: rows[path] for path in MAPS[name]} == {
        path: (size, size, channels) for path, (size, channels) in MAPS[name].items()
    }


@pytest.mark.parametrize(
    ("model", "size", "names", "weight"),
    [
        (googlenet_tiny(aux_heads=True), 80, {"aux1", "aux2"}, 0.3),
        (inception_v3_tiny(aux_heads=True), 299, {"aux"}, 0.4),
    ],
)
def test_auxiliary_heads_answer_in_training_only(model, size, names, weight):
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    heads = {name for name in variables["params"] if name.startswith("aux")}
    assert heads == names
    seen = []

    def train(variables, images):
        rngs = {"dropout": jax.random.key(0)}
        seen.append(model.apply(variables, images, train=True, mutable=["batch_stats"], rngs=rngs)[0])

    jax.eval_shape(train, variables, images)
    (outputs,) = seen
    assert isinstance(outputs, WithAux)
    assert outputs.weight == weight
    assert [y.shape for y in (outputs.logits, *outputs.aux)] == [(2, 5)] * (1 + len(names))
    assert jax.eval_shape(model.apply, variables, images).shape == (2, 5)
    for without in (model.clone(num_classes=None), model.clone(aux_heads=False)):
        params = jax.eval_shape(without.init, jax.random.key(0), images)["params"]
        assert not {name for name in params if name.startswith("aux")}


def test_googlenets_heads_read_4a_and_4d():
    # Kernels of the auxiliary 1x1 convolutions: 512 channels behind 4a, 528 behind 4d.
    model = create("googlenet", aux_heads=True)
    params = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))[
        "params"
    ]
    kernels = [params[name]["conv"]["conv"]["kernel"].shape for name in ("aux1", "aux2")]
    assert kernels == [(1, 1, 512, 128), (1, 1, 528, 128)]


def test_googlenet_starts_as_in_caffe():
    variables = googlenet_tiny(aux_heads=True).init(jax.random.key(0), jnp.zeros((1, 80, 80, 3)))
    for path, leaf in jax.tree_util.tree_leaves_with_path(variables["params"]):
        names = [key.key for key in path]
        if names[-1] == "bias":
            classifier = names[-2] in ("head", "fc2")
            np.testing.assert_array_equal(leaf, np.float32(0 if classifier else 0.2))


@pytest.mark.parametrize(("name", "kernel"), [("googlenet", 5), ("googlenet_bn", 3)])
def test_the_5x5_branch(name, kernel):
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    params = jax.eval_shape(create(name).init, jax.random.key(0), images)["params"]
    assert params["inception3a"]["branch3"]["conv2"]["conv"]["kernel"].shape == (kernel, kernel, 16, 32)


def test_average_pooling_counts_its_padding_where_asked_to():
    # Constant maps stay constant where the padding is left out of the divisor.
    model = inception_v3_tiny()
    blocks = [model.clone(count_include_pad=counted).stage_steps()["inception_a"][0] for counted in (False, True)]
    pools = [branches[3][0] for branches in blocks]
    plain, counted = (pool(jnp.ones((1, 3, 3, 1)))[0, :, :, 0] for pool in pools)
    np.testing.assert_array_equal(plain, 1)
    np.testing.assert_allclose(counted[0], [4 / 9, 6 / 9, 4 / 9], rtol=1e-6)


def test_residual_branches_are_scaled_and_the_last_block_is_linear():
    model = inception_resnet_v2_tiny()
    x = jax.random.normal(jax.random.key(1), (1, 75, 75, 3))
    variables = model.init(jax.random.key(0), x)
    # With kernels 0 and biases -1, `up` gives -1 everywhere: a block subtracts its scale.
    params = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf if path[-2].key != "up" else jnp.full_like(leaf, -1.0 if leaf.ndim == 1 else 0.0),
        variables["params"],
    )
    apply = partial(model.apply, capture_intermediates=True, mutable=["intermediates"])
    _, state = jax.jit(apply)({**variables, "params": params}, x)
    read = lambda path: jax.tree.leaves(state["intermediates"][path]["__call__"])[0]  # noqa: E731
    before_a, before_b, before_c = read("mixed_5b"), read("reduction_a"), read("reduction_b")
    np.testing.assert_allclose(read("inception_a"), jnp.maximum(before_a - 0.17, 0), atol=1e-6)
    np.testing.assert_allclose(read("inception_b"), jnp.maximum(before_b - 0.1, 0), atol=1e-6)
    np.testing.assert_allclose(read("inception_c"), jnp.maximum(before_c - 0.2, 0) - 1, atol=1e-6)


def test_too_small_images_are_refused():
    with pytest.raises(UsageError, match="at least 75x75"):
        inception_v3_tiny().init(jax.random.key(0), jax.ShapeDtypeStruct((1, 74, 74, 3), jnp.float32))


@pytest.mark.parametrize("name", ["inception_v4", "inception_resnet_v2"])
def test_three_depths_are_expected(name):
    with pytest.raises(UsageError, match=r"depths=\(1, 2\): expected three"):
        create(name, depths=(1, 2)).init(jax.random.key(0), jax.ShapeDtypeStruct((1, 299, 299, 3), jnp.float32))
