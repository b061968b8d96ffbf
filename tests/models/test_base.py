"""`Model.init`: from shapes alone, each parameter a function of (key, path)."""

import logging
import re

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import pytest
from flax.errors import ScopeParamShapeError

import jaxcnn
from jaxcnn.errors import UsageError
from jaxcnn.layers import Conv, ConvTranspose, Dense, Dropout, max_pool
from jaxcnn.models import MODELS
from jaxcnn.models.base import Model, Stage
from jaxcnn.models.resnet import resnet_tiny
from jaxcnn.models.unet import unet_tiny

pytestmark = pytest.mark.smoke

KEY = jax.random.key(7)
IMAGES = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)


def test_init_has_the_tree_that_the_forward_pass_asks_for():
    model = jaxcnn.create("resnet20")
    expected = jax.eval_shape(lambda: nn.Module.init(model, KEY, jnp.zeros(IMAGES.shape)))
    variables = model.init(KEY, IMAGES)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), variables) == jax.tree.map(lambda x: (x.shape, x.dtype), expected)
    assert float(variables["batch_stats"]["stem"]["bn"]["var"].min()) == 1.0
    kernel = variables["params"]["stage3"]["block2"]["conv1"]["kernel"]
    np.testing.assert_allclose(kernel.std(), (2 / (9 * 64)) ** 0.5, rtol=0.05)


@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny", "googlenet"])
def test_init_compiles_no_convolution(name, caplog):
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        jaxcnn.create(name).init(KEY, jnp.zeros((1, *MODELS[name].input_shape)))
    compiled = [record.getMessage() for record in caplog.records if "ompiling" in record.getMessage()]
    assert len(compiled) < 25  # one for each distribution, and a few for keys
    assert not any("conv_general_dilated" in message for message in compiled)


def test_creating_a_model_does_nothing_else():
    events = []

    def note(event, duration, **_):
        events.append(event)

    arrays = len(jax.live_arrays())
    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        for name in MODELS:
            jaxcnn.create(name)
        assert not events and len(jax.live_arrays()) == arrays
        jax.jit(lambda x: x + 1)(1.0)
        assert any("trace" in event for event in events)  # It is noticed.
    finally:
        jax.monitoring.unregister_event_duration_listener(note)


def test_init_takes_keys_arrays_and_mappings_alike():
    model = jaxcnn.create("lenet5")
    ours = model.init(KEY, jnp.ones((4, 28, 28, 1)))
    other = model.init({"params": KEY, "dropout": jax.random.key(1)}, jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32))
    jax.tree.map(np.testing.assert_array_equal, ours, other)


def test_init_maps_over_keys_to_the_same_bits():
    model = jaxcnn.create("lenet5")
    images = jax.ShapeDtypeStruct((1, 28, 28, 1), jnp.float32)
    keys = jax.random.split(KEY, 3)
    mapped = jax.vmap(lambda key: model.init(key, images))(keys)
    jax.tree.map(lambda many, one: np.testing.assert_array_equal(many[2], one), mapped, model.init(keys[2], images))


class _Two(Model):
    extra: bool = False

    @nn.compact
    def __call__(self, x, train=False):
        if self.extra:
            x = Dense(4, name="extra")(x)
        return Dense(3, name="head")(x)


def test_a_new_layer_leaves_the_other_parameters_as_they_were():
    x = jnp.zeros((1, 1, 1, 4))
    plain, extended = (_Two(extra=extra).init(KEY, x)["params"] for extra in (False, True))
    assert set(extended) == {"head", "extra"}
    np.testing.assert_array_equal(plain["head"]["kernel"], extended["head"]["kernel"])


class _Foreign(Model):
    @nn.compact
    def __call__(self, x, train=False):
        return nn.Dense(3)(Dense(4, name="ours")(x))


def test_layers_from_elsewhere_are_initialised_too():
    params = _Foreign().init(KEY, jnp.zeros((1, 1, 1, 4)))["params"]
    assert params["Dense_0"]["kernel"].shape == (4, 3)
    assert params["Dense_0"]["kernel"].any() and params["ours"]["kernel"].any()


def test_stages():
    assert jaxcnn.create("resnet50").stages == (
        Stage("stem", 4, 64),
        Stage("stage1", 4, 256),
        Stage("stage2", 8, 512),
        Stage("stage3", 16, 1024),
        Stage("stage4", 32, 2048),
    )
    assert jaxcnn.create("lenet5_1998").stages[-2:] == (Stage("s4", 4, 16), Stage("c5", 4, 120))
    up = [(stage.name, stage.strides) for stage in unet_tiny().stages]
    assert up == [("down1", 1), ("down2", 2), ("down3", 4), ("up2", 2), ("up1", 1), ("head", 1)]


class _Odd(Model):
    """Stages at a third and at twice the image's size, dropout, an auxiliary head, something without positions."""

    @nn.compact
    def __call__(self, x, train=False):
        x = Dropout(0.5, deterministic=not train, name="dropout")(Conv(3, 3, strides=3, name="third")(x))
        if train or self.is_initializing():
            Conv(2, 1, name="aux")(x)
        x = ConvTranspose(4, 6, strides=6, name="double")(x)
        return Dense(2, name="head")(x.mean((1, 2)))


def test_stages_are_maps_that_evaluation_makes():
    third, double = _Odd().stages
    assert third == Stage("third", 3, 3)
    assert double == Stage("double", 0.5, 4)


@pytest.mark.parametrize(
    ("name", "smallest"),
    [
        ("vgg16", 32),
        ("alexnet", 63),
        ("squeezenet1_0", 21),
        ("densenet121", 29),
        pytest.param("inception_v3", 75, marks=pytest.mark.slow),
    ],
)
def test_the_smallest_images_are_named_and_right(name, smallest):
    # torchvision's `min_size`.
    model = jaxcnn.create(name)
    with pytest.raises(UsageError, match=rf"images of {smallest - 1}x200: this .* at least {smallest}x{smallest}\b"):
        jax.eval_shape(model.init, KEY, jax.ShapeDtypeStruct((1, smallest - 1, 200, 3), jnp.float32))


class _Small(Model):
    """At least 6x6: a window of 3, then two halvings."""

    @nn.compact
    def __call__(self, x, train=False):
        x = max_pool(max_pool(Conv(4, 3, name="conv")(x), 2), 2)
        return Dense(3, name="head")(Dropout(0.1, deterministic=not train)(x.mean((1, 2))))


def _transformed(model, variables, transform):
    """Return a call of the model within one of JAX's transformations."""
    return {
        "none": lambda x: model.apply(variables, x),
        "train": lambda x: model.apply(variables, x, train=True, rngs={"dropout": KEY}, mutable=["batch_stats"]),
        "positional": lambda x: model.apply(variables, x, False),
        "jit": jax.jit(model.apply, static_argnames="train").__get__(variables),
        "grad": jax.grad(lambda x: model.apply(variables, x).sum()),
        "vmap": lambda x: jax.vmap(model.apply, in_axes=(None, 0))(variables, x[None]),
        "pmap": lambda x: jax.pmap(model.apply, in_axes=(None, 0))(variables, x[None]),
        "init": lambda x: model.init(KEY, x),
    }[transform]


@pytest.mark.parametrize("transform", ["none", "train", "positional", "jit", "grad", "vmap", "pmap", "init"])
def test_images_that_do_not_fit_give_one_line(transform):
    model = _Small()
    variables = model.init(KEY, jnp.zeros((1, 6, 6, 3)))
    call = _transformed(model, variables, transform)
    with pytest.raises(UsageError, match=re.escape("images of 5x9: this _Small needs at least 6x6")) as raised:
        call(jnp.zeros((1, 5, 9, 3)))
    assert "is smaller than the window" in str(raised.value.__cause__)
    if transform != "init":
        with pytest.raises(UsageError, match="images have 1 channels: the variables are made for 3"):
            call(jnp.zeros((1, 8, 8, 1)))
    if transform != "grad":
        with pytest.raises(UsageError, match="images are of type uint8: expected floats, normalised"):
            call(np.zeros((1, 8, 8, 3), np.uint8))
    with pytest.raises(UsageError, match=re.escape("expected [batch, height, width, channels]")):
        call(jnp.zeros((8, 8, 3)))
    call(jnp.zeros((1, 6, 6, 3)))


def test_what_is_not_the_images_fault_is_left_alone():
    model = resnet_tiny()
    variables = model.init(KEY, IMAGES)
    with pytest.raises(ScopeParamShapeError, match="head"):
        resnet_tiny(num_classes=7).apply(variables, jnp.zeros(IMAGES.shape))
    with pytest.raises(UsageError, match="LeNet-5 got images of shape"):
        jaxcnn.create("lenet5").init(KEY, jnp.zeros((1, 5, 5, 1)))
    with pytest.raises(UsageError, match="images are a list"):
        model.apply(variables, [0.0])


def test_batches_of_unknown_size_are_checked_too():
    model = _Small()
    variables = model.init(KEY, jnp.zeros((1, 6, 6, 3)))

    def export(side):
        images = jax.ShapeDtypeStruct(jax.export.symbolic_shape(f"n, {side}, {side}, 3"), jnp.float32)
        return jax.export.export(jax.jit(model.apply))(variables, images)

    images = jnp.ones((3, 6, 6, 3))
    np.testing.assert_allclose(export(6).call(variables, images), model.apply(variables, images), rtol=1e-5)
    with pytest.raises(UsageError, match="images of 5x5: this _Small needs at least 6x6"):
        export(5)
