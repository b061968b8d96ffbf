"""`features`: any submodule's output by name, and gradients with respect to it."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxcnn
from jaxcnn import features
from jaxcnn.errors import UsageError
from jaxcnn.layers import Conv, Dense, Dropout
from jaxcnn.models import Model
from jaxcnn.models.calls import init
from jaxcnn.models.resnet import resnet_tiny

MODEL = resnet_tiny()
IMAGES = jnp.asarray(np.random.default_rng(0).standard_normal((2, 32, 32, 3)), jnp.float32)
VARIABLES = jax.jit(MODEL.init)(jax.random.key(0), IMAGES)


class _Pair(nn.Module):
    @nn.compact
    def __call__(self, x):
        return Conv(2, 1, name="left")(x), Conv(3, 1, name="right")(x)


class _Odd(Model):
    """A submodule that returns a tuple, one that is called twice, and dropout."""

    @nn.compact
    def __call__(self, x, train=False):
        left, right = _Pair(name="pair")(x)
        shared = Conv(3, 1, name="shared")
        x = shared(shared(right))
        x = Dropout(0.5, deterministic=not train, name="dropout")(x)
        return Dense(2, name="head")(jnp.concatenate([left, x], -1).mean((1, 2)))


ODD = _Odd()
ODD_VARIABLES = ODD.init(jax.random.key(1), IMAGES)


def rest(params, maps):
    """The network behind its last stage, by hand."""
    return maps.mean((1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


def test_values_are_those_of_the_network_cut_in_two():
    found = features(MODEL, VARIABLES, IMAGES, ["stage1", "stage2", "stage2/block1/conv2", "output"])
    assert list(found) == ["stage1", "stage2", "stage2/block1/conv2", "output"]
    assert {name: value.shape for name, value in found.items()} == {
        "stage1": (2, 8, 8, 16),
        "stage2": (2, 4, 4, 32),
        "stage2/block1/conv2": (2, 4, 4, 8),
        "output": (2, 5),
    }
    np.testing.assert_array_equal(found["output"], MODEL.apply(VARIABLES, IMAGES))
    np.testing.assert_allclose(rest(VARIABLES["params"], found["stage2"]), found["output"], rtol=1e-5, atol=1e-5)


def test_added_arrays_are_seen_by_all_that_follows():
    change = jnp.asarray(np.random.default_rng(1).standard_normal((2, 4, 4, 32)), jnp.float32)
    plain = features(MODEL, VARIABLES, IMAGES, ["stage1", "stage2"])
    found = features(MODEL, VARIABLES, IMAGES, ["stage1", "stage2", "output"], add={"stage2": change})
    np.testing.assert_array_equal(found["stage1"], plain["stage1"])
    np.testing.assert_allclose(found["stage2"], plain["stage2"] + change, rtol=1e-6)
    np.testing.assert_allclose(rest(VARIABLES["params"], found["stage2"]), found["output"], rtol=1e-5, atol=1e-5)
    half = MODEL.clone(dtype=jnp.bfloat16)
    assert features(half, VARIABLES, IMAGES, ["stage2"], add={"stage2": change})["stage2"].dtype == jnp.bfloat16


def score(change, name="stage1"):
    return features(MODEL, VARIABLES, IMAGES, ["output"], add={name: change})["output"][0, 3]


def test_gradients_are_slopes():
    gradient = jax.jit(jax.grad(score))(jnp.zeros((2, 8, 8, 16)))
    assert not gradient[1].any()  # The other image.
    direction = jnp.asarray(np.random.default_rng(2).standard_normal((2, 8, 8, 16)), jnp.float32)
    slope = (score(1e-3 * direction) - score(-1e-3 * direction)) / 2e-3
    np.testing.assert_allclose(jnp.vdot(gradient, direction), slope, rtol=1e-2)


def test_grad_cam():
    # Behind the last stage there is only the average and the head: the gradient's sum is the head's column.
    maps = features(MODEL, VARIABLES, IMAGES, ["stage2"])["stage2"]
    weights = jax.grad(partial(score, name="stage2"))(jnp.zeros_like(maps))[0].sum((0, 1))
    np.testing.assert_allclose(weights, VARIABLES["params"]["head"]["kernel"][:, 3], rtol=1e-4, atol=1e-6)
    heat = nn.relu(maps[0] @ weights)
    assert heat.shape == (4, 4) and float(heat.max()) > 0


def test_maps_over_images_and_variables():
    one = jax.vmap(lambda image: features(MODEL, VARIABLES, image[None], ["stage2"])["stage2"][0])(IMAGES)
    both = features(MODEL, VARIABLES, IMAGES, ["stage2"])["stage2"]
    np.testing.assert_allclose(one, both, rtol=1e-4, atol=1e-5)


def test_a_jitted_early_stage_costs_no_more_than_itself():
    model = jaxcnn.create("resnet18")
    images = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)

    def flops(names):
        call = jax.jit(lambda variables, images: features(model, variables, images, names))
        return call.lower(variables, images).compile().cost_analysis()["flops"]

    # 118 and 462 of 1,814 million multiply-adds; XLA counts the norms, too, and no padding.
    assert flops(["stage1"]) / flops(["output"]) == pytest.approx((118 + 462) / 1814, rel=0.1)


def test_pooled_features_are_the_output_without_classes():
    model = MODEL.clone(num_classes=None)
    variables = {**VARIABLES, "params": {k: v for k, v in VARIABLES["params"].items() if k != "head"}}
    found = features(model, variables, IMAGES, ["stage2", "output"])
    np.testing.assert_allclose(found["output"], found["stage2"].mean((1, 2)), rtol=1e-5, atol=1e-6)


def test_tuples_and_submodules_called_twice():
    left, right = features(ODD, ODD_VARIABLES, IMAGES, ["pair"])["pair"]
    assert (left.shape, right.shape) == ((2, 32, 32, 2), (2, 32, 32, 3))
    changed = features(ODD, ODD_VARIABLES, IMAGES, ["pair"], add={"pair": (left, right)})["pair"]
    np.testing.assert_allclose(changed[1], 2 * right, rtol=1e-6)
    for ask in ({"names": ["shared"]}, {"names": ["output"], "add": {"shared": jnp.zeros((2, 32, 32, 3))}}):
        with pytest.raises(UsageError, match="'shared' is called several times"):
            features(ODD, ODD_VARIABLES, IMAGES, **ask)


def test_training():
    found = features(ODD, ODD_VARIABLES, IMAGES, ["dropout"], train=True, key=jax.random.key(0))
    assert 0.3 < float((found["dropout"] == 0).mean()) < 0.7
    trained = features(MODEL, VARIABLES, 2 + IMAGES, ["output"], train=True)["output"]
    assert np.abs(trained - features(MODEL, VARIABLES, 2 + IMAGES, ["output"])["output"]).max() > 1e-3


def test_requests_that_cannot_be():
    for names, message in (
        (["stag2"], "unknown submodule of ResNet 'stag2': did you mean 'stage2'?"),
        (["stage2/blok1"], "unknown submodule of ResNet 'stage2/blok1': did you mean 'stage2/block1'?"),
        (["qqq"], "unknown submodule of ResNet 'qqq': valid choices are head, output, stage1, stage2, stem"),
        ("stage2", "names is 'stage2': expected a list of names, such as ['stage2']"),
    ):
        with pytest.raises(UsageError) as raised:
            features(MODEL, VARIABLES, IMAGES, names)
        assert str(raised.value) == message
    with pytest.raises(UsageError, match="unknown submodule of ResNet 'stage3'"):
        features(MODEL, VARIABLES, IMAGES, ["output"], add={"stage3": jnp.zeros(3)})
    with pytest.raises(UsageError, match=r"add\['stage2'\] has shape \(4, 4, 32\): expected \(2, 4, 4, 32\)"):
        features(MODEL, VARIABLES, IMAGES, ["output"], add={"stage2": jnp.zeros((4, 4, 32))})


class _Block(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Conv(3, (3, 3), name="conv")(x))


class _Plain(nn.Module):
    """Flax's layers alone, one block of them rematerialised and one jitted."""

    rate: float = 0.5

    @nn.compact
    def __call__(self, x, train):
        x = nn.jit(_Block)(name="jitted")(nn.remat(_Block)(name="block")(x))
        x = nn.BatchNorm(use_running_average=not train, name="bn")(x)
        return nn.Dense(2, name="head")(nn.Dropout(self.rate, deterministic=not train, name="dropout")(x).mean((1, 2)))


def test_plain_modules():
    model = _Plain()
    variables = init(model, jax.random.key(0), IMAGES)
    found = features(model, variables, IMAGES, ["block", "block/conv", "jitted", "output"])
    np.testing.assert_array_equal(found["output"], model.apply(variables, IMAGES, False))
    np.testing.assert_array_equal(found["block"], nn.relu(found["block/conv"]))
    assert found["jitted"].any()
    change = jnp.ones_like(found["block"])
    moved = features(model, variables, IMAGES, ["block", "output"], add={"block": change})
    np.testing.assert_allclose(moved["block"], found["block"] + 1, rtol=1e-6)
    slope = jax.grad(lambda c: features(model, variables, IMAGES, ["output"], add={"block": c})["output"][0, 0])(change)
    assert slope[0].any() and not slope[1].any()
    trained = features(model, variables, IMAGES, ["dropout"], train=True, key=jax.random.key(0))["dropout"]
    assert 0.3 < float((trained == 0).mean()) < 0.9
    with pytest.raises(UsageError, match="unknown submodule of _Plain 'blok': did you mean 'block'"):
        features(model, variables, IMAGES, ["blok"])

    sequential = nn.Sequential([nn.Conv(4, (3, 3)), nn.relu, nn.Dense(2)])
    variables = init(sequential, jax.random.key(0), IMAGES)
    both = features(sequential, variables, IMAGES, ["layers_0", "layers_2"])
    assert (both["layers_0"].shape, both["layers_2"].shape) == ((2, 32, 32, 4), (2, 32, 32, 2))


class _Looped(nn.Module):
    @nn.compact
    def __call__(self, x):
        body = nn.scan(
            lambda block, x, _: (block(x), None), variable_axes={"params": 0}, split_rngs={"params": True}, length=2
        )
        return nn.Dense(2, name="head")(body(_Block(name="block"), x, None)[0])


def test_what_lies_in_a_loop_cannot_be_read():
    variables = init(_Looped(), jax.random.key(0), IMAGES)
    assert features(_Looped(), variables, IMAGES, ["head"])["head"].shape == (2, 32, 32, 2)
    with pytest.raises(
        UsageError, match="'block/conv' lies in a loop of Flax, from which its output does not come out"
    ):
        features(_Looped(), variables, IMAGES, ["block/conv"])
