"""What every model does, checked on small ones: shapes, modes, gradients, batches, types, transformations."""

from functools import cache, partial

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.models.lenet import lenet5, lenet5_1998, lenet5_valid
from jaxcnn.models.resnet import resnet_tiny
from jaxcnn.models.resnet_v2 import resnet_tiny_v2

CIFAR = {"block": "basic", "stem": "cifar"}
MODELS = {
    "lenet5": (lenet5(), (28, 28, 1)),
    "lenet5_tanh_avg": (lenet5(activation="tanh", pooling="avg"), (32, 32, 1)),
    "lenet5_valid": (lenet5_valid(), (28, 28, 1)),
    "lenet5_1998": (lenet5_1998(), (32, 32, 1)),
    "resnet": (resnet_tiny(), (32, 32, 3)),
    "resnet_v1_C": (resnet_tiny(variant="v1", shortcut="C"), (32, 32, 3)),
    "resnet_cifar_A": (resnet_tiny(shortcut="A", **CIFAR), (8, 8, 3)),
    "plain_cifar": (resnet_tiny(shortcut="none", **CIFAR), (8, 8, 3)),
    "resnet_v2": (resnet_tiny_v2(), (32, 32, 3)),
    "resnet_v2_cifar": (resnet_tiny_v2(variant="v1", **CIFAR), (8, 8, 3)),
}
each_model = pytest.mark.parametrize("name", MODELS)


def images(shape, n=4, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((n, *shape)), jnp.float32)


def start(model, shape, seed=0):
    return model.init(jax.random.key(seed), images(shape))


@cache
def evaluated(name):
    """Return the model, the images' shape, variables, images and their logits."""
    model, shape = MODELS[name]
    variables, x = start(model, shape), images(shape)
    return model, shape, variables, x, jax.jit(model.apply)(variables, x)


@each_model
def test_logits_and_features(name):
    model, _, _, x, logits = evaluated(name)
    assert logits.shape == (4, model.num_classes)
    assert logits.dtype == jnp.float32
    features, variables = jax.eval_shape(
        partial(nn.Module.init_with_output, model.clone(num_classes=None)), jax.random.key(0), x
    )
    assert "head" not in variables["params"]
    assert (features.ndim, features.dtype) == (2, jnp.float32)


@each_model
def test_every_parameter_has_a_gradient(name):
    model, shape, variables, _, _ = evaluated(name)
    x, target = images(shape, n=8), jax.nn.one_hot(jnp.arange(8) % model.num_classes, model.num_classes)

    @jax.jit
    @jax.grad
    def gradient(params):
        logits, _ = model.apply({**variables, "params": params}, x, train=True, mutable=["batch_stats"])
        return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(logits), -1))

    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(variables["params"])):
        assert np.isfinite(leaf).all() and np.any(leaf != 0), jax.tree_util.keystr(path)


@each_model
def test_evaluation_is_independent_of_the_batch(name):
    model, _, variables, x, logits = evaluated(name)
    run = jax.jit(model.apply)
    alone = jnp.concatenate([run(variables, x[i : i + 1]) for i in range(2)])
    np.testing.assert_allclose(logits[:2], alone, rtol=1e-4, atol=1e-4)


@each_model
def test_training_alone_moves_the_statistics(name):
    model, _, variables, x, logits = evaluated(name)
    run = jax.jit(partial(model.apply, mutable=["batch_stats"]), static_argnames="train")
    again, evaluation = run(variables, x, train=False)
    trained_logits, training = run(variables, 3.0 + x, train=True)
    before = jax.tree.leaves(variables.get("batch_stats", {}))
    np.testing.assert_array_equal(logits, again)
    assert trained_logits.dtype == jnp.float32
    same = [np.array_equal(a, b) for a, b in zip(before, jax.tree.leaves(evaluation), strict=True)]
    moved = [np.any(a != b) for a, b in zip(before, jax.tree.leaves(training), strict=True)]
    assert all(same) and all(moved)
    assert bool(moved) == ("batch_stats" in variables)


@each_model
def test_bfloat16_is_close_to_float32(name):
    model, _, variables, x, exact = evaluated(name)
    half = jax.jit(model.clone(dtype=jnp.bfloat16).apply)(variables, x)
    assert half.dtype == jnp.float32
    assert np.linalg.norm(half - exact) < 0.02 * np.linalg.norm(exact)
    assert not np.array_equal(half, exact)


@pytest.mark.parametrize("name", ["lenet5_1998", "resnet_cifar_A", "resnet_v2_cifar"])
def test_vmap_over_variables(name):
    model, shape, variables, x, logits = evaluated(name)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), variables, start(model, shape, seed=1))
    got = jax.jit(jax.vmap(model.apply, in_axes=(0, None)))(stacked, x)
    np.testing.assert_allclose(got[0], logits, rtol=1e-4, atol=1e-4)
    assert np.abs(got[1] - logits).max() > 1e-2


@pytest.mark.parametrize("name", ["lenet5", "lenet5_1998", "resnet", "resnet_v2"])
def test_lowers_for_accelerators(name):
    model, shape = MODELS[name]
    variables = jax.eval_shape(partial(start, model, shape))
    step = partial(model.apply, train=True, mutable=["batch_stats"])
    spec = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    exported = jax.export.export(jax.jit(step), platforms=["cuda", "tpu"])(variables, spec)
    assert exported.platforms == ("cuda", "tpu")


def test_statistics_over_a_mapped_axis():
    # Two devices with four images each normalise as one device with eight.
    model, shape, variables, _, _ = evaluated("resnet_cifar_A")
    x = images(shape, n=8)

    def train(model, x):
        return model.apply(variables, x, train=True, mutable=["batch_stats"])

    logits, state = jax.jit(partial(train, model))(x)
    synced = jax.vmap(partial(train, model.clone(axis_name="batch")), axis_name="batch")
    got, got_state = jax.jit(synced)(x.reshape(2, 4, *shape))
    np.testing.assert_allclose(got.reshape(logits.shape), logits, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(jax.tree.leaves(got_state), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-4, atol=1e-4)
