"""Plain Linen modules as models: `build`, `init`, `apply`."""

import re
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Float, jaxtyped

from jaxcnn.errors import UsageError
from jaxcnn.layers import Conv, Dense, Dropout, mapped_over
from jaxcnn.models import Model
from jaxcnn.models.calls import apply, build, init
from jaxcnn.models.resnet import ResNet, resnet_tiny

KEY = jax.random.key(5)
IMAGES = jnp.asarray(np.random.default_rng(0).normal(size=(4, 8, 6, 3)), jnp.float32)
LIKE = jax.ShapeDtypeStruct((1, 8, 6, 3), jnp.float32)


class Plain(nn.Module):
    """Nothing that we ask for: no `train`, no `num_classes`, no `dtype`."""

    @nn.compact
    def __call__(self, x):
        return nn.Dense(3)(nn.relu(nn.Conv(4, (3, 3))(x)).mean((1, 2)))


class Full(nn.Module):
    """Flax's own layers, with all that can be told."""

    width: int
    num_classes: int | None = None
    dtype: Any = None
    axis_name: str | None = None
    rate: float = 0.5

    @nn.compact
    def __call__(self, x, train: bool):
        x = nn.Conv(self.width, (3, 3), dtype=self.dtype, name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, axis_name=self.axis_name, name="bn")(x)
        x = nn.Dropout(self.rate, deterministic=not train)(jnp.tanh(x).mean((1, 2)))
        return x if self.num_classes is None else nn.Dense(self.num_classes, name="head")(x)


class Setup(nn.Module):
    """Made in `setup`, whose call is checked by jaxtyping and takes a second input."""

    def setup(self):
        self.dense = nn.Dense(2)
        self.drop = nn.Dropout(0.5)

    @jaxtyped(typechecker=None)
    def __call__(self, x: Float[Array, "b h w c"], scale: Float[Array, " b"], *, train: bool = False):
        return self.drop(self.dense(x.mean((1, 2))) * scale[:, None], deterministic=not train)


def same(tree, other):
    jax.tree.map(np.testing.assert_array_equal, tree, other)


# build ----------------------------------------------------------------------------------------------------------------


def make(width, num_classes=7):
    return Full(width, num_classes=num_classes)


def make_anything(**options):
    return Full(**options)


ALL = {"num_classes": 5, "dtype": "bfloat16", "axis_name": "data"}
BF16 = jnp.dtype("bfloat16")


@pytest.mark.parametrize(
    ("factory", "options", "expected"),
    [
        (Plain, {}, Plain()),
        (Plain(), {}, Plain()),
        (Full, {"width": 4}, Full(4, 5, BF16, "data")),
        (Full, {"width": 4, "rate": 0.1}, Full(4, 5, BF16, "data", 0.1)),
        (partial(Full, 4), {}, Full(4, 5, BF16, "data")),
        (partial(Full, width=4, num_classes=2), {"rate": 0.1}, Full(4, 5, BF16, "data", 0.1)),
        (make, {"width": 4}, Full(4, 5)),
        (partial(make, 4), {}, Full(4, 5)),
        (make_anything, {"width": 4}, Full(4, 5, BF16, "data")),
        (lambda: Plain(), {}, Plain()),
        (Full(4), {}, Full(4, 5, BF16, "data")),
        (Full(4, 2, jnp.float16), {}, Full(4, 2, jnp.float16, "data")),
        (nn.Sequential([Plain(), nn.relu]), {}, nn.Sequential([Plain(), nn.relu])),
        (partial(ResNet, block="basic", depths=(1,)), {}, ResNet("basic", (1,), num_classes=5, dtype=BF16)),
    ],
)
def test_what_is_told_to_whom(factory, options, expected):
    assert build(factory, **ALL, **options) == expected


def test_what_is_not_given_is_not_told():
    assert build(Full, width=4) == Full(4)
    assert build(make, width=4) == Full(4, 7)
    ready = Full(4)
    assert build(ready) is ready


def nothing():
    return None


def a_class():
    return Plain


class NoModule:
    pass


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (Full, {"with": 4}, "unknown option of Full 'with': did you mean 'width'?"),
        (Full, {"width": 4, "name": "x"}, "unknown option of Full 'name': did you mean 'rate'?"),
        (Full, {"width": 4, "parent": None}, "unknown option of Full 'parent': "),
        (partial(Full, width=4), {"qqq": 1}, "unknown option of Full 'qqq': valid choices are rate, width"),
        (make, {"wide": 4}, "unknown option of make 'wide': did you mean 'width'?"),
        (Plain, {"width": 4}, "Plain takes no option 'width'"),
        (Plain(), {"width": 4}, "a test_calls.Plain is made already: expected no options, found width"),
        (Full, {}, "Full needs 'width': expected it among the model's options"),
        (make, {}, "make needs 'width': expected it among the model's options"),
        (nothing, {}, "nothing makes None: expected a flax.linen.Module"),
        (a_class, {}, "a_class makes the class test_calls.Plain: expected a flax.linen.Module"),
        (lambda: (Plain(),), {}, "<lambda> makes a tuple: expected a flax.linen.Module"),
        (
            NoModule,
            {},
            "the class test_calls.NoModule is no model: expected a flax.linen.Module, its class, or a function",
        ),
        (3, {}, "3 is no model: expected a flax.linen.Module, its class, or a function of one"),
        (NoModule(), {}, "a test_calls.NoModule is no model: expected"),
        (Full, {"width": 4, "num_classes": 0}, "num_classes=0: expected an integer of at least 1"),
        (Full, {"width": 4, "dtype": "int8"}, "unknown compute dtype 'int8': "),
    ],
)
def test_what_cannot_be_built_is_named(factory, options, message):
    with pytest.raises(UsageError, match="^" + re.escape(message)):
        build(factory, **options)


# init -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [Plain(), Full(4, 5), nn.Sequential([nn.Conv(4, (3, 3)), nn.relu])])
def test_variables_of_flaxs_layers_are_flaxs(model):
    told = {"train": False} if isinstance(model, Full) else {}
    expected = jax.jit(partial(model.init, **told))(KEY, jnp.zeros(LIKE.shape))
    found = init(model, KEY, LIKE)
    same(found, expected)
    # Of images, shape and dtype are read.
    same(init(model, KEY, 1 + IMAGES[:1]), found)


class OursPlain(nn.Module):
    """Our layers in a module of Flax."""

    @nn.compact
    def __call__(self, x, train=False):
        x = Dropout(0.5, deterministic=not train)(Conv(4, 3, name="conv")(x))
        return Dense(2, name="head")(x.mean((1, 2)))


class OursModel(Model):
    __call__ = OursPlain.__call__


def test_variables_of_layers_of_ours_are_those_of_a_model_of_ours():
    expected = OursModel().init(KEY, LIKE)
    same(init(OursModel(), KEY, LIKE), expected)
    same(init(OursPlain(), KEY, LIKE), expected)
    same(jax.jit(lambda key: init(OursPlain(), key, LIKE))(KEY), expected)
    same(init(resnet_tiny(), KEY, LIKE), resnet_tiny().init(KEY, LIKE))


def test_init_within_transformations():
    model = Full(4, 5)
    one = init(model, KEY, LIKE)
    keys = jnp.stack([jax.random.key(1), KEY])
    many = jax.jit(jax.vmap(lambda key: init(model, key, LIKE)))(keys)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a[1], b, rtol=1e-6), many, one)
    shapes = jax.eval_shape(lambda key: init(model, key, LIKE), KEY)
    assert jax.tree.map(jnp.shape, shapes) == jax.tree.map(jnp.shape, one)


class Keeping(nn.Module):
    @nn.compact
    def __call__(self, x):
        self.variable("cache", "last", jnp.zeros, x.shape)
        self.sow("intermediates", "seen", x)  # which Flax leaves out by itself
        return nn.Dense(2)(x.mean((1, 2)))


class Bare(nn.Module):
    def __call__(self, x):
        return x.mean((1, 2))


def test_what_else_a_model_keeps_is_named():
    with pytest.raises(
        UsageError, match="Keeping keeps variables in 'cache': expected none but in 'params' and 'batch"
    ):
        init(Keeping(), KEY, LIKE)
    assert init(Bare(), KEY, LIKE) == {"params": {}}


# apply ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", [Plain(), Bare(), nn.Sequential([nn.Conv(4, (3, 3)), nn.relu])])
def test_a_call_that_cannot_be_told_is_not(model):
    variables = init(model, KEY, LIKE)
    expected = model.apply(variables, IMAGES)
    for outputs, updates in (
        apply(model, variables, IMAGES, train=False),
        apply(model, variables, IMAGES, train=True),
        apply(model, variables, IMAGES, train=True, key=KEY),
    ):
        same(outputs, expected)
        assert updates == {}


@pytest.mark.parametrize(
    "model", [Full(4, 5), nn.remat(Full, static_argnums=2)(4, 5), nn.jit(Full, static_argnums=2)(4, 5)]
)
def test_a_call_that_can_be_told_is(model):
    if type(model) is not Full:
        model = Wrapped(model)
    variables = init(model, KEY, LIKE)
    before = jax.tree.map(np.copy, variables)
    evaluated, updates = apply(model, variables, IMAGES, train=False)
    assert updates == {}
    same(evaluated, model.apply(variables, IMAGES, train=False))
    trained, updates = apply(model, variables, IMAGES, train=True, key=KEY)
    expected, told = model.apply(variables, IMAGES, train=True, rngs={"dropout": KEY}, mutable=["batch_stats"])
    same((trained, updates), (expected, dict(told)))
    assert list(updates) == ["batch_stats"]
    assert all(
        (a != b).any()
        for a, b in zip(*map(jax.tree.leaves, (updates["batch_stats"], before["batch_stats"])), strict=True)
    )
    same(variables, before)
    assert np.abs(trained - evaluated).max() > 0.01
    other, _ = apply(model, variables, IMAGES, train=True, key=jax.random.key(1))
    assert np.abs(trained - other).max() > 0.01


class Wrapped(nn.Module):
    """Flax's transformations take positions alone."""

    inner: nn.Module

    def __call__(self, x, train):
        return self.inner(x, train)


def test_models_of_ours_and_several_inputs():
    model = resnet_tiny()
    images = jnp.ones((2, 32, 32, 3))
    variables = init(model, KEY, images)
    same(apply(model, variables, images, train=False)[0], model.apply(variables, images))
    assert set(apply(model, variables, images, train=True)[1]) == {"batch_stats"}

    sizes = jnp.arange(4.0)
    variables = init(Setup(), KEY, IMAGES, sizes)
    same(variables, jax.jit(Setup().init)(KEY, IMAGES, sizes))
    evaluated, _ = apply(Setup(), variables, IMAGES, sizes, train=False)
    same(evaluated, Setup().apply(variables, IMAGES, sizes))
    trained, _ = apply(Setup(), variables, IMAGES, sizes, train=True, key=KEY)
    assert (trained == 0).sum() > (evaluated == 0).sum()


def test_apply_is_pure_within_transformations():
    model = Full(4, 5)
    variables = init(model, KEY, LIKE)

    def run(variables, x, key, axis_name=None):
        with mapped_over(axis_name):
            outputs, updates = apply(model, variables, x, train=True, key=key)
        return outputs, updates

    plain = jax.jit(run)(variables, IMAGES, KEY)
    assert jax.tree.map(jnp.shape, jax.eval_shape(run, variables, IMAGES, KEY)) == jax.tree.map(jnp.shape, plain)

    def loss(params, x):
        return jnp.sum(jnp.square(run({**variables, "params": params}, x, KEY)[0]))

    gradient = jax.grad(loss)(variables["params"], IMAGES)
    step = jax.tree.map(lambda p, g: p - 1e-3 * g, variables["params"], gradient)
    assert loss(step, IMAGES) < loss(variables["params"], IMAGES)

    mesh = jax.make_mesh((2,), ("data",), (AxisType.Auto,), devices=jax.devices()[:2])
    specs = {"in_specs": (P(), P("data"), P()), "out_specs": (P("data"), P())}
    mapped = jax.shard_map(partial(run, axis_name="data"), mesh=mesh, check_vma=False, **specs)
    jax.tree.map(
        partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5), jax.jit(mapped)(variables, IMAGES, KEY), plain
    )


class Deterministic(nn.Module):
    @nn.compact
    def __call__(self, x, deterministic=True):
        return nn.Dropout(0.5, deterministic=deterministic)(x.mean((1, 2)))


class Always(nn.Module):
    norm: bool = False

    @nn.compact
    def __call__(self, x):
        x = x.mean((1, 2))
        return nn.BatchNorm(False)(x) if self.norm else nn.Dropout(0.5, deterministic=False)(x)


def test_calls_that_cannot_be_right_are_named():
    """A network whose dropout or BatchNorm is never told would be trained, or evaluated, as what it is not."""
    with pytest.raises(UsageError, match="Deterministic has a call with 'deterministic': expected a call with a param"):
        apply(Deterministic(), {}, IMAGES, train=True)
    same(apply(Deterministic(), {}, IMAGES, train=False)[0], IMAGES.mean((1, 2)))
    with pytest.raises(
        UsageError, match=r"Always drops units at random: it needs .* or a call with a parameter 'train'"
    ):
        apply(Always(), {}, IMAGES, train=False)
    assert (apply(Always(), {}, IMAGES, train=True, key=KEY)[0] == 0).any()
    norm = Always(norm=True)
    variables = init(norm, KEY, LIKE)
    assert set(apply(norm, variables, IMAGES, train=True)[1]) == {"batch_stats"}
    with pytest.raises(
        UsageError, match="Always changes its batch_stats in evaluation: expected a call with a parameter"
    ):
        apply(norm, variables, IMAGES, train=False)
    full = Full(4, 5)
    with pytest.raises(UsageError, match=r"Full drops units at random: it needs .*key}, or train=False"):
        apply(full, init(full, KEY, LIKE), IMAGES, train=True)


class Small(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(Conv(3, 5, name="conv")(nn.Conv(3, (3, 3))(x)).mean((1, 2)))


@pytest.mark.parametrize("transform", [lambda f: f, jax.jit, jax.grad], ids=["plain", "jit", "grad"])
def test_images_that_do_not_fit_give_one_line(transform):
    model = Small()
    variables = init(model, KEY, jax.ShapeDtypeStruct((1, 6, 6, 3), jnp.float32))
    call = transform(lambda x: apply(model, variables, x, train=False)[0].sum())
    with pytest.raises(UsageError, match="images of 4x9: this Small needs at least 5x5"):
        call(jnp.zeros((1, 4, 9, 3)))
    with pytest.raises(UsageError, match="images have 1 channels: the variables are made for 3"):
        call(jnp.zeros((1, 8, 8, 1)))
    with pytest.raises(UsageError, match="images of 4x9: this Small needs at least 5x5"):
        init(model, KEY, jax.ShapeDtypeStruct((1, 4, 9, 3), jnp.float32))
    with pytest.raises(UsageError, match="images are of type uint8: expected floats"):
        apply(resnet_tiny(), {}, np.zeros((1, 8, 8, 3), np.uint8), train=False)
