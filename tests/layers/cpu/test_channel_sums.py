"""The two sums of BatchNorm and their transpose: each transformation gives what it gives of the plain formula."""

import re
from collections import Counter

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, PartitionSpec

from jaxcnn.layers.cpu.channel_sums import channel_lines, channel_sums


def plain_sums(x, d):
    axes = tuple(range(x.ndim - 1))
    return jnp.stack([jnp.sum(x, axes), jnp.sum(x * d, axes)])


def plain_lines(ab, d):
    return ab[0] + ab[1] * d


PAIRS = {"sums": (channel_sums, plain_sums), "lines": (channel_lines, plain_lines)}


def operands(name, shape):
    rng = np.random.default_rng(0)
    first = shape if name == "sums" else (2, shape[-1])
    return rng.standard_normal(first), rng.standard_normal(shape)


def curved(f):
    return lambda *a: jnp.sum(jnp.sin(f(*a)) * f(*a))


TRANSFORMED = {
    "values": lambda f, *a: f(*a),
    "gradients": lambda f, *a: jax.grad(curved(f), (0, 1))(*a),
    "forward mode": lambda f, *a: jax.jvp(f, a, a[::1]),
    "second order": lambda f, *a: jax.jvp(jax.grad(curved(f), (0, 1)), a, a),
    "of one operand": lambda f, x, d: jax.grad(curved(lambda d: f(x, d)))(d),
    "mapped": lambda f, x, d: jax.vmap(f, (None, 0))(x, jnp.stack([d, d * d])),
    "gradients, mapped": lambda f, x, d: jax.vmap(jax.grad(curved(f)), (0, 0))(
        jnp.stack([x, x]), jnp.stack([d, d * d])
    ),
}


@pytest.mark.parametrize("shape", [(4, 3, 4, 5), (2, 7, 3), (13, 4), (1, 3)])  # 48, 14, 13 and 1 positions
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
    (x, d), (ab, _) = operands("sums", (4, 6, 3)), operands("lines", (4, 6, 3))
    split, same = PartitionSpec("i"), PartitionSpec()
    lines = jax.jit(jax.shard_map(channel_lines, mesh=mesh, in_specs=(same, split), out_specs=split))
    np.testing.assert_allclose(lines(ab, d), plain_lines(ab, d), rtol=1e-5)
    sums = jax.shard_map(lambda x, d: jax.lax.psum(channel_sums(x, d), "i"), mesh=mesh, in_specs=split, out_specs=same)
    np.testing.assert_allclose(jax.jit(sums)(x, d), plain_sums(x, d), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("name", PAIRS)
def test_other_platforms_get_the_plain_formula(name, platform):
    arguments = [jnp.float32(a) for a in operands(name, (4, 3, 4, 5))]

    def operations(f, platform=platform):
        program = jax.jit(f).trace(*arguments).lower(lowering_platforms=(platform,)).as_text()
        return Counter(re.findall(r"stablehlo\.\w+", program))

    ours, plain = PAIRS[name]
    assert operations(ours) == operations(plain)
    if name == "sums":
        assert operations(ours, platform="cpu") != operations(plain)  # otherwise this test would show nothing


def test_the_cpu_reads_both_operands_once():
    x, d = map(jnp.float32, operands("sums", (4, 4, 4, 16)))
    program = jax.jit(channel_sums).lower(x, d).as_text()
    assert program.count("stablehlo.reduce(") == 1
    assert "tensor<8x2x16xf32>" in program  # eight positions at once, both sums
