import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax import lax

from jaxcnn.errors import UsageError
from jaxcnn.layers import (
    conv_macs,
    conv_params,
    conv_transpose_output_size,
    dense_macs,
    dense_params,
    output_size,
    receptive_field,
    same_padding,
    total_padding,
)
from jaxcnn.layers.geometry import resolve_padding

small = st.integers(1, 4)


def lax_size(size, kernel, stride, padding, dilation):
    """The size that lax itself infers for a convolution."""
    shape = jax.eval_shape(
        lambda x, k: lax.conv_general_dilated(x, k, (stride,), padding, rhs_dilation=(dilation,)),
        jax.ShapeDtypeStruct((1, 1, size), jnp.float32),
        jax.ShapeDtypeStruct((1, 1, kernel), jnp.float32),
    )
    return shape.shape[2]


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), small, small, st.tuples(st.integers(0, 4), st.integers(0, 4)), small)
def test_output_size_is_what_lax_gives(size, kernel, stride, padding, dilation):
    if lax_size(size, kernel, stride, [padding], dilation) == 0:
        with pytest.raises(UsageError, match="smallest input"):
            output_size(size, kernel, stride, padding, dilation)
    else:
        assert output_size(size, kernel, stride, padding, dilation) == lax_size(
            size, kernel, stride, [padding], dilation
        )


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 30), small, small, small)
def test_same_padding_is_what_lax_gives(size, kernel, stride, dilation):
    extent = dilation * (kernel - 1) + 1
    lo, hi = same_padding(size, kernel, stride, dilation)
    assert [(lo, hi)] == lax.padtype_to_pads((size,), (extent,), (stride,), "SAME")
    assert total_padding(size, kernel, stride, dilation) == lo + hi
    assert output_size(size, kernel, stride, "SAME", dilation) == -(-size // stride)


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 20), small, small, st.integers(0, 3))
def test_ceil_mode_counts_the_windows_that_start_before_the_end(size, kernel, stride, padding):
    padding = min(padding, kernel - 1)
    if size + 2 * padding < kernel:
        return
    full = [i for i in range(0, 60, stride) if i + kernel <= size + 2 * padding]
    # One more window may hang over, if it adds a position and starts in the input or the padding before it.
    more = full[-1] + kernel < size + 2 * padding and full[-1] + stride < size + padding
    assert output_size(size, kernel, stride, padding, ceil_mode=True) == len(full) + more


def test_same_padding_of_the_papers():
    # ResNet's first layers at 224: TensorFlow's padding is not torch's 3 and 1 at both ends; the sizes are the same.
    assert same_padding(224, 7, 2) == (2, 3)
    assert same_padding(112, 3, 2) == (0, 1)
    assert output_size(224, 7, 2, "SAME") == output_size(224, 7, 2, 3) == 112
    assert output_size(112, 3, 2, "SAME") == output_size(112, 3, 2, 1) == 56
    assert same_padding(299, 3, 2) == (1, 1)
    assert same_padding(14, 3, 1) == (1, 1)


def test_ceil_mode_of_the_papers():
    # GoogLeNet, SqueezeNet: 3/2 pooling without padding goes 112 -> 56 rounding up, 55 rounding down.
    assert output_size(112, 3, 2, ceil_mode=True) == 56
    assert output_size(112, 3, 2) == 55
    # A window that would lie in the padding after the input is left out.
    assert output_size(4, 2, 3, 1, ceil_mode=True) == 2


@settings(deadline=None, max_examples=60)
@given(st.integers(1, 12), small, small, st.integers(0, 2), small, st.integers(0, 3))
def test_transposed_size_inverts_the_size(size, kernel, stride, padding, dilation, extra):
    extra = min(extra, stride - 1)
    if (size - 1) * stride + dilation * (kernel - 1) + 1 - 2 * padding + extra < 1:
        with pytest.raises(UsageError, match="leaves nothing"):
            conv_transpose_output_size(size, kernel, stride, padding, dilation, extra)
    else:
        large = conv_transpose_output_size(size, kernel, stride, padding, dilation, extra)
        assert output_size(large, kernel, stride, padding, dilation) == size


def test_transposed_size_of_fcn():
    assert conv_transpose_output_size(16, 64, 32) == 544


def test_three_3x3_see_as_far_as_one_7x7():
    assert receptive_field([(3, 1, 1)] * 3) == receptive_field([(7, 1, 1)]) == (7, 1)


def test_receptive_field_of_vgg16_pool5_and_resnet_stem():
    conv, pool = (3, 1, 1), (2, 2, 1)
    vgg = [conv] * 2 + [pool] + [conv] * 2 + [pool] + ([conv] * 3 + [pool]) * 3
    assert receptive_field(vgg) == (212, 32)
    assert receptive_field([(7, 2, 1), (3, 2, 1)]) == (11, 4)


@settings(deadline=None, max_examples=15)
@given(st.lists(st.tuples(st.integers(1, 3), st.integers(1, 2), st.integers(1, 2)), max_size=3))
def test_receptive_field_is_the_support_of_the_gradient(layers):
    # All-ones kernels without dilation or strides leave no holes; with them only the two ends count.
    size, jump = receptive_field(layers)

    def outputs(x):
        for kernel, stride, dilation in layers:
            x = lax.conv_general_dilated(x, jnp.ones((1, 1, kernel)), (stride,), "VALID", rhs_dilation=(dilation,))
        return x[0, 0]

    x = jnp.ones((1, 1, size + jump))
    seen = [np.flatnonzero(jax.grad(lambda x, i=i: outputs(x)[i])(x)[0, 0]) for i in (0, 1)]
    assert seen[0][-1] - seen[0][0] + 1 == size
    assert seen[1][0] - seen[0][0] == jump


def test_parameters_of_alexnets_first_layer_with_and_without_sharing():
    assert conv_params(3, 96, 11) == 34_944
    assert conv_params(3, 96, 11, shared=False, output_shape=(55, 55)) == 105_705_600
    with pytest.raises(UsageError, match="output_shape"):
        conv_params(3, 96, 11, shared=False)


def test_parameters_and_macs_of_known_layers():
    assert conv_params(96, 256, 5, groups=2) == 5 * 5 * 48 * 256 + 256  # AlexNet conv2
    assert conv_params(64, 64, (3,), use_bias=False) == 3 * 64 * 64
    assert conv_macs(3, 64, 7, (112, 112)) == 118_013_952  # ResNet conv1
    assert conv_macs(32, 32, 3, (112, 112), groups=32) == 3 * 3 * 32 * 112 * 112  # depthwise
    assert dense_params(4096, 1000) == 4_097_000
    assert dense_macs(4096, 1000) == 4_096_000


@pytest.mark.parametrize(
    ("padding", "expected"),
    [
        (1, ((1, 1), (1, 1))),
        ((1, 2), ((1, 1), (2, 2))),
        (((0, 1), (2, 3)), ((0, 1), (2, 3))),
        ("VALID", ((0, 0), (0, 0))),
        ("SAME", ((0, 1), (1, 1))),
    ],
)
def test_padding_forms(padding, expected):
    assert resolve_padding(padding, (8, 7), (3, 3), (2, 2), (1, 1)) == expected


@pytest.mark.parametrize(
    ("padding", "message"),
    [
        ("same", "did you mean 'SAME'"),
        ("CAUSAL", "1-D"),
        (-1, "padding=-1"),
        (1.5, "padding=1.5"),
        ((1, 2, 3), r"padding=\(1, 2, 3\).*2 ints"),
        (((1, 2, 3), 1), r"padding=\(1, 2, 3\).*pair"),
        (None, "padding=None"),
    ],
)
def test_bad_padding_is_named(padding, message):
    with pytest.raises(UsageError, match=message):
        resolve_padding(padding, (8, 8), (3, 3), (1, 1), (1, 1))
