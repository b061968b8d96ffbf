"""The state is data, its start a function of the key, its digest one of the parameters."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import Toy, assert_same_bits, host, images, start, state_like

from jaxcnn.keys import init_key
from jaxcnn.models import create
from jaxcnn.train.state import create_state, params_sha256

ADAM = optax.adam(1e-3)


def test_the_state_is_arrays_and_nothing_else():
    state = start(Toy(norm=True), ADAM, ema=True)
    leaves = jax.tree.leaves(state)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert {leaf.dtype.name for leaf in leaves} == {"float32", "int32", "uint32"}
    assert (state.step, state.step.dtype) == (0, jnp.int32)
    assert set(state.batch_stats) == {"bn_a", "bn_b"}
    assert start(Toy(), ADAM).batch_stats == {}
    np.testing.assert_array_equal(state.key, jax.random.key_data(jax.random.key(0)))


def test_evaluation_uses_the_average_where_there_is_one():
    state = start(Toy(norm=True), ADAM, ema=True)
    assert_same_bits(state.ema, state.params)
    moved = state.replace(ema=jax.tree.map(jnp.zeros_like, state.ema))
    assert moved.variables == {"params": moved.ema, "batch_stats": state.batch_stats}
    assert start(Toy(), ADAM).ema is None


def test_the_start_depends_on_the_key_alone():
    assert_same_bits(start(Toy(), ADAM), start(Toy(), ADAM))
    assert params_sha256(start(Toy(), ADAM, seed=1).params) != params_sha256(start(Toy(), ADAM).params)
    abstract = state_like(Toy(norm=True), ADAM, images(1), ema=True)
    real = start(Toy(norm=True), ADAM, ema=True)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), abstract) == jax.tree.map(lambda x: (x.shape, x.dtype), real)


def test_a_state_may_start_from_given_variables():
    given = Toy(norm=True).init(jax.random.key(7), images(1))
    state = create_state(given, ADAM, jax.random.key(0), ema=True)
    for tree in (state.params, state.ema):
        assert_same_bits(tree, given["params"])
    assert_same_bits(state.batch_stats, given["batch_stats"])


def test_donating_the_state_leaves_nothing_else_deleted():
    key = jax.random.key(3)

    def make():
        return create_state(Toy(norm=True).init(init_key(key), images(1)), ADAM, key, ema=True)

    first = make()
    expected = host(first)
    donated = jax.jit(lambda s: jax.tree.map(lambda x: x + jnp.ones((), x.dtype), s), donate_argnums=0)(first)
    assert first.key.is_deleted()
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(first.params))
    assert donated.step == 1
    assert_same_bits(make(), expected)  # reads the key again, and the initialisers' constants


def test_digest_by_hand():
    params = {"b": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "a": np.float32(2.5).reshape(())}
    text = b"['a'] <f4 ()\n" + params["a"].tobytes()
    text += b"['b']['kernel'] <f4 (2, 3)\n" + params["b"]["kernel"].tobytes()
    assert params_sha256(params) == hashlib.sha256(text).hexdigest()


@settings(deadline=None, max_examples=20)
@given(st.permutations(["conv1", "conv10", "conv2", "bn"]), st.integers(0, 3), st.integers(0, 11), st.integers(0, 31))
def test_digest_does_not_depend_on_order_and_does_on_every_bit(order, leaf, index, bit):
    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=(3, 4)).astype(np.float32) for name in sorted(order)}
    digest = params_sha256(params)
    assert params_sha256({name: params[name] for name in order}) == digest
    assert params_sha256(jax.tree.map(lambda x: np.asfortranarray(x), params)) == digest
    assert params_sha256(jax.device_put(params)) == digest
    changed = params[order[leaf]].copy()
    changed.reshape(-1).view(np.uint32)[index] ^= np.uint32(1 << bit)
    assert params_sha256(params | {order[leaf]: changed}) != digest


def test_digest_depends_on_names_shapes_and_types():
    x = np.zeros((2, 3), np.float32)
    versions = [{"a": x}, {"b": x}, {"a": x.T}, {"a": x.view(np.int32)}, {"a": {"b": x}}, {"a": x, "b": x[:0]}, {}]
    assert len({params_sha256(version) for version in versions}) == len(versions)


def test_initialising_resnet50_compiles_no_convolution(tmp_path):
    def compiled_convolutions():
        return [file.name for file in tmp_path.iterdir() if "stablehlo.convolution" in file.read_text()]

    jax.config.update("jax_dump_ir_to", str(tmp_path))
    try:
        shape = jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32)
        key = jax.random.key(0)
        state = create_state(create("resnet50").init(init_key(key), shape), optax.sgd(0.1), key)
        assert compiled_convolutions() == []
        toy = start(Toy(), ADAM)
        jax.jit(Toy().apply)(toy.variables, np.zeros((1, 6, 6, 2), np.float32))
        assert len(compiled_convolutions()) == 1  # such a file would have been found
    finally:
        jax.config.update("jax_dump_ir_to", "")
    assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) == 25_557_032


@pytest.mark.parametrize("name", ["params", "ema", "opt_state"])
def test_no_two_leaves_share_a_buffer(name):
    state = start(Toy(norm=True), ADAM, ema=True)
    owned = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(getattr(state, name))}
    others = {leaf.unsafe_buffer_pointer() for leaf in jax.tree.leaves(state.replace(**{name: None}))}
    assert not owned & others
