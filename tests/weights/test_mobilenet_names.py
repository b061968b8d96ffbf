"""Names of the mobile families' tensors in other libraries, some by hand and all for being distinct."""

import jax
import jax.numpy as jnp
import pytest
from flax import traverse_util

from jaxcnn.models import create
from jaxcnn.weights import PEERS, mnasnet, mobilenet, shufflenet


@pytest.mark.parametrize(
    ("peer", "path", "name"),
    [
        ("torchvision/mobilenet_v2", "stage1/block1/depthwise/conv/kernel", "features.1.conv.0.0.weight"),
        ("torchvision/mobilenet_v2", "stage4/block2/project/bn/mean", "features.8.conv.3.running_mean"),
        ("torchvision/mobilenet_v3_small", "stage1/block1/se/fc2/bias", "features.1.block.1.fc2.bias"),
        ("torchvision/mobilenet_v3_large", "stage4/block2/project/conv/kernel", "features.8.block.2.0.weight"),
        ("timm/mobilenetv3_large_100", "top/conv/kernel", "blocks.6.0.conv.weight"),
        ("torchvision/mnasnet1_0", "stage3/block2/depthwise/bn/scale", "layers.9.1.layers.4.weight"),
        ("torchvision/shufflenet_v2_x1_0", "stage2/block1/left_conv/conv/kernel", "stage2.0.branch1.2.weight"),
        ("keras/MobileNet", "stage4/block1/depthwise/conv/kernel", "conv_dw_6/depthwise_kernel"),
        ("keras/MobileNet", "stage4/block1/pointwise/bn/var", "conv_pw_6_bn/moving_variance"),
        ("keras/MobileNetV2", "stage1/block1/project/bn/bias", "expanded_conv_project_BN/beta"),
        ("keras/MobileNetV2", "stage4/block2/expand/conv/kernel", "block_7_expand/kernel"),
        ("keras/MobileNetV3Large", "stage3/block1/se/fc1/bias", "expanded_conv_3_squeeze_excite_conv/bias"),
        ("keras/MobileNetV3Small", "stage1/block1/se/fc2/kernel", "expanded_conv_squeeze_excite_conv_1/kernel"),
    ],
)
def test_names_by_hand(peer, path, name):
    assert PEERS[peer].names.peer_name(path) == name


@pytest.mark.parametrize("name", [*mobilenet.PEERS, *mnasnet.PEERS, *shufflenet.PEERS])
def test_every_tensor_has_a_name_of_its_own(name):
    peer = PEERS[name]
    model = create(peer.model, **peer.options)
    variables = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, 224, 224, 3), jnp.float32))
    flat = traverse_util.flatten_dict(variables, sep="/")
    assert len({peer.names.peer_name(path.partition("/")[2]) for path in flat}) == len(flat)
