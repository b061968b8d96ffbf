from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.test_util import check_grads

from jaxcnn.errors import UsageError
from jaxcnn.layers import (
    BatchNorm,
    GroupNorm,
    InstanceNorm,
    LayerNorm,
    local_response_norm_caffe,
    local_response_norm_paper,
    local_response_norm_torch,
    mapped_over,
)
from jaxcnn.layers.norm import batch_norm


def images(shape=(8, 5, 4, 6), mean=3.0, std=2.0, seed=0):
    return np.random.default_rng(seed).normal(mean, std, shape).astype(np.float32)


def variables_like(layer, x):
    """Initial variables with scale and bias moved away from 1 and 0."""
    variables = layer.init(jax.random.key(0), x)
    channels = x.shape[-1]
    moved = {"scale": jnp.linspace(0.5, 2, channels), "bias": jnp.linspace(-1, 1, channels)}
    return {**variables, "params": moved}


def reference(x, axes, epsilon, scale=None, bias=None):
    """Normalise in float64."""
    x = np.asarray(x, np.float64)
    y = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + epsilon)
    channels = x.shape[-1]
    scale = np.linspace(0.5, 2, channels) if scale is None else scale
    bias = np.linspace(-1, 1, channels) if bias is None else bias
    return y * scale + bias


def train(layer, variables, x):
    return layer.apply(variables, x, mutable=["batch_stats"])


def test_batch_norm_is_the_float64_formula():
    x = images()
    layer = BatchNorm(use_running_average=False, momentum=0.8)
    y, new = train(layer, variables_like(layer, x), x)
    np.testing.assert_allclose(y, reference(x, (0, 1, 2), 1e-5), atol=2e-5)
    mean, var = x.astype(np.float64).mean((0, 1, 2)), x.astype(np.float64).var((0, 1, 2))
    np.testing.assert_allclose(new["batch_stats"]["mean"], 0.2 * mean, rtol=1e-5)
    np.testing.assert_allclose(new["batch_stats"]["var"], 0.8 + 0.2 * var, rtol=1e-5)


def test_batch_norm_is_flaxs_with_its_gradient_over_several_steps():
    ours = BatchNorm(use_running_average=False, momentum=0.9)
    flaxs = nn.BatchNorm(use_running_average=False, momentum=0.9)
    mine = theirs = variables_like(ours, images())
    weights = jnp.asarray(images(mean=0.0, seed=1))

    def loss(layer, params, stats, x):
        y, new = train(layer, {"params": params, "batch_stats": stats}, x)
        return jnp.sum(jnp.sin(y) * weights), new["batch_stats"]

    for step in range(3):
        x = jnp.asarray(images(seed=step)) * (step + 1.0)
        results = []
        for layer, state in ((ours, mine), (flaxs, theirs)):
            grad = jax.value_and_grad(lambda p, x, la=layer, s=state: loss(la, p, s["batch_stats"], x), (0, 1), True)
            results.append(grad(state["params"], x))
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), *results)
        mine = {**mine, "batch_stats": results[0][0][1]}
        theirs = {**theirs, "batch_stats": results[1][0][1]}
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), mine, theirs)


def test_batch_norm_in_evaluation_uses_and_leaves_the_running_statistics():
    x = images()
    layer = BatchNorm(use_running_average=True, epsilon=1e-3)
    stats = {"mean": jnp.linspace(1, 2, 6), "var": jnp.linspace(3, 4, 6)}
    variables = {**variables_like(layer, x), "batch_stats": stats}
    y, new = train(layer, variables, x)
    expected = (x - np.linspace(1, 2, 6)) / np.sqrt(np.linspace(3, 4, 6) + 1e-3)
    np.testing.assert_allclose(y, expected * np.linspace(0.5, 2, 6) + np.linspace(-1, 1, 6), atol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, new["batch_stats"], stats)


def test_batch_norm_statistics_start_at_zero_and_one_and_need_to_be_mutable():
    x = images()
    layer = BatchNorm(use_running_average=False)
    with mapped_over("devices"):  # There is no such axis while initialising.
        stats = layer.init(jax.random.key(0), x)["batch_stats"]
    assert stats["mean"].tolist() == [0] * 6
    assert stats["var"].tolist() == [1] * 6
    np.testing.assert_allclose(layer.apply(variables_like(layer, x), x), train(layer, variables_like(layer, x), x)[0])


def test_batch_norm_without_parameters():
    x = images()
    layer = BatchNorm(use_running_average=False, use_scale=False, use_bias=False)
    variables = layer.init(jax.random.key(0), x)
    assert "params" not in variables
    np.testing.assert_allclose(train(layer, variables, x)[0], reference(x, (0, 1, 2), 1e-5, 1, 0), atol=2e-5)


def test_batch_norm_keeps_its_precision_where_the_mean_is_large():
    x = images((64, 4, 4, 2), mean=1000.0, std=0.1)
    layer = BatchNorm(use_running_average=False, use_scale=False, use_bias=False)
    expected = reference(x, (0, 1, 2), 1e-5, 1, 0)
    variables = {"batch_stats": {"mean": jnp.full(2, 999.9), "var": jnp.ones(2)}}
    np.testing.assert_allclose(train(layer, variables, x)[0], expected, atol=0.01)
    # The moments around zero, as in Flax, lose everything here; otherwise this test would show nothing.
    flaxs, _ = train(nn.BatchNorm(False, use_scale=False, use_bias=False), variables, x)
    assert np.abs(flaxs - expected).max() > 0.1


def test_batch_norm_of_a_constant_is_its_bias():
    x = np.full((4, 2, 2, 3), 7.0, np.float32)
    layer = BatchNorm(use_running_average=False)
    variables = variables_like(layer, x)
    np.testing.assert_allclose(train(layer, variables, x)[0], np.broadcast_to([-1, 0, 1], x.shape), atol=1e-4)
    gradient = jax.grad(lambda x: train(layer, variables, x)[0].sum())(jnp.asarray(x))
    assert np.isfinite(gradient).all()


def test_synchronised_batch_norm_is_the_global_batch():
    x = images()
    alone = BatchNorm(use_running_average=False)
    variables = variables_like(alone, x)
    weights = images(mean=0.0, seed=1)

    def loss(x, weights):
        y, new = train(alone, variables, x)
        return jnp.sum(y * weights), (y, new)

    grad = jax.value_and_grad(loss, has_aux=True)
    (_, (y, new)), gradient = grad(jnp.asarray(x), weights)

    def synchronised(x, weights):
        with mapped_over("devices"):
            return grad(x, weights)

    devices = jax.devices()[:4]
    split = lambda a: a.reshape(4, 2, *a.shape[1:])  # noqa: E731
    mapped = jax.pmap(synchronised, axis_name="devices", devices=devices)
    (_, (y4, new4)), gradient4 = mapped(split(x), split(weights))
    np.testing.assert_allclose(y4.reshape(y.shape), y, atol=1e-5)
    np.testing.assert_allclose(gradient4.reshape(x.shape), gradient, atol=1e-5)
    assert np.abs(gradient).max() > 0.1
    for device in range(4):
        jax.tree.map(lambda a, b, d=device: np.testing.assert_allclose(a[d], b, rtol=1e-5), new4, new)

    # Without the context each device normalises its own part.
    own = jax.pmap(lambda x: train(alone, variables, x)[0], devices=devices)(split(x))
    np.testing.assert_allclose(own[1], train(alone, variables, split(x)[1])[0], atol=1e-5)
    assert np.abs(own.reshape(y.shape) - y).max() > 0.1

    # Under jit over a mesh the batch is global without an axis name.
    sharding = NamedSharding(Mesh(np.array(devices), ("data",)), PartitionSpec("data"))
    sharded = jax.jit(lambda x: train(alone, variables, x))(jax.device_put(x, sharding))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), sharded, (y, new))


def test_batch_norm_statistics_are_float32_under_bfloat16():
    x = jnp.asarray(images((64, 8, 8, 2), mean=10.0, std=1.0), jnp.bfloat16)
    layer = BatchNorm(use_running_average=False, momentum=0.0, dtype=jnp.bfloat16)
    variables = layer.init(jax.random.key(0), x)
    y, new = train(layer, variables, x)
    assert y.dtype == jnp.bfloat16
    assert {leaf.dtype for leaf in jax.tree.leaves((variables, new))} == {np.dtype(np.float32)}
    exact = np.asarray(x.astype(jnp.float32), np.float64)
    np.testing.assert_allclose(new["batch_stats"]["mean"], exact.mean((0, 1, 2)), rtol=1e-6)
    np.testing.assert_allclose(new["batch_stats"]["var"], exact.var((0, 1, 2)), rtol=1e-4)


@pytest.mark.parametrize("shape", [(3, 6, 4), (3, 5, 4, 6), (2, 3, 4, 2, 8)])
def test_group_layer_and_instance_norm_are_their_formulas(shape):
    x = images(shape)
    positions = tuple(range(1, x.ndim - 1))
    channels = shape[-1]
    for layer, axes in ((LayerNorm(), -1), (InstanceNorm(), positions)):
        y = layer.apply(variables_like(layer, x), x)
        np.testing.assert_allclose(y, reference(x, axes, layer.epsilon), atol=2e-5)
    layer = GroupNorm(groups=2)
    y = layer.apply(variables_like(layer, x), x)
    halves = [
        reference(x[..., part], (*positions, x.ndim - 1), 1e-5, 1, 0)
        for part in (slice(channels // 2), slice(channels // 2, None))
    ]
    expected = np.concatenate(halves, -1) * np.linspace(0.5, 2, channels) + np.linspace(-1, 1, channels)
    np.testing.assert_allclose(y, expected, atol=2e-5)


def test_group_norm_at_its_two_ends():
    x = images()
    every_channel, all_channels = GroupNorm(groups=6), GroupNorm(groups=1)
    instance = InstanceNorm()
    variables = variables_like(instance, x)
    np.testing.assert_allclose(every_channel.apply(variables, x), instance.apply(variables, x), atol=1e-5)
    np.testing.assert_allclose(all_channels.apply(variables, x), reference(x, (1, 2, 3), 1e-5), atol=2e-5)


def test_group_norm_names_the_nearest_groups():
    with pytest.raises(UsageError, match="groups=32 does not divide 6 channels: nearest valid is 6"):
        GroupNorm().init(jax.random.key(0), images())


NORMS = {
    "batch": lambda dtype: BatchNorm(use_running_average=True, dtype=dtype),
    "group": lambda dtype: GroupNorm(groups=3, dtype=dtype),
    "layer": lambda dtype: LayerNorm(dtype=dtype),
    "instance": lambda dtype: InstanceNorm(dtype=dtype),
}


@pytest.mark.parametrize("name", NORMS)
def test_jit_grad_vmap_and_bfloat16(name):
    x = jnp.asarray(images())
    layer = NORMS[name](jnp.float32)
    variables = variables_like(layer, x)
    y = layer.apply(variables, x)
    np.testing.assert_allclose(jax.jit(layer.apply)(variables, x), y, atol=1e-5)
    np.testing.assert_allclose(jax.vmap(lambda i: layer.apply(variables, i[None])[0])(x), y, atol=1e-5)
    gradient = jax.grad(lambda params: jnp.sum(layer.apply({**variables, "params": params}, x) ** 2))
    assert all(np.all(g != 0) and np.isfinite(g).all() for g in jax.tree.leaves(gradient(variables["params"])))
    low = NORMS[name](jnp.bfloat16).apply(variables, x.astype(jnp.bfloat16))
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), y, atol=0.1)


def loop_lrn(x, size, alpha, beta, k):
    """Local response norm by loops: channel i sees i - size // 2 and the size - 1 channels after that."""
    x = np.asarray(x, np.float64)
    y = np.zeros_like(x)
    for i in range(x.shape[-1]):
        total = sum(x[..., j] ** 2 for j in range(i - size // 2, i - size // 2 + size) if 0 <= j < x.shape[-1])
        y[..., i] = x[..., i] / (k + alpha * total) ** beta
    return y


@pytest.mark.parametrize("size", [1, 3, 4, 5, 8])
def test_local_response_norms_are_their_loops(size):
    x = images((2, 3, 3, 7), std=20.0)
    options = {"size": size, "alpha": 0.02, "beta": 0.6, "k": 1.5}
    expected = loop_lrn(x, size, 0.02, 0.6, 1.5)
    divided = loop_lrn(x, size, 0.02 / size, 0.6, 1.5)
    np.testing.assert_allclose(local_response_norm_paper(x, **options), expected, rtol=1e-4)
    np.testing.assert_allclose(local_response_norm_torch(x, **options), divided, rtol=1e-4)
    if size % 2:
        np.testing.assert_allclose(local_response_norm_caffe(x, **options), divided, rtol=1e-4)
    else:
        with pytest.raises(UsageError, match=f"size={size}"):
            local_response_norm_caffe(x, **options)


def test_local_response_norms_on_fixed_numbers():
    # Five channels of 100: the middle one sees all, the first three of them.
    x = jnp.full((1, 1, 1, 5), 100.0)
    first, middle = 30_000, 50_000
    for norm, k, alpha in (
        (local_response_norm_paper, 2, 1e-4),
        (local_response_norm_caffe, 1, 1 / 5),
        (local_response_norm_torch, 1, 1e-4 / 5),
    ):
        y = norm(x).ravel()
        assert y[0] == pytest.approx(100 / (k + alpha * first) ** 0.75, rel=1e-5)
        assert y[2] == pytest.approx(100 / (k + alpha * middle) ** 0.75, rel=1e-5)


@pytest.mark.parametrize(
    ("norm", "size", "k", "expected"),
    [
        # 10 / (2 + 0.01 (10^2 + 20^2 + 30^2))^0.75 = 10 / 16^0.75 = 1.25: nothing is divided.
        (local_response_norm_paper, 5, 2.0, [1.25, -1.486509, 1.446156, 1.34654, -1.740235, 2.264284]),
        # 30 / (1 + 0.01 / 3 (20^2 + 30^2 + 40^2))^0.75, divided by the size.
        (local_response_norm_caffe, 3, 1.0, [4.792073, -5.445456, 5.082761, 4.641881, -4.260823, 6.044456]),
        (local_response_norm_torch, 5, 1.0, [3.674196, -4.647362, 4.653024, 4.395363, -5.674355, 7.362382]),
        # Channels i - 2 to i + 1.
        (local_response_norm_torch, 4, 1.0, [5.44331, -6.473224, 6.026388, 5.383119, -4.839864, 6.285394]),
        (local_response_norm_paper, 4, 2.0, [2.323681, -2.5, 2.229763, 1.953975, -1.740235, 2.264284]),
    ],
)
def test_local_response_norms_are_these_numbers(norm, size, k, expected):
    # As torch.nn.functional.local_response_norm in float64 gives them (its alpha times the size for the paper's).
    x = jnp.asarray([10.0, -20.0, 30.0, 40.0, -50.0, 60.0]).reshape(1, 1, 1, 6)
    np.testing.assert_allclose(norm(x, size, alpha=0.01, beta=0.75, k=k).ravel(), expected, rtol=1e-5)


def test_local_response_norm_under_jit_grad_vmap_and_bfloat16():
    x = jnp.asarray(images((2, 3, 3, 7)))
    y = local_response_norm_paper(x)
    np.testing.assert_allclose(jax.jit(local_response_norm_paper)(x), y, rtol=1e-5)
    np.testing.assert_allclose(jax.vmap(local_response_norm_paper)(x), y, rtol=1e-5)
    norm = lambda x: local_response_norm_torch(x, alpha=0.1)  # noqa: E731
    check_grads(norm, (x,), order=1, modes=["rev"], rtol=0.02, atol=0.02)
    assert norm(x.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    with pytest.raises(UsageError, match="size=0"):
        local_response_norm_paper(x, size=0)


# The closed form of the derivative ------------------------------------------------------------------------------------


def plain_batch_norm(x, scale, bias, near, epsilon, axis_name=None):
    """As the paper has it, for JAX to derive."""
    axes = tuple(range(x.ndim - 1))
    average = lambda v: jnp.mean(v, axes) if axis_name is None else lax.pmean(jnp.mean(v, axes), axis_name)  # noqa: E731
    mean = average(x)
    var = average(jnp.square(x - mean))
    return (x - mean) / jnp.sqrt(var + epsilon) * scale + bias, mean, var


def operands(shape=(4, 3, 2, 5), seed=0):
    """Return x, scale, bias and the guess of the mean, in float64."""
    rng = np.random.default_rng(seed)
    channels = shape[-1]
    return (rng.normal(3, 2, shape), rng.normal(size=channels), rng.normal(size=channels), rng.normal(3, 1, channels))


def curved(norm, *options):
    """A scalar of all that a norm returns, with derivatives of every order."""

    def loss(x, scale, bias, near):
        y, mean, var = norm(x, scale, bias, near, 1e-3, *options)
        return jnp.sum(jnp.sin(y) * y) + jnp.sum(jnp.sin(mean)) + jnp.sum(jnp.sin(var))

    return loss


def directions(arguments):
    return tuple(jnp.cos(jnp.arange(a.size, dtype=a.dtype)).reshape(a.shape) for a in arguments)


def hessian_vector(norm, *arguments):
    return jax.jvp(jax.grad(curved(norm), (0, 1, 2)), arguments, directions(arguments))


DERIVATIVES = {
    "values": lambda norm, *a: norm(*a, 1e-3),
    "gradients": lambda norm, *a: jax.grad(curved(norm), (0, 1, 2))(*a),
    "gradient of the mean": lambda norm, *a: jax.grad(lambda *a: jnp.sum(jnp.sin(norm(*a, 1e-3)[1])))(*a),
    "gradient of the variance": lambda norm, *a: jax.grad(lambda *a: jnp.sum(jnp.sin(norm(*a, 1e-3)[2])))(*a),
    "jvp": lambda norm, *a: jax.jvp(lambda *a: norm(*a, 1e-3), a, directions(a)),
    "hessian times a vector": hessian_vector,
    "hessian by the scale": lambda norm, *a: jax.hessian(curved(norm), 1)(*a),
    "grad of grad": lambda norm, *a: jax.grad(lambda *a: jnp.sum(jnp.square(jax.grad(curved(norm), 0)(*a))), (0, 1))(
        *a
    ),
    "vmap": lambda norm, x, *a: jax.vmap(jax.grad(curved(norm)), (0, None, None, None))(jnp.stack([x, x * x]), *a),
    "checkpoint": lambda norm, *a: jax.grad(jax.checkpoint(curved(norm)), (0, 1, 2))(*a),
}


@pytest.mark.parametrize("shape", [(4, 3, 2, 5), (6, 5), (3, 4, 2)])
@pytest.mark.parametrize("name", DERIVATIVES)
def test_the_closed_form_is_the_derivative_of_the_formula(name, shape):
    derivative = DERIVATIVES[name]
    with jax.enable_x64(True):
        arguments = [jnp.asarray(a) for a in operands(shape)]
        found, expected = jax.jit(lambda *a: [derivative(norm, *a) for norm in (batch_norm, plain_batch_norm)])(
            *arguments
        )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == np.float64
        assert np.abs(b).max() > 1e-3
        np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8)


def test_the_guess_of_the_mean_changes_no_number_and_has_no_gradient():
    with jax.enable_x64(True):
        x, scale, bias, near = map(jnp.asarray, operands())
        grad = jax.grad(curved(batch_norm), (0, 1, 2, 3))
        found, other = grad(x, scale, bias, near), grad(x, scale, bias, near * 0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-9), found, other)
    assert not np.any(found[3])


@pytest.mark.parametrize("over", ["vmap", "shard_map", "shard_map without check_vma"])
def test_closed_form_over_a_mapped_axis_is_that_of_the_global_batch(over):
    with jax.enable_x64(True):
        x, scale, bias, near = map(jnp.asarray, operands((8, 3, 2, 5)))
        shares = x.reshape(4, 2, *x.shape[1:])

        def share(norm, x, scale, bias, near):
            """What the share of a device adds to the loss; the statistics' own terms are every device's."""
            y, mean, var = norm(x, scale, bias, near, 1e-3, "devices")
            return lax.psum(jnp.sum(jnp.sin(y) * y), "devices") + jnp.sum(jnp.sin(mean)) + jnp.sum(jnp.sin(var))

        def over_all(norm):
            if over == "vmap":
                mapped = jax.vmap(partial(share, norm), (0, None, None, None), axis_name="devices")
                return lambda x, *rest: mapped(x.reshape(shares.shape), *rest)[0]
            mesh = Mesh(np.array(jax.devices()[:4]), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
            batch, whole = PartitionSpec("devices"), PartitionSpec()
            return jax.shard_map(
                partial(share, norm),
                mesh=mesh,
                in_specs=(batch, whole, whole, whole),
                out_specs=whole,
                check_vma=over == "shard_map",
            )

        arguments = (x, scale, bias, near)
        expected = jax.jit(jax.value_and_grad(curved(plain_batch_norm), (0, 1, 2)))(*arguments)
        found = jax.jit(jax.value_and_grad(over_all(batch_norm), (0, 1, 2)))(*arguments)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8), found, expected)
        second = jax.jit(lambda *a: jax.jvp(jax.grad(over_all(batch_norm), (0, 1, 2)), a, directions(a))[1])
        wanted = jax.jit(partial(hessian_vector, plain_batch_norm))(*arguments)[1]
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-8), second(*arguments), wanted)


def test_the_statistics_cross_devices_in_one_message_each_way():
    mesh = Mesh(np.array(jax.devices()[:4]), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))
    batch, whole = PartitionSpec("devices"), PartitionSpec()
    x, *rest = (jnp.asarray(a, jnp.float32) for a in operands((8, 3, 2, 5)))

    def local(x, scale, bias, near):
        return jax.grad(lambda x: jnp.sum(jnp.sin(batch_norm(x, scale, bias, near, 1e-3, "devices")[0])))(x)

    sharded = jax.shard_map(local, mesh=mesh, in_specs=(batch, whole, whole, whole), out_specs=batch, check_vma=False)
    assert jax.jit(sharded).lower(x, *rest).as_text().count("stablehlo.all_reduce") == 2
