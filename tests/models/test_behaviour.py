"""What every model does, checked on small ones: shapes, modes, gradients, batches, types, transformations."""

import math
from functools import cache, partial

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest

from jaxcnn.layers import he_normal_fan_in, mapped_over
from jaxcnn.models import create
from jaxcnn.models.alexnet import alexnet_2012_tiny, alexnet_tiny
from jaxcnn.models.base import WithAux
from jaxcnn.models.convnext import convnext_test
from jaxcnn.models.deeplabv3 import deeplabv3_tiny
from jaxcnn.models.densenet import densenet_tiny
from jaxcnn.models.efficientnet import efficientnet_tiny
from jaxcnn.models.fcn import fcn_tiny
from jaxcnn.models.fcn_resnet import fcn_resnet_tiny
from jaxcnn.models.googlenet import googlenet_tiny
from jaxcnn.models.inception_resnet import inception_resnet_v2_tiny
from jaxcnn.models.inception_v3 import inception_v3_tiny
from jaxcnn.models.inception_v4 import inception_v4_tiny
from jaxcnn.models.lenet import lenet5, lenet5_1998, lenet5_valid
from jaxcnn.models.mnasnet import mnasnet_tiny
from jaxcnn.models.mobilenet_v1 import mobilenet_v1_tiny
from jaxcnn.models.mobilenet_v2 import mobilenet_v2_tiny
from jaxcnn.models.mobilenet_v3 import mobilenet_v3_tiny
from jaxcnn.models.regnet import regnet_tiny
from jaxcnn.models.resnet import resnet_tiny
from jaxcnn.models.resnet_v2 import resnet_tiny_v2
from jaxcnn.models.resnext import resnext_tiny
from jaxcnn.models.senet import se_resnet_tiny
from jaxcnn.models.shufflenet_v2 import shufflenet_v2_tiny
from jaxcnn.models.squeezenet import squeezenet_tiny
from jaxcnn.models.unet import unet_tiny
from jaxcnn.models.vgg import vgg_tiny
from jaxcnn.models.wide_resnet import wrn_tiny
from jaxcnn.models.zfnet import zfnet_tiny

CIFAR = {"block": "basic", "stem": "cifar"}
# Logits of every position: [batch, height, width, classes].
SEGMENTATION = {
    "fcn32s": (fcn_tiny(stride=32), (24, 20, 3)),
    "fcn8s": (fcn_tiny(), (24, 20, 3)),
    "fcn8s_learned_upsampling": (fcn_tiny(learned_upsampling=True), (24, 20, 3)),
    "fcn_resnet": (fcn_resnet_tiny(aux_heads=True), (33, 24, 3)),
    "deeplabv3": (deeplabv3_tiny(), (33, 24, 3)),
    "unet": (unet_tiny(), (48, 44, 1)),
    "unet_same": (unet_tiny(padding="same", batch_norm=True), (16, 24, 3)),
}
MODELS = {
    "lenet5": (lenet5(), (28, 28, 1)),
    "lenet5_tanh_avg": (lenet5(activation="tanh", pooling="avg"), (32, 32, 1)),
    "lenet5_valid": (lenet5_valid(), (28, 28, 1)),
    "lenet5_1998": (lenet5_1998(), (32, 32, 1)),
    "alexnet_2012": (alexnet_2012_tiny(), (67, 67, 3)),
    "caffenet": (alexnet_2012_tiny(norm="caffe", pool_first=True), (75, 67, 3)),
    "alexnet": (alexnet_tiny(), (63, 80, 3)),
    "zfnet": (zfnet_tiny(), (64, 80, 3)),
    "vgg": (vgg_tiny(lrn=True, pointwise=True), (32, 40, 3)),
    "vgg_bn": (vgg_tiny(batch_norm=True), (32, 32, 3)),
    "googlenet": (googlenet_tiny(aux_heads=True), (80, 80, 3)),
    "googlenet_bn": (googlenet_tiny(norm="batch", largest_kernel=3, last_pool=2), (64, 72, 3)),
    "inception_v3": (inception_v3_tiny(aux_heads=True), (299, 299, 3)),
    "inception_v4": (inception_v4_tiny(), (75, 83, 3)),
    "inception_resnet_v2": (inception_resnet_v2_tiny(), (75, 83, 3)),
    "squeezenet": (squeezenet_tiny(), (31, 36, 3)),
    "resnet": (resnet_tiny(), (32, 32, 3)),
    "resnet_v1_C": (resnet_tiny(variant="v1", shortcut="C"), (32, 32, 3)),
    "resnet_cifar_A": (resnet_tiny(shortcut="A", **CIFAR), (8, 8, 3)),
    "plain_cifar": (resnet_tiny(shortcut="none", **CIFAR), (8, 8, 3)),
    "resnet_v2": (resnet_tiny_v2(), (32, 32, 3)),
    "resnet_v2_cifar": (resnet_tiny_v2(variant="v1", **CIFAR), (8, 8, 3)),
    "resnet_v2_keras": (resnet_tiny_v2(variant="keras"), (32, 32, 3)),
    "resnet_cifar_A_centred": (resnet_tiny(shortcut="A_centred", **CIFAR), (8, 8, 3)),
    "resnet_dilated": (resnet_tiny(depths=(1, 1, 1, 1), output_stride=8), (64, 64, 3)),
    "wrn": (wrn_tiny(dropout=0.3), (8, 8, 3)),
    "resnext": (resnext_tiny(), (32, 32, 3)),
    "se_resnet": (se_resnet_tiny(), (32, 32, 3)),
    "regnet_x": (regnet_tiny(squeeze_excite=False), (32, 32, 3)),
    "regnet_y": (regnet_tiny(), (32, 32, 3)),
    "densenet": (densenet_tiny(dropout=0.2), (32, 40, 3)),
    "densenet_cifar": (densenet_tiny(stem="cifar", bottleneck=False, compression=1.0), (8, 8, 3)),
    "mobilenet_v1": (mobilenet_v1_tiny(), (32, 32, 3)),
    "mobilenet_v1_same": (mobilenet_v1_tiny(padding="same"), (32, 24, 3)),
    "mobilenet_v2": (mobilenet_v2_tiny(), (32, 32, 3)),
    "mobilenet_v3": (mobilenet_v3_tiny(), (32, 32, 3)),
    "shufflenet_v2": (shufflenet_v2_tiny(), (32, 32, 3)),
    "mnasnet": (mnasnet_tiny(), (32, 32, 3)),
    "efficientnet": (efficientnet_tiny(), (32, 32, 3)),
    "efficientnet_same": (efficientnet_tiny(padding="same", epsilon=1e-3, momentum=0.99), (48, 40, 3)),
    "convnext": (convnext_test(), (16, 16, 3)),
    **SEGMENTATION,
}
# Minutes together, and each has another of its kind among those that are always tried.
OF_A_KIND = (
    *("googlenet_bn", "inception_resnet_v2", "efficientnet_same", "fcn8s_learned_upsampling", "resnet_v1_C"),
    *("resnet_v2_keras", "mobilenet_v1_same", "densenet_cifar", "inception_v4", "fcn32s", "fcn_resnet", "mnasnet"),
    *("resnet_dilated", "regnet_x", "caffenet"),
)
each_model = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow) if name in OF_A_KIND else name for name in MODELS]
)
one_of_a_family = pytest.mark.parametrize(
    "name",
    ["lenet5", "alexnet_2012", "googlenet", "resnet", "regnet_y", "densenet", "shufflenet_v2", "convnext", "unet"],
)
DROPOUT = {"dropout": jax.random.key(0)}


def images(shape, n=4, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal((n, *shape)), jnp.float32)


def start(model, shape, seed=0):
    """Initial variables, but for kernels that start at zero: nothing goes through these, either way."""
    variables = model.init(jax.random.key(seed), images(shape))
    drawn = lambda leaf: leaf if np.any(leaf) else he_normal_fan_in(jax.random.key(seed), leaf.shape)  # noqa: E731
    return jax.tree.map(lambda leaf: drawn(leaf) if leaf.ndim > 1 else leaf, variables)


def answers(outputs):
    """All logits of a training step, main and auxiliary."""
    return (outputs.logits, *outputs.aux) if isinstance(outputs, WithAux) else (outputs,)


def distance(a, b):
    """Relative: before BatchNorm has seen images, logits may be tiny or huge."""
    return np.linalg.norm(a - b) / np.linalg.norm(b)


@cache
def evaluated(name):
    """Return the model, the images' shape, variables, the compiled evaluation of a batch, a batch and its logits."""
    model, shape = MODELS[name]
    variables, x = start(model, shape), images(shape)
    evaluate = jax.jit(partial(model.apply, mutable=["batch_stats"]))
    logits, state = evaluate(variables, x)
    for before, after in zip(*map(jax.tree.leaves, (variables.get("batch_stats", {}), state)), strict=True):
        np.testing.assert_array_equal(before, after)
    return model, shape, variables, evaluate, x, logits


@each_model
def test_logits_and_features(name):
    model, _, _, _, x, logits = evaluated(name)
    assert logits.ndim == (4 if name in SEGMENTATION else 2)
    assert (logits.shape[0], logits.shape[-1]) == (4, model.num_classes)
    assert logits.dtype == jnp.float32
    features, variables = jax.eval_shape(
        partial(nn.Module.init_with_output, model.clone(num_classes=None)), jax.random.key(0), x
    )
    assert "head" not in variables["params"]
    assert (features.ndim, features.dtype) == (logits.ndim, jnp.float32)


@each_model
def test_training_reaches_every_parameter_and_moves_the_statistics(name):
    model, shape, variables, _, _, logits = evaluated(name)
    answer = 8, *logits.shape[1:-1]
    target = jax.nn.one_hot(jnp.arange(math.prod(answer)).reshape(answer) % model.num_classes, model.num_classes)
    x = 3.0 + images(shape, n=8)

    @jax.jit
    @partial(jax.grad, has_aux=True)
    def gradient(params):
        outputs, state = model.apply(
            {**variables, "params": params}, x, train=True, mutable=["batch_stats"], rngs=DROPOUT
        )
        loss = -sum(jnp.mean(jnp.sum(target * jax.nn.log_softmax(logits), -1)) for logits in answers(outputs))
        return loss, (outputs, state)

    gradients, (trained, training) = gradient(variables["params"])
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradients):
        assert np.isfinite(leaf).all() and np.any(leaf != 0), jax.tree_util.keystr(path)
    assert all((y.shape, y.dtype) == ((8, *logits.shape[1:]), jnp.float32) for y in answers(trained))
    before = jax.tree.leaves(variables.get("batch_stats", {}))
    moved = [np.any(a != b) for a, b in zip(before, jax.tree.leaves(training), strict=True)]
    assert all(moved)
    assert bool(moved) == ("batch_stats" in variables)


@each_model
def test_evaluation_is_independent_of_the_batch(name):
    _, _, variables, evaluate, x, logits = evaluated(name)
    others, _ = evaluate(variables, x.at[2:].multiply(-5.0))
    assert distance(others[:2], logits[:2]) < 1e-4
    assert np.any(others[2:] != logits[2:])


@each_model
def test_bfloat16_is_close_to_float32(name):
    model, _, variables, _, x, exact = evaluated(name)
    half = jax.jit(model.clone(dtype=jnp.bfloat16).apply)(variables, x)
    assert half.dtype == jnp.float32
    assert 0 < distance(half, exact) < 0.02


@pytest.mark.parametrize(("name", "size"), [("wrn_16_4", 32), pytest.param("vgg11_bn", 64, marks=pytest.mark.slow)])
def test_bfloat16_at_full_width(name, size):
    # Where XLA's CPU compiler fused convolutions wrongly; the small networks do not show it.
    model, x = create(name), images((size, size, 3), n=2)
    variables = model.init(jax.random.key(0), x)
    exact = jax.jit(model.apply)(variables, x)
    assert distance(jax.jit(create(name, dtype="bfloat16").apply)(variables, x), exact) < 0.02


@one_of_a_family
def test_vmap_over_variables(name):
    model, shape, variables, _, x, logits = evaluated(name)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), variables, start(model, shape, seed=1))
    got = jax.jit(jax.vmap(model.apply, in_axes=(0, None)))(stacked, x)
    assert distance(got[0], logits) < 1e-4
    assert distance(got[1], logits) > 1e-3


@one_of_a_family
def test_lowers_for_accelerators(name):
    model, shape = MODELS[name]
    variables = jax.eval_shape(model.init, jax.random.key(0), images(shape))
    step = partial(model.apply, train=True, mutable=["batch_stats"], rngs=DROPOUT)
    spec = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    exported = jax.export.export(jax.jit(step), platforms=["cuda", "tpu"])(variables, spec)
    assert exported.platforms == ("cuda", "tpu")


def test_statistics_over_a_mapped_axis():
    # Two devices with four images each normalise as one device with eight.
    model, shape, variables, *_ = evaluated("resnet_cifar_A")
    x = images(shape, n=8)

    def train(x, axis_name=None):
        with mapped_over(axis_name):
            return model.apply(variables, x, train=True, mutable=["batch_stats"])

    logits, state = jax.jit(train)(x)
    synced = jax.vmap(partial(train, axis_name="batch"), axis_name="batch")
    got, got_state = jax.jit(synced)(x.reshape(2, 4, *shape))
    np.testing.assert_allclose(got.reshape(logits.shape), logits, rtol=1e-4, atol=1e-4)
    for ours, theirs in zip(jax.tree.leaves(got_state), jax.tree.leaves(state), strict=True):
        np.testing.assert_allclose(ours[0], theirs, rtol=1e-4, atol=1e-4)
