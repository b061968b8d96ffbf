"""The two sums of BatchNorm and their transpose: each transformation gives what it gives of the plain formula."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxcnn.layers.cpu.channel_sums import channel_lines, channel_moments, channel_sums


def plain_moments(x, near):
    return plain_sums(x - near, x, near)


def plain_sums(x, v, near):
    axes = tuple(range(x.ndim - 1))
    return jnp.stack([jnp.sum(x, axes), jnp.sum(x * (v - near), axes)])


def plain_lines(ab, v, near):
    return ab[0] + ab[1] * (v - near)


PAIRS = {
    "moments": (channel_moments, plain_moments),
    "sums": (channel_sums, plain_sums),
    "lines": (channel_lines, plain_lines),
}


def operands(name, shape):
    rng = np.random.default_rng(0)
    x, v, near, ab = (rng.standard_normal(size) for size in (shape, shape, shape[-1], (2, shape[-1])))
    return {"moments": (x, near), "sums": (x, v, near), "lines": (ab, v, near)}[name]


def curved(f):
    return lambda *a: jnp.sum(jnp.sin(f(*a)) * f(*a))


TRANSFORMED = {
    "values": lambda f, *a: f(*a),
    "gradients": lambda f, *a: jax.grad(curved(f), tuple(range(len(a))))(*a),
    "forward mode": lambda f, *a: jax.jvp(f, a, tuple(map(jnp.cos, a))),
    "second order": lambda f, *a: jax.jvp(jax.grad(curved(f), tuple(range(len(a)))), a, tuple(map(jnp.cos, a))),
    "of the last operand": lambda f, *a: jax.grad(curved(lambda near: f(*a[:-1], near)))(a[-1]),
    "mapped": lambda f, *a: jax.vmap(lambda near: f(*a[:-1], near))(jnp.stack([a[-1], 2 * a[-1]])),
    "gradients, mapped": lambda f, *a: jax.vmap(jax.grad(curved(f)))(*(jnp.stack([each, jnp.sin(each)]) for each in a)),
}


@pytest.mark.parametrize("shape", [(4, 3, 4, 5), (2, 7, 3), (1, 3)])  # 48, 14 and 1 positions
@pytest.mark.parametrize("transformed", TRANSFORMED)
@pytest.mark.parametrize("name", PAIRS)
def test_it_is_the_plain_formula(name, transformed, shape):
    with jax.enable_x64(True):
        both = jax.jit(lambda *a: [TRANSFORMED[transformed](f, *a) for f in PAIRS[name]])
        found, expected = both(*operands(name, shape))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == np.float64
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_within_a_shard_map_one_operand_may_be_the_same_on_all_devices():
    mesh = Mesh(np.asarray(jax.devices()[:2]), ("i",))
    (x, v, near), (ab, *_) = operands("sums", (4, 6, 3)), operands("lines", (4, 6, 3))
    split, same = PartitionSpec("i"), PartitionSpec()
    lines = jax.shard_map(channel_lines, mesh=mesh, in_specs=(same, split, same), out_specs=split)
    np.testing.assert_allclose(jax.jit(lines)(ab, v, near), plain_lines(ab, v, near), rtol=1e-5, atol=1e-6)
    summed = lambda x, v, near: jax.lax.psum(channel_sums(x, v, near), "i")  # noqa: E731
    sums = jax.shard_map(summed, mesh=mesh, in_specs=(split, split, same), out_specs=same)
    np.testing.assert_allclose(jax.jit(sums)(x, v, near), plain_sums(x, v, near), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("name", PAIRS)
def test_other_platforms_get_the_plain_formula(name, platform):
    arguments = [jnp.float32(a) for a in operands(name, (4, 3, 4, 5))]

    def operations(f, platform=platform):
        program = jax.jit(f).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
        return Counter(re.findall(r"stablehlo\.\w+", program))

    ours, plain = PAIRS[name]
    apart = "stablehlo.reshape"
    found, expected = operations(ours), operations(plain)
    assert found - Counter({apart: found[apart]}) == expected - Counter({apart: expected[apart]})
    if name != "lines":
        assert operations(ours, platform="cpu")["stablehlo.optimization_barrier"] == 1


@pytest.mark.parametrize("name", ["moments", "sums"])
def test_the_cpu_adds_up_eight_positions_first_and_has_one_sum(name):
    arguments = map(jnp.float32, operands(name, (4, 4, 4, 16)))
    program = jax.jit(PAIRS[name][0]).lower(*arguments).as_text()
    assert program.count("stablehlo.reduce(") == 1
    assert "tensor<8x2x16xf32>" in program  # eight positions at once, both sums
