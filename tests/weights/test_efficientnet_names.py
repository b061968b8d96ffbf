"""What other libraries call EfficientNet's tensors, where their counting differs from stage to stage."""

import pytest

from jaxcnn.weights.efficientnet import KERAS, PEERS, TIMM, TORCHVISION


@pytest.mark.parametrize(
    ("names", "path", "expected"),
    [
        # Without an expansion, stage 1 counts its layers from the depthwise one.
        (TORCHVISION, "stage1/block2/depthwise/conv/kernel", "features.1.1.block.0.0.weight"),
        (TORCHVISION, "stage2/block1/depthwise/bn/mean", "features.2.0.block.1.1.running_mean"),
        (TORCHVISION, "stage2/block1/se/fc2/bias", "features.2.0.block.2.fc2.bias"),
        (TIMM, "stage1/block1/project/bn/scale", "blocks.0.0.bn2.weight"),
        (TIMM, "stage3/block1/project/bn/scale", "blocks.2.0.bn3.weight"),
        (KERAS, "stage6/block13/depthwise/conv/kernel", "block6m_dwconv/depthwise_kernel"),
        (KERAS, "stage6/block13/depthwise/bn/bias", "block6m_bn/beta"),
        (KERAS, "stage1/block1/project/bn/var", "block1a_project_bn/moving_variance"),
    ],
)
def test_names(names, path, expected):
    assert names.peer_name(path) == expected


def test_weights_of_tensorflow_are_padded_and_normalised_as_there():
    for name in ("timm/tf_efficientnet_b0", "keras/EfficientNetB0"):
        assert PEERS[name].options == {"padding": "same", "epsilon": 1e-3, "momentum": 0.99}
    assert PEERS["torchvision/efficientnet_b0"].options == {}
