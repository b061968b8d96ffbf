"""Rematerialisation: the same training in less memory, for every classifier."""

from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from programs import memory
from toys import assert_close

from jaxcnn import create
from jaxcnn.keys import init_key
from jaxcnn.layers import BatchNorm, Blocks, Conv, Dense, Dropout, StochasticDepth, global_avg_pool
from jaxcnn.models import (
    alexnet,
    convnext,
    densenet,
    efficientnet,
    googlenet,
    inception_resnet,
    inception_v3,
    inception_v4,
    mnasnet,
    mobilenet_v1,
    mobilenet_v2,
    mobilenet_v3,
    regnet,
    resnet,
    resnet_v2,
    senet,
    shufflenet_v2,
    squeezenet,
    vgg,
    wide_resnet,
    zfnet,
)
from jaxcnn.models.base import Model
from jaxcnn.models.remat import blocks_of
from jaxcnn.tasks import Classification
from jaxcnn.train.parallel import Parallel
from jaxcnn.train.state import create_state
from jaxcnn.train.step import make_train_step

SGD = optax.sgd(1.0)


def data_of(n, side, channels=3):
    rng = np.random.default_rng(0)
    image = rng.normal(size=(n, side, side, channels)).astype(np.float32)
    return {"image": image, "label": np.arange(n, dtype=np.int32) % 5, "mask": np.ones(n, bool)}


def compiled(model, data, **options):
    """Return a training step, and the state it starts from."""
    images, key = jax.ShapeDtypeStruct((1, *data["image"].shape[1:]), jnp.float32), jax.random.key(0)
    state = create_state(model.init(init_key(key), images), SGD, key)
    step = make_train_step(model, SGD, Classification(), **options)
    run = Parallel(1, devices=1).compile_train(step, lambda batch: batch)
    return run.lower(state, data).compile(), state


def check_same(model, data, **options):
    """Check that a step is the same with and without, up to rounding: XLA fuses other operations."""
    found = []
    for remat in (False, True):
        step, state = compiled(model, data, remat=remat, **options)
        before = jax.tree.map(np.array, state.params)
        state, sums = step(state, data)
        gradients = jax.tree.map(lambda old, new: old - np.asarray(new), before, state.params)
        found.append((gradients, (state.batch_stats, sums)))
    (expected, forward), (gradients, again) = found
    assert_close(again, forward, rtol=1e-6)
    # Of the whole: the gradient of a bias before BatchNorm is 0, and rounding is all there is of it.
    norm = optax.tree.norm(expected)
    assert norm > 0.01
    assert optax.tree.norm(jax.tree.map(jnp.subtract, gradients, expected)) < 1e-5 * norm


class Block(nn.Module):
    """Everything that rematerialisation could disturb: statistics that move, and masks."""

    train: bool

    @nn.compact
    def __call__(self, x):
        y = BatchNorm(not self.train, name="bn")(Conv(4, 3, padding=1, name="conv")(x))
        y = Dropout(0.5, deterministic=not self.train)(nn.relu(y))
        return x + StochasticDepth(0.5, deterministic=not self.train)(y)


class Net(Model):
    """Two blocks."""

    @nn.compact
    def __call__(self, x, train=False):
        x = Blocks([partial(Block, train)] * 2, name="stage1")(Conv(4, 3, name="stem")(x))
        return Dense(5, name="head")(global_avg_pool(x))


@pytest.mark.parametrize("options", [{"accumulation_steps": 2}, {"frozen": ("stage1/block1/*",)}], ids=str)
def test_a_step_is_the_same(options):
    check_same(Net(), data_of(8, 8), **options)


TINY = {
    "alexnet": (alexnet.alexnet_tiny, 67),
    "convnext": (partial(convnext.convnext_test, layer_scale=1.0), 32),
    "densenet": (partial(densenet.densenet_tiny, dropout=0.5), 32),
    "efficientnet": (efficientnet.efficientnet_tiny, 32),
    "googlenet": (partial(googlenet.googlenet_tiny, norm="batch", aux_heads=True), 96),
    "inception_resnet_v2": (inception_resnet.inception_resnet_v2_tiny, 75),
    "inception_v3": (inception_v3.inception_v3_tiny, 75),
    "inception_v4": (inception_v4.inception_v4_tiny, 75),
    "mnasnet": (mnasnet.mnasnet_tiny, 32),
    "mobilenet_v1": (mobilenet_v1.mobilenet_v1_tiny, 32),
    "mobilenet_v2": (mobilenet_v2.mobilenet_v2_tiny, 32),
    "mobilenet_v3": (mobilenet_v3.mobilenet_v3_tiny, 32),
    "regnet": (regnet.regnet_tiny, 32),
    "resnet": (resnet.resnet_tiny, 32),
    "resnet_v2": (resnet_v2.resnet_tiny_v2, 32),
    "senet": (senet.se_resnet_tiny, 32),
    "shufflenet_v2": (shufflenet_v2.shufflenet_v2_tiny, 32),
    "squeezenet": (squeezenet.squeezenet_tiny, 32),
    "vgg": (vgg.vgg_tiny, 32),
    "wide_resnet": (wide_resnet.wrn_tiny, 32),
    "zfnet": (zfnet.zfnet_tiny, 64),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", TINY)
def test_a_step_of_every_classifier_is_the_same(name):
    make, side = TINY[name]
    check_same(make(), data_of(4, side))


@pytest.mark.slow
@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="XLA's CPU compiler of jax 0.10 repeats blocks too early")
def test_memory_of_the_step_shrinks():
    # Each of nine blocks keeps its input in place of some four arrays of the same size.
    kept, again = (memory(compiled(resnet.resnet20(), data_of(32, 32), remat=remat)[0]) for remat in (False, True))
    assert again.arguments == kept.arguments
    assert again.temporary < 0.5 * kept.temporary


@pytest.mark.skipif(jax.__version_info__ < (0, 12), reason="XLA's CPU compiler of jax 0.10 repeats blocks too early")
@pytest.mark.slow
def test_memory_of_resnet50_shrinks():
    kept, again = (memory(compiled(resnet.resnet50(), data_of(8, 128), remat=remat)[0]) for remat in (False, True))
    assert again.temporary < 0.6 * kept.temporary


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", {"stem", *(f"stage{i}/block{j}" for i in range(1, 5) for j in (1, 2))}),
        ("vgg11", {"stage1/block1", "stage2/block1", *(f"stage{i}/block{j}" for i in (3, 4, 5) for j in (1, 2))}),
        ("squeezenet1_0", {"stem", *(f"fire{i}" for i in range(2, 10)), "head"}),
        ("lenet5", {"conv1", "conv2"}),
    ],
)
def test_blocks(name, expected):
    assert paths_of(create(name), (1, *((28, 28, 1) if name == "lenet5" else (224, 224, 3)))) == expected


def test_blocks_within_blocks_and_convolutions_beside_blocks():
    found = paths_of(inception_v4.inception_v4_tiny(), (1, 75, 75, 3))
    assert "inception_c/block1" in found  # where branches fork into inner blocks
    assert not any(path.count("block") > 1 for path in found)
    found = paths_of(convnext.convnext_test(), (1, 64, 64, 3))
    assert found == {"stem", "stage1/block1", "stage1/block2", "stage2/block1"}  # not stage2, with its downsample


def paths_of(model, shape):
    images = jax.ShapeDtypeStruct(shape, jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    return {"/".join(path) for path in blocks_of(params)}
