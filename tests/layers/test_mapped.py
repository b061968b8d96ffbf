"""What layers do with one device's rows of a batch, against the whole batch on one device."""

import inspect
import textwrap
from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from jaxcnn.layers import BatchNorm, Conv, Dropout, StochasticDepth, mapped_over
from jaxcnn.layers.mapped import batch_axis, norm_axis

KEY = jax.random.key(3)
DEVICES = 4
WHOLE = P()


class Ours(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        x = Dropout(0.4, deterministic=not train, name="dropout")(Conv(6, 3, padding=1, name="conv")(x))
        x = jnp.tanh(BatchNorm(not train, name="bn")(x))
        return x + StochasticDepth(0.5, deterministic=not train, name="depth")(jnp.sin(x))


class Flaxs(nn.Module):
    """Layers of Flax alone, as in a network from elsewhere; one of them is called twice."""

    @nn.compact
    def __call__(self, x, train):
        drop, norm = nn.Dropout(0.4), nn.BatchNorm(momentum=0.9)
        x = drop(nn.Conv(6, (3, 3))(x), deterministic=not train)
        x = jnp.tanh(norm(x, use_running_average=not train))
        x = norm(x + 1, use_running_average=not train)
        branch = nn.Dropout(0.5, broadcast_dims=(1, 2, 3), deterministic=not train)(jnp.sin(x))
        return x + branch


def images(n):
    rng = np.random.default_rng(0)
    # Of several brightnesses, so that no device's part has the moments of another's.
    return jnp.asarray(rng.normal(size=(n, 5, 4, 3)) + rng.normal(size=(n, 1, 1, 1)), jnp.float32)


def training(model, axis_name=None, sync=True):
    """Return a function of (variables, x) that gives outputs, batch_stats, and gradients of the batch's sum."""

    def run(variables, x):
        def loss(params):
            with mapped_over(axis_name, sync_batch_norm=sync):
                y, updates = model.apply(
                    {**variables, "params": params}, x, True, mutable=["batch_stats"], rngs={"dropout": KEY}
                )
            return jnp.sum(jnp.sin(y)), (y, updates["batch_stats"])

        grads, (y, stats) = jax.grad(loss, has_aux=True)(variables["params"])
        return y, stats, grads if axis_name is None else jax.lax.psum(grads, axis_name)

    return run


def over_devices(run, stats=WHOLE):
    mesh = jax.make_mesh((DEVICES,), ("data",), (AxisType.Auto,), devices=jax.devices()[:DEVICES])
    specs = {"mesh": mesh, "in_specs": (WHOLE, P("data")), "out_specs": (P("data"), stats, WHOLE)}
    return jax.jit(jax.shard_map(run, **specs, check_vma=False))


def assert_close(found, expected):
    """Sums over the batch are rounded in another order: to 3e-5 of an array's largest number."""
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=3e-5 * np.abs(b).max()), found, expected)


@pytest.mark.parametrize("model", [Ours(), Flaxs()], ids=["ours", "flax"])
def test_synchronised_it_is_the_whole_batch_on_one_device(model):
    x = images(3 * DEVICES)
    variables = model.init(KEY, x, False)
    whole = jax.jit(training(model))(variables, x)
    assert_close(over_devices(training(model, "data"))(variables, x), whole)
    assert max(np.abs(leaf).max() for leaf in jax.tree.leaves(whole[2])) > 0.1
    # The context is needed: each device alone gives something else.
    y, *_ = over_devices(lambda v, x: (*training(model)(v, x)[:2], 0.0))(variables, x)
    assert np.abs(y - whole[0]).max() > 0.1


class Norm(nn.Module):
    layer: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x, train):
        return self.layer(use_running_average=not train, momentum=0.9, name="bn")(jnp.sin(x))


@pytest.mark.parametrize("layer", [BatchNorm, nn.BatchNorm])
def test_unsynchronised_each_device_normalises_its_own_part(layer):
    model, x = Norm(layer), images(3 * DEVICES)
    variables = model.init(KEY, x, False)
    own = training(model)

    def local(variables, x):
        y, stats, grads = training(model, "data", sync=False)(variables, x)
        return y, jax.tree.map(lambda leaf: leaf[None], stats), grads

    found = over_devices(local, stats=P("data"))(variables, x)
    parts = [jax.jit(own)(variables, part) for part in jnp.split(x, DEVICES)]
    expected = jax.tree.map(lambda *leaves: np.stack(leaves), *parts)
    assert_close(found, (np.concatenate(expected[0]), expected[1], jax.tree.map(lambda g: g.sum(0), expected[2])))
    assert np.abs(found[0] - over_devices(training(model, "data"))(variables, x)[0]).max() > 0.1


DROPPING = {
    "Dropout": (Dropout(0.4, deterministic=False), Dropout(0.4, deterministic=True)),
    "StochasticDepth": (StochasticDepth(0.4, deterministic=False), StochasticDepth(0.4, deterministic=True)),
    "nn.Dropout": (nn.Dropout(0.4, deterministic=False), nn.Dropout(0.4, deterministic=True)),
    "nn.Dropout of maps": (nn.Dropout(0.4, (1, 2), deterministic=False), nn.Dropout(0.4, (1, 2), deterministic=True)),
}


@pytest.mark.parametrize("check_vma", [False, True])
@pytest.mark.parametrize("sync", [True, False])
@pytest.mark.parametrize("name", DROPPING)
def test_what_is_dropped_is_that_of_the_whole_batch_bit_for_bit(name, sync, check_vma):
    dropping, plain = DROPPING[name]
    x = images(3 * DEVICES)

    def drop(x, axis_name=None):
        with mapped_over(axis_name, sync_batch_norm=sync):
            return dropping.apply({}, x, rngs={"dropout": KEY}), plain.apply({}, x)

    mesh = jax.make_mesh((DEVICES,), ("data",), (AxisType.Auto,), devices=jax.devices()[:DEVICES])
    rows = partial(drop, axis_name="data")
    mapped = jax.shard_map(rows, mesh=mesh, in_specs=P("data"), out_specs=P("data"), check_vma=check_vma)
    found, expected = jax.jit(mapped)(x), jax.jit(drop)(x)
    jax.tree.map(np.testing.assert_array_equal, found, expected)
    np.testing.assert_array_equal(found[1], x)
    assert 0 < np.mean(found[0] == 0) < 1
    # Devices differ: one drops not what another does.
    assert np.abs(np.diff(np.reshape(found[0] == 0, (DEVICES, -1)).astype(int), axis=0)).any(1).all()


def test_the_innermost_context_is_the_one_that_counts():
    assert (batch_axis(), norm_axis()) == (None, None)
    with mapped_over("a"):
        with mapped_over("b", sync_batch_norm=False):
            assert (batch_axis(), norm_axis()) == ("b", None)
            with mapped_over(None):
                assert (batch_axis(), norm_axis()) == (None, None)
        assert (batch_axis(), norm_axis()) == ("a", "a")
        with pytest.raises(ZeroDivisionError), mapped_over("c"):
            raise ZeroDivisionError
        assert (batch_axis(), norm_axis()) == ("a", "a")
    assert (batch_axis(), norm_axis()) == (None, None)


@pytest.mark.parametrize("model", [Ours(), Flaxs()], ids=["ours", "flax"])
def test_initialising_needs_no_axis(model):
    rngs, x = {"params": KEY, "dropout": KEY}, images(2)
    with mapped_over("none of that name"):
        found = jax.eval_shape(lambda: model.init(rngs, x, True))
    assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, jax.eval_shape(lambda: model.init(rngs, x, False)))


def test_contexts_within_each_other():
    model, x = Flaxs(), images(2 * DEVICES)
    variables = model.init(KEY, x, False)
    inner = training(model, "data")

    def nested(variables, x):
        with mapped_over("data", sync_batch_norm=False):
            return inner(variables, x)

    assert_close(over_devices(nested)(variables, x), jax.jit(training(model))(variables, x))


def test_a_batch_norm_of_flax_keeps_the_axis_that_it_names():
    x = images(8).reshape(2, 4, 5, 4, 3)
    layer = nn.BatchNorm(use_running_average=False, axis_name="other")
    variables = layer.init(KEY, x[0])

    def run(x):
        with mapped_over("none of that name"):
            return layer.apply(variables, x, mutable=["batch_stats"])

    found, _ = jax.vmap(run, axis_name="other")(x)
    np.testing.assert_allclose(found.mean((0, 1, 2, 3)), np.zeros(3), atol=1e-5)


@pytest.mark.parametrize("model", [Ours(), Flaxs()], ids=["ours", "flax"])
def test_a_user_may_rematerialise_and_map_with_pmap(model):
    x = images(2 * DEVICES)
    variables = model.init(KEY, x, False)
    whole = jax.jit(training(model))(variables, x)
    remat = training(nn.remat(type(model), static_argnums=(2,))(), "data")
    mapped = jax.pmap(remat, axis_name="data", in_axes=(None, 0), devices=jax.devices()[:DEVICES])
    y, stats, grads = mapped(variables, x.reshape(DEVICES, 2, *x.shape[1:]))
    first = jax.tree.map(lambda leaf: leaf[0], (stats, grads))
    assert_close((y.reshape(x.shape[0], *y.shape[2:]), *first), whole)


class Logits(nn.Module):
    @nn.compact
    def __call__(self, x, train):
        return Ours(name="maps")(x, train).mean((1, 2))


def test_the_example_of_the_docstring():
    example = inspect.getdoc(mapped_over).partition("    mesh =")[1:]
    code = textwrap.dedent("".join(example).partition("\n\nThe backward pass")[0])
    model, batch = Logits(), {"image": images(8), "label": jnp.arange(8) % 6}
    variables = model.init(KEY, batch["image"], False)
    found = {"model": model, "jax": jax, "optax": optax, "partial": partial, "P": P, "mapped_over": mapped_over}
    exec(code, found)

    @jax.jit
    @partial(jax.value_and_grad, has_aux=True)
    def whole(params):
        rngs = {"dropout": KEY}
        logits, updates = model.apply(
            {**variables, "params": params}, batch["image"], True, mutable=["batch_stats"], rngs=rngs
        )
        return optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"]).mean(), updates

    (loss, updates), grads = whole(variables["params"])
    assert_close(found["gradients"](variables, batch, KEY), ((loss, grads), updates))
