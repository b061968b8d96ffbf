"""Residual networks against a second implementation of their forward pass, and by name."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from jax import lax

from jaxcnn.errors import UsageError
from jaxcnn.layers import Conv
from jaxcnn.models import create
from jaxcnn.models.resnet import Stem, resnet_tiny
from jaxcnn.models.resnet_v2 import resnet_tiny_v2


def randomised(model, shape):
    """Variables in which no scale is 1, no bias and mean 0: what initial values would hide."""
    rng = np.random.default_rng(0)
    variables = model.init(jax.random.key(0), jax.ShapeDtypeStruct((2, *shape), jnp.float32))

    def draw(path, leaf):
        if path[-1].key in ("scale", "var"):
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        return leaf if leaf.ndim > 1 else 0.1 * rng.standard_normal(leaf.shape).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, variables)


class Reference:
    """Forward passes of CIFAR networks written out in lax, from our variables by name."""

    def __init__(self, variables):
        self.params = traverse_util.flatten_dict(variables["params"], sep="/")
        self.stats = traverse_util.flatten_dict(variables["batch_stats"], sep="/")

    def conv(self, x, name, strides=1):
        kernel = self.params[f"{name}/kernel"]
        pad = (kernel.shape[0] - 1) // 2
        y = lax.conv_general_dilated(
            x,
            kernel,
            (strides, strides),
            [(pad, pad), (pad, pad)],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        return y + self.params.get(f"{name}/bias", 0)

    def bn(self, x, name):
        mean, var = self.stats[f"{name}/mean"], self.stats[f"{name}/var"]
        scale, bias = self.params[f"{name}/scale"], self.params[f"{name}/bias"]
        return (x - mean) / np.sqrt(var + np.float32(1e-5)) * scale + bias

    def head(self, x):
        return x.mean((1, 2)) @ self.params["head/kernel"] + self.params["head/bias"]

    def resnet(self, x, depths, shortcut):
        x = jnp.maximum(self.bn(self.conv(x, "stem/conv"), "stem/bn"), 0)
        for stage, depth in enumerate(depths, 1):
            for block in range(1, depth + 1):
                at, strides = f"stage{stage}/block{block}", 2 if stage > 1 and block == 1 else 1
                y = jnp.maximum(self.bn(self.conv(x, f"{at}/conv1", strides), f"{at}/bn1"), 0)
                y = self.bn(self.conv(y, f"{at}/conv2"), f"{at}/bn2")
                if shortcut == "C" or (shortcut == "B" and strides == 2):
                    x = self.bn(self.conv(x, f"{at}/shortcut/conv", strides), f"{at}/shortcut/norm")
                elif shortcut == "A" and strides == 2:
                    half = x[:, ::2, ::2]
                    x = jnp.concatenate([half, jnp.zeros_like(half)], -1)
                elif shortcut == "A_centred" and strides == 2:
                    half, zeros = x[:, ::2, ::2], jnp.zeros_like(x[:, ::2, ::2, ::2])
                    x = jnp.concatenate([zeros, half, zeros], -1)
                x = jnp.maximum(y if shortcut == "none" else x + y, 0)
        return self.head(x)

    def preactivation_bottlenecks(self, x, depths, strided_conv, keras=False):
        x = self.conv(x, "stem/conv")
        for stage, depth in enumerate(depths, 1):
            for block in range(1, depth + 1):
                strided = stage < len(depths) and block == depth if keras else stage > 1 and block == 1
                at, strides = f"stage{stage}/block{block}", 2 if strided else 1
                y = jnp.maximum(self.bn(x, f"{at}/bn1"), 0)
                x = self.conv(y, f"{at}/shortcut", strides) if block == 1 else x[:, ::strides, ::strides]
                for i in (1, 2, 3):
                    y = y if i == 1 else jnp.maximum(self.bn(y, f"{at}/bn{i}"), 0)
                    y = self.conv(y, f"{at}/conv{i}", strides if i == strided_conv else 1)
                x = x + y
        return self.head(jnp.maximum(self.bn(x, "norm/bn"), 0))


def assert_close(got, expected):
    assert np.linalg.norm(got - expected) < 1e-5 * np.linalg.norm(expected)


def cifar_images(n=2):
    return jnp.asarray(np.random.default_rng(1).standard_normal((n, 32, 32, 3)), jnp.float32)


@pytest.mark.parametrize("shortcut", ["A", "A_centred", "B", "C", "none"])
def test_resnet20_forward(shortcut):
    model = create("resnet20", shortcut=shortcut)
    variables = randomised(model, (32, 32, 3))
    expected = jax.jit(lambda x: Reference(variables).resnet(x, (3, 3, 3), shortcut))(cifar_images())
    assert_close(jax.jit(model.apply)(variables, cifar_images()), expected)


@pytest.mark.parametrize(("variant", "strided_conv"), [("v1", 1), ("v1.5", 2)])
def test_preactivation_forward(variant, strided_conv):
    model = resnet_tiny_v2(stem="cifar", variant=variant, depths=(1, 2, 2))
    variables = randomised(model, (32, 32, 3))
    run = jax.jit(lambda x: Reference(variables).preactivation_bottlenecks(x, (1, 2, 2), strided_conv))
    assert_close(jax.jit(model.apply)(variables, cifar_images()), run(cifar_images()))


def test_preactivation_forward_as_in_keras():
    model = resnet_tiny_v2(stem="cifar", variant="keras", depths=(2, 3, 2))
    variables = randomised(model, (32, 32, 3))
    run = jax.jit(lambda x: Reference(variables).preactivation_bottlenecks(x, (2, 3, 2), 2, keras=True))
    assert_close(jax.jit(model.apply)(variables, cifar_images()), run(cifar_images()))


def test_stem_of_keras_pools_with_zeros():
    kernel = -np.ones((7, 7, 1, 1), np.float32)
    conv = partial(Conv, use_bias=False)
    pooled = [
        Stem("imagenet", 1, conv, None, zero_padded).apply(
            {"params": {"conv": {"kernel": kernel}}}, jnp.ones((1, 16, 16, 1))
        )[0, :, :, 0]
        for zero_padded in (False, True)
    ]
    assert (pooled[0] < 0).all()
    np.testing.assert_array_equal(pooled[1][0], 0)
    np.testing.assert_array_equal(pooled[1][:, 0], 0)
    np.testing.assert_array_equal(pooled[1][1:, 1:], pooled[0][1:, 1:])


def test_plain20_takes_the_variables_of_resnet20():
    variables = randomised(create("plain20"), (32, 32, 3))
    x = cifar_images(1)
    plain, residual = (jax.jit(create(name).apply)(variables, x) for name in ("plain20", "resnet20"))
    assert not np.allclose(plain, residual, rtol=1e-2)


def names(model, shape=(32, 32, 3)):
    x = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x)["params"]
    return {path.rpartition("/")[0] for path in traverse_util.flatten_dict(params, sep="/")}


def test_names_of_submodules():
    layers = {f"{kind}{i}" for kind in ("conv", "bn") for i in (1, 2, 3)}
    blocks = ("stage1/block1", "stage1/block2", "stage2/block1")
    inner = {f"{block}/{layer}" for block in blocks for layer in layers}
    projections = {f"{block}/shortcut" for block in (blocks[0], blocks[2])}
    assert names(resnet_tiny()) == {
        *{"stem/conv", "stem/bn", "head"},
        *inner,
        *(f"{at}/{layer}" for at in projections for layer in ("conv", "norm")),
    }
    assert names(resnet_tiny_v2()) == {"stem/conv", "norm/bn", "head", *inner, *projections}
    assert {"stage2/block3/conv1", "stage4/block3/bn3"} <= names(create("resnet50"), (64, 64, 3))


def read_everything(model, variables, x):
    apply = partial(model.apply, capture_intermediates=True, mutable=["intermediates"])
    return jax.jit(apply)(variables, x)


def test_stages_can_be_read_by_name():
    model = resnet_tiny()
    variables = model.init(jax.random.key(0), cifar_images())
    _, state = read_everything(model, variables, cifar_images())
    (stage2,) = state["intermediates"]["stage2"]["__call__"]
    assert stage2.shape == (2, 4, 4, 32)


def test_zero_gamma_starts_each_block_as_its_shortcut():
    model = resnet_tiny(zero_gamma=True, shortcut="A")
    variables = model.init(jax.random.key(0), cifar_images())
    block = variables["params"]["stage1"]["block2"]
    assert [np.unique(block[f"bn{i}"]["scale"]).tolist() for i in (1, 2, 3)] == [[1], [1], [0]]
    _, state = read_everything(model, variables, cifar_images())
    inner = state["intermediates"]["stage1"]
    np.testing.assert_array_equal(inner["block1"]["__call__"][0], inner["block2"]["__call__"][0])


def test_initial_kernels_are_he_normal_by_fan_out():
    variables = create("resnet20").init(jax.random.key(0), cifar_images())
    kernel = variables["params"]["stage3"]["block2"]["conv1"]["kernel"]
    assert np.std(kernel) == pytest.approx(np.sqrt(2 / (9 * 64)), rel=0.02)
    first = variables["params"]["stem"]["conv"]["kernel"]
    assert np.std(first) == pytest.approx(np.sqrt(2 / (9 * 16)), rel=0.15)
    assert np.abs(variables["params"]["head"]["kernel"]).max() <= 1 / 8


def test_images_without_channels_are_refused():
    with pytest.raises(UsageError, match=r"\(2, 32, 32\)"):
        create("resnet20").init(jax.random.key(0), jnp.zeros((2, 32, 32)))


def stage(model, variables, x, name):
    _, state = read_everything(model, variables, x)
    return state["intermediates"][name]["__call__"][0]


@pytest.mark.parametrize(
    "options",
    [{}, {"variant": "v1"}, {"block": "basic"}, {"shortcut": "A"}, {"groups": 2, "width_per_group": 128}],
    ids=str,
)
@pytest.mark.parametrize("output_stride", [8, pytest.param(16, marks=pytest.mark.slow)])
def test_dilated_stages_see_what_strided_ones_see(options, output_stride):
    make = partial(resnet_tiny, depths=(1, 1, 2, 2), **options)
    x = jnp.asarray(np.random.default_rng(1).standard_normal((1, 64, 64, 3)), jnp.float32)
    variables = randomised(make(), (64, 64, 3))
    strided = stage(make(), variables, x, "stage4")
    dilated = stage(make(output_stride=output_stride), variables, x, "stage4")
    step = 32 // output_stride
    assert strided.shape[1:3] == (2, 2)
    assert dilated.shape[1:3] == (2 * step, 2 * step)
    assert_close(dilated[:, ::step, ::step], strided)


def test_groups_are_a_bottlenecks():
    with pytest.raises(UsageError, match="block='basic'"):
        create("resnet18", groups=2).init(jax.random.key(0), cifar_images())


def test_output_stride_is_one_of_three():
    with pytest.raises(UsageError, match="valid choices are 16, 32, 8"):
        create("resnet50", output_stride=4)
