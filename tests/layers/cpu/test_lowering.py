"""The convolution's primitives: each transformation gives what it gives of XLA's own, each platform has its program."""

import ast
import re
from collections import Counter
from functools import partial
from pathlib import Path

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import lax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jax.test_util import check_grads

import jaxcnn.models
from jaxcnn import backend
from jaxcnn.errors import UsageError
from jaxcnn.layers import Conv, conv, conv_transpose
from jaxcnn.layers.cpu import lowering
from jaxcnn.layers.reference import LAYOUTS, xla_forward, xla_input_gradient
from jaxcnn.models.resnet import resnet_tiny
from jaxcnn.tasks import Classification
from jaxcnn.train.state import create_state
from jaxcnn.train.step import make_train_step

# Sizes, channels, window, features, strides, padding, dilation, groups: each way that the CPU's program may go.
CASES = {
    "dense": ((7, 6), 5, (3, 3), 4, (1, 1), ((1, 1), (1, 1)), (1, 1), 1),
    "few channels": ((7, 6), 2, (3, 3), 4, (1, 1), ((1, 1), (0, 1)), (1, 1), 1),
    "few channels of a large image": ((3, 32769), 1, (3, 2), 16, (2, 1), ((1, 1), (0, 1)), (1, 1), 1),
    "strided": ((8, 7), 5, (3, 3), 4, (2, 2), ((1, 1), (0, 1)), (1, 1), 1),
    "dilated": ((7, 6), 5, (3, 2), 4, (1, 1), ((2, 2), (1, 1)), (2, 2), 1),
    "strided and dilated": ((9, 7), 5, (3, 2), 4, (2, 1), ((2, 2), (1, 1)), (2, 2), 1),
    "pointwise": ((4, 5), 5, (1, 1), 4, (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    "strided pointwise": ((6, 5), 4, (1, 1), 5, (2, 2), ((0, 0), (0, 0)), (1, 1), 1),
    "grouped": ((6, 5), 12, (3, 3), 8, (1, 2), ((1, 1), (1, 1)), (1, 1), 4),
    "grouped, wider": ((6, 5), 24, (3, 3), 9, (1, 2), ((1, 1), (1, 1)), (2, 1), 3),
    "depthwise": ((6, 5), 4, (3, 3), 4, (2, 2), ((1, 1), (0, 1)), (1, 1), 4),
    "depthwise, unstrided": ((6, 5), 4, (3, 3), 4, (1, 1), ((1, 1), (1, 1)), (1, 1), 4),
    "depthwise, large window": ((9, 8), 3, (5, 4), 3, (2, 2), ((2, 2), (1, 1)), (1, 1), 3),
    "depthwise, two features a channel": ((6, 5), 4, (3, 3), 8, (2, 2), ((1, 1), (1, 1)), (1, 1), 4),
    "depthwise, strided and dilated": ((9, 8), 3, (3, 2), 3, (2, 2), ((2, 1), (1, 1)), (2, 1), 3),
    "padding wider than the window": ((7, 3), 16, (3, 1), 32, (1, 1), ((1, 1), (2, 4)), (1, 1), 1),
    "padding wider than the window, strided": ((2, 1), 1, (1, 1), 32, (2, 2), ((2, 3), (4, 3)), (1, 1), 1),
    "window wider than the input": ((1, 1), 28, (1, 3), 32, (1, 1), ((0, 0), (1, 1)), (1, 1), 1),
    "window farther apart than the input": ((2, 1), 4, (3, 3), 16, (1, 1), ((4, 4), (1, 1)), (4, 1), 1),
    "one column of outputs": ((7, 2), 1, (2, 2), 8, (1, 3), ((1, 1), (0, 0)), (1, 1), 1),
    "1-D": ((9,), 5, (3,), 4, (2,), ((2, 0),), (1,), 1),
    "3-D": ((4, 5, 3), 3, (2, 2, 2), 4, (2, 1, 1), ((1, 0), (0, 1), (1, 1)), (1, 1, 2), 1),
}
TRANSFORMED = ("strided", "depthwise")
# One of each kind, for what depends on the kind alone.
KINDS = ("dense", "strided and dilated", "pointwise", "grouped", "depthwise", "1-D", "3-D")


def problem(case, dtype=np.float64):
    """Return our convolution, XLA's, and operands."""
    sizes, channels, window, features, *geometry = CASES[case]
    strides, edges, dilation, groups = geometry
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, *sizes, channels)).astype(dtype)
    kernel = rng.standard_normal((*window, channels // groups, features)).astype(dtype)
    plain = partial(
        lax.conv_general_dilated,
        window_strides=strides,
        padding=edges,
        rhs_dilation=dilation,
        dimension_numbers=LAYOUTS[len(window)],
        feature_group_count=groups,
    )
    ours = lambda x, kernel: conv(x, kernel, strides, edges, dilation, groups)  # noqa: E731
    return ours, plain, x, kernel


def curved(f):
    """A scalar of both operands with derivatives of every order."""
    return lambda x, kernel: jnp.sum(jnp.sin(f(x, kernel)) * f(x, kernel))


def same(transformed, case):
    """Assert that a function of a convolution and its operands has the same result for ours and XLA's, in float64."""
    ours, plain, x, kernel = problem(case)
    with jax.enable_x64(True):
        x, kernel = jnp.asarray(x), jnp.asarray(kernel)
        found, expected = jax.jit(lambda x, kernel: (transformed(ours, x, kernel), transformed(plain, x, kernel)))(
            x, kernel
        )
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert a.dtype == np.float64
        assert np.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9)


def derivatives(f, x, kernel):
    """Value, gradients, and their derivative in some direction."""
    return jax.jvp(jax.value_and_grad(curved(f), (0, 1)), (x, kernel), (x[::-1], kernel[..., ::-1]))


@pytest.mark.parametrize("case", CASES)
def test_values_and_derivatives_of_first_and_second_order(case):
    same(derivatives, case)


@pytest.mark.parametrize("case", [case for case in CASES if CASES[case][-1] > 1])
def test_grouped_convolutions_of_a_compiler_that_has_fast_ones(case):
    with backend.with_onednn(True):
        same(derivatives, case)


@pytest.mark.parametrize("case", CASES)
def test_as_our_own_jit_compiles_it(case):
    ours, plain, x, kernel = problem(case, np.float32)
    # oneDNN, where the compiler has it, multiplies its results by a number itself, which is where it goes wrong.
    scaled = lambda f: lambda x, kernel: -2 * f(x, kernel)  # noqa: E731

    def all_three(f, x, kernel):
        y, transpose = jax.vjp(scaled(f), x, kernel)
        return y, *(-2 * gradient for gradient in transpose(y))

    found, expected = (jit(partial(all_three, f))(x, kernel) for jit, f in ((backend.jit, ours), (jax.jit, plain)))
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-2), found, expected)


def test_a_convolution_that_meets_padding_alone_is_zero():
    x, kernel = np.ones((2, 1, 3, 4), np.float32), np.ones((2, 2, 4, 16), np.float32)
    summed = lambda x, kernel: jnp.sum(conv(x, kernel, padding=1, kernel_dilation=(2, 1)))  # noqa: E731
    for found in jax.tree.leaves(backend.jit(jax.value_and_grad(summed, (0, 1)))(x, kernel)):
        np.testing.assert_array_equal(found, 0)


def per_example(f, x, kernel):
    return jax.vmap(jax.grad(lambda x, kernel: curved(f)(x[None], kernel), 1), (0, None))(x, kernel)


def many(x, n=3, axis=0):
    return jnp.stack([x * (i + 1) for i in range(n)], axis)


TRANSFORMATIONS = {
    "jvp": lambda f, x, k: jax.jvp(f, (x, k), (x[::-1], k[..., ::-1])),
    "jvp by the kernel alone": lambda f, x, k: jax.jvp(partial(f, x), (k,), (k[..., ::-1],)),
    "jacfwd": lambda f, x, k: jax.jacfwd(partial(f, x[:1]))(k),
    "jacrev": lambda f, x, k: jax.jacrev(f, 0)(x[:1, :4, :3], k),
    "linearize": lambda f, x, k: jax.linearize(f, x, k)[1](x * 2, k * 3),
    "linear_transpose": lambda f, x, k: jax.linear_transpose(lambda x: f(x, k), x)(f(x, k)),
    "grad of grad": lambda f, x, k: jax.grad(lambda x, k: jnp.sum(jnp.square(jax.grad(curved(f), 1)(x, k))), (0, 1))(
        x, k
    ),
    "third order": lambda f, x, k: jax.jvp(
        jax.grad(lambda k: jnp.sum(jnp.sin(jax.grad(lambda k: curved(f)(x, k))(k)))), (k,), (k,)
    ),
    "vmap over the input": lambda f, x, k: jax.vmap(f, (1, None))(many(x, axis=1), k),
    "vmap over the kernel": lambda f, x, k: jax.vmap(f, (None, 2), out_axes=1)(x, many(k, axis=2)),
    "vmap over both": lambda f, x, k: jax.vmap(jax.grad(curved(f), (0, 1)))(many(x), many(k)),
    "nested vmap": lambda f, x, k: jax.vmap(jax.vmap(f, (None, 0)), (0, None))(many(x, 2), many(k)),
    "gradients of each example": per_example,
    "grad of vmap": lambda f, x, k: jax.grad(lambda x, k: jnp.sum(jnp.sin(jax.vmap(f, (0, None))(x, k))), (0, 1))(
        many(x), k
    ),
    "checkpoint": lambda f, x, k: jax.grad(
        jax.checkpoint(lambda x, k: curved(f)(f(x, k)[:, :1, :1, :1] * x, k)), (0, 1)
    )(x, k),
    "scan": lambda f, x, k: jax.grad(
        lambda k: lax.scan(lambda s, x: (s + curved(f)(x, k), None), jnp.zeros(()), many(x, 2))[0]
    )(k),
    "hessian": lambda f, x, k: jax.hessian(lambda k: curved(f)(x[:1], k))(k[..., :4])[:1],
}


@pytest.mark.parametrize("name", TRANSFORMATIONS)
@pytest.mark.parametrize("case", TRANSFORMED)
def test_transformations_are_those_of_xlas(name, case):
    same(TRANSFORMATIONS[name], case)


def test_it_is_bilinear_to_every_order():
    ours, _, x, kernel = problem("strided")
    with jax.enable_x64(True):
        check_grads(ours, (x, kernel), order=2, modes=("fwd", "rev"))


@pytest.mark.parametrize("case", TRANSFORMED)
def test_calls_outside_of_jit(case):
    ours, plain, x, kernel = problem(case, np.float32)
    gradient = lambda f: jax.value_and_grad(curved(f), (0, 1))(x, kernel)  # noqa: E731
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), gradient(ours), gradient(plain))
    with jax.disable_jit():
        np.testing.assert_allclose(ours(x, kernel), plain(x, kernel), rtol=1e-5, atol=1e-5)


TRANSPOSED = {  # strides, padding, output_padding, dilation, groups
    "plain": (1, 1, 0, 1, 1),
    "output padding": (2, 1, 1, 1, 1),
    "groups": (2, ((0, 1), (1, 0)), 0, 1, 2),
    "dilation": ((2, 3), 2, (1, 2), 2, 1),
    "depthwise": (2, 1, 1, 1, 4),
}


@pytest.mark.parametrize("case", TRANSPOSED)
def test_transposed_convolutions_and_their_derivatives(case):
    strides, padding, extra, dilation, groups = TRANSPOSED[case]
    pair = lambda value: (value, value) if isinstance(value, int) else value  # noqa: E731
    edges = [pair(p) for p in pair(padding)]

    def plain(x, kernel):
        """The gradient's own definition: zeros between the inputs, and the kernel turned around."""
        ends = [
            (d * (k - 1) - lo, d * (k - 1) - hi + e)
            for k, (lo, hi), d, e in zip(kernel.shape, edges, pair(dilation), pair(extra), strict=False)
        ]
        return lax.conv_general_dilated(
            x,
            kernel[::-1, ::-1],
            (1, 1),
            ends,
            lhs_dilation=pair(strides),
            rhs_dilation=pair(dilation),
            dimension_numbers=LAYOUTS[2],
            feature_group_count=groups,
        )

    ours = partial(
        conv_transpose, strides=strides, padding=padding, output_padding=extra, kernel_dilation=dilation, groups=groups
    )
    rng = np.random.default_rng(0)
    x, kernel = rng.standard_normal((2, 4, 5, 4)), rng.standard_normal((3, 3, 4 // groups, 8))

    with jax.enable_x64(True):
        found, expected = jax.jit(lambda x, k: (derivatives(ours, x, k), derivatives(plain, x, k)))(x, kernel)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9), found, expected)


# Over devices --------------------------------------------------------------------------------------------------------


@pytest.fixture
def mesh():
    return Mesh(np.array(jax.devices()[:4]), ("devices",), axis_types=(jax.sharding.AxisType.Auto,))


def eight(case="strided"):
    ours, plain, x, kernel = problem(case, np.float32)
    return ours, plain, np.concatenate([x, x * 2, x * 3, x[::-1]]), kernel


@pytest.mark.parametrize("case", TRANSFORMED)
@pytest.mark.parametrize("check_vma", [True, False])
def test_shard_map_with_a_kernel_that_all_have(mesh, check_vma, case):
    ours, plain, x, kernel = eight(case)
    batch, whole = PartitionSpec("devices"), PartitionSpec()

    def local(x, kernel):
        # With check_vma, the gradient by what all devices have is summed over them by itself.
        value, (dx, dkernel) = jax.value_and_grad(curved(ours), (0, 1))(x, kernel)
        return lax.psum(value, "devices"), dx, dkernel if check_vma else lax.psum(dkernel, "devices")

    sharded = jax.shard_map(
        local, mesh=mesh, in_specs=(batch, whole), out_specs=(whole, batch, whole), check_vma=check_vma
    )
    value, (dx, dkernel) = jax.value_and_grad(curved(plain), (0, 1))(x, kernel)
    for found, expected in zip(jax.jit(sharded)(x, kernel), (value, dx, dkernel), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-3)
    through = jax.jit(jax.grad(lambda x, k: sharded(x, k)[0], (0, 1)))(x, kernel)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3), through, (dx, dkernel))


@pytest.mark.parametrize("case", TRANSFORMED)
def test_jit_over_a_sharded_batch(mesh, case):
    ours, plain, x, kernel = eight(case)
    over = NamedSharding(mesh, PartitionSpec("devices"))
    x = jax.device_put(x, over)
    kernel = jax.device_put(kernel, NamedSharding(mesh, PartitionSpec()))
    compiled = jax.jit(jax.value_and_grad(curved(ours), (0, 1))).lower(x, kernel).compile()
    found, expected = compiled(x, kernel), jax.value_and_grad(curved(plain), (0, 1))(x, kernel)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-3), found, expected)
    # Each device sees its own examples: nothing but the sums of the value and the kernel's gradient is exchanged.
    assert found[1][0].sharding.is_equivalent_to(over, x.ndim)
    assert "all-reduce" in compiled.as_text()
    if case == "strided":  # XLA (jaxlib 0.12) gathers the examples for grouped convolutions' gradients, its own too
        assert "all-gather" not in compiled.as_text()


# Programs ------------------------------------------------------------------------------------------------------------


def operations(f, *args, platform):
    """Return the names of the operations that a function is lowered to, with their numbers."""
    text = jax.jit(f).trace(*args).lower(lowering_platforms=(platform,)).as_text()
    return Counter(re.findall(r"(?:stablehlo|chlo|mhlo|sdy)\.\w+|custom_call", text))


@pytest.mark.parametrize("case", KINDS)
def test_other_platforms_get_xlas_program(case):
    ours, plain, x, kernel = problem(case, np.float32)
    gradients = lambda f: jax.value_and_grad(curved(f), (0, 1))  # noqa: E731
    for platform in ("cuda", "tpu"):
        found = operations(gradients(ours), x, kernel, platform=platform)
        assert found == operations(gradients(plain), x, kernel, platform=platform)
        assert found["stablehlo.convolution"] == 6  # `curved` convolves twice
        # Of the second order XLA's own turns a kernel around once for two convolutions, of which we know nothing.
        found, expected = (operations(partial(derivatives, f), x, kernel, platform=platform) for f in (ours, plain))
        assert found.keys() == expected.keys()
        assert found["stablehlo.convolution"] == expected["stablehlo.convolution"]


def without_ours(monkeypatch):
    """Let XLA's convolution stand for our primitives, and nothing for `materialised`."""
    forward = {"convolve": xla_forward, "convolve_input_gradient": xla_input_gradient}
    monkeypatch.setattr(lowering, "_bind", lambda primitive, a, b, geometry: forward[primitive.name](a, b, geometry))
    monkeypatch.setattr("jaxcnn.layers.blocks.materialised", lambda x: x)


def test_a_training_step_elsewhere_is_xlas_own(monkeypatch):
    tx = optax.sgd(0.1, momentum=0.9)
    shape = (4, 8, 8, 3)
    batch = {
        "image": jax.ShapeDtypeStruct(shape, jnp.float32),
        "label": jax.ShapeDtypeStruct((4,), jnp.int32),
        "mask": jax.ShapeDtypeStruct((4,), bool),
    }

    def step_of(platform):
        model = resnet_tiny(stem="cifar", block="basic", num_classes=5)
        made = lambda key: create_state(model.init(key, jnp.zeros(shape)), tx, key)  # noqa: E731
        state = jax.eval_shape(made, jax.random.key(0))
        return operations(make_train_step(model, tx, Classification()), state, batch, platform=platform)

    platforms = ("cuda", "tpu", "cpu")
    ours = {platform: step_of(platform) for platform in platforms}
    without_ours(monkeypatch)
    plain = {platform: step_of(platform) for platform in platforms}
    assert ours["cuda"] == plain["cuda"]
    assert ours["tpu"] == plain["tpu"]
    assert ours["cpu"] != plain["cpu"]  # otherwise this test would show nothing
    assert ours["cpu"]["stablehlo.optimization_barrier"] > 0
    assert ours["cuda"]["stablehlo.optimization_barrier"] == 0


def gradient_on_cpu(case, by):
    """Return the CPU's program for one gradient alone, before it is compiled."""
    ours, _, x, kernel = problem(case, np.float32)
    function = jax.grad(lambda *args: jnp.sum(ours(*args)), by)
    return jax.jit(function).trace(x, kernel).lower(lowering_platforms=("cpu",)).as_text()


def test_bfloat16_has_no_grouped_convolutions_on_the_cpu():
    # oneDNN has none, and XLA's own take a thousand times as long.
    for case in ("grouped", "grouped, wider", "depthwise"):
        ours, _, x, kernel = problem(case, np.float32)
        x, kernel = x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)
        for function in (ours, jax.grad(lambda x, kernel, ours=ours: jnp.sum(ours(x, kernel)), 1)):
            program = jax.jit(function).trace(x, kernel).lower(lowering_platforms=("cpu",)).as_text()
            assert set(re.findall(r"feature_group_count = (\d+)", program)) <= {"1"}


def test_the_cpu_gets_the_remedies():
    strided = gradient_on_cpu("strided", 0)
    assert strided.count("stablehlo.convolution(") == 4  # one for each phase
    assert "lhs_dilate = [2" not in strided
    for case in ("pointwise", "strided pointwise"):
        program = gradient_on_cpu(case, 1)
        assert program.count("stablehlo.dot_general ") == 1
        assert "stablehlo.convolution(" not in program
    assert "stablehlo.convolution(" not in gradient_on_cpu("depthwise", 1)
    grouped = gradient_on_cpu("grouped", 1)
    assert "batch_group_count = 1" in grouped
    assert "group_count = 4" not in grouped
    # XLA's own have what the assertions above miss.
    _, plain, x, kernel = problem("strided", np.float32)
    own = jax.jit(jax.grad(lambda x: jnp.sum(plain(x, kernel)))).lower(x).as_text()
    assert "lhs_dilate = [2" in own
    _, plain, x, kernel = problem("grouped", np.float32)
    own = jax.jit(jax.grad(lambda kernel: jnp.sum(plain(x, kernel)))).lower(kernel).as_text()
    assert "group_count = 4" in own


def test_an_exported_program_runs_on_every_platform():
    ours, plain, x, kernel = problem("strided", np.float32)
    exported = jax.export.export(jax.jit(curved(ours)), platforms=("cpu", "cuda", "tpu"))(x, kernel)
    back = jax.export.deserialize(exported.serialize(vjp_order=1))
    assert set(back.platforms) == {"cpu", "cuda", "tpu"}
    found = back.call(x, kernel), jax.grad(back.call, (0, 1))(x, kernel)
    expected = curved(plain)(x, kernel), jax.grad(curved(plain), (0, 1))(x, kernel)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), found, expected)


def test_materialised_is_the_identity_and_a_barrier_on_the_cpu_alone():
    x = jnp.arange(6.0).reshape(2, 3)
    f = lambda x: jnp.sum(jnp.sin(lowering.materialised(x)))  # noqa: E731
    np.testing.assert_array_equal(lowering.materialised(x), x)
    np.testing.assert_allclose(jax.hessian(f)(x), jax.hessian(lambda x: jnp.sum(jnp.sin(x)))(x), atol=1e-6)
    np.testing.assert_array_equal(jax.vmap(lowering.materialised, 1, 1)(x), x)
    barrier = "stablehlo.optimization_barrier"
    assert operations(f, x, platform="cpu")[barrier] == 1
    assert operations(f, x, platform="cuda") == operations(lambda x: jnp.sum(jnp.sin(x)), x, platform="cuda")


def test_no_model_mentions_a_platform():
    """In its code: what papers say of their GPUs is in docstrings and comments."""
    words = re.compile(r"(?<![a-z])(?:[cgt]pus?|cuda|platforms?|backends?|xla|onednn|lowering)(?![a-z])", re.IGNORECASE)
    files = list(Path(jaxcnn.models.__file__).parent.glob("*.py"))
    assert len(files) > 20
    for file in files:
        tree = ast.parse(file.read_text())
        documented = [n for n in ast.walk(tree) if isinstance(n, ast.Module | ast.ClassDef | ast.FunctionDef)]
        for node in documented:
            if ast.get_docstring(node) is not None:
                node.body = node.body[1:] or [ast.Pass()]
        assert not (found := words.findall(ast.unparse(tree))), f"{file.name}: {found}"


# The layer -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", KINDS)
def test_im2col_has_the_same_numbers_and_gradients(case):
    _, _, window, features, strides, padding, dilation, groups = CASES[case]
    _, _, x, _ = problem(case, np.float32)
    layers = [
        Conv(features, window, strides, padding, dilation, groups, bias_init=jax.nn.initializers.ones, lowering=how)
        for how in ("fast", "im2col")
    ]
    variables = layers[0].init(jax.random.key(0), x)
    found = [
        jax.jit(jax.value_and_grad(lambda v, x, layer=layer: jnp.sum(jnp.sin(layer.apply(v, x))), (0, 1)))(variables, x)
        for layer in layers
    ]
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-4), *found)
    im2col = jax.jit(layers[1].apply).lower(variables, x).as_text()
    assert ("stablehlo.convolution" in im2col, "stablehlo.dot_general" in im2col) == (False, True)


def test_an_unknown_lowering_is_named():
    x = jnp.ones((1, 4, 4, 1))
    with pytest.raises(UsageError, match=r"im2cool.*im2col"):
        Conv(1, 3, lowering="im2cool").init(jax.random.key(0), x)


@pytest.mark.parametrize("case", KINDS)
def test_bfloat16_everywhere(case):
    """Values and gradients are those of float32 to bfloat16's rounding, and of its type."""
    ours, plain, x, kernel = problem(case, np.float32)
    x, kernel = (jnp.asarray(a, jnp.bfloat16) for a in (x, kernel))
    wide = [a.astype(jnp.float32) for a in (x, kernel)]
    run = lambda f: jax.jit(lambda x, k: (f(x, k), jax.vjp(f, x, k)[1](jnp.ones_like(f(x, k)))))  # noqa: E731
    found, expected = run(ours)(x, kernel), run(plain)(*wide)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.bfloat16)}
    close = lambda a, b: np.testing.assert_allclose(np.float32(a), b, rtol=2**-7, atol=2**-5)  # noqa: E731
    jax.tree.map(close, found, expected)
