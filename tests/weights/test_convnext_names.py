"""What other libraries call ConvNeXt's tensors."""

import numpy as np
import pytest

from jaxcnn.weights.convnext import PEERS


@pytest.mark.parametrize(
    ("peer", "path", "expected"),
    [
        ("torchvision/convnext_tiny", "stage1/block3/layer_scale", "features.1.2.layer_scale"),
        ("torchvision/convnext_tiny", "stage4/block1/fc2/kernel", "features.7.0.block.5.weight"),
        ("torchvision/convnext_tiny", "stage4/downsample/kernel", "features.6.1.weight"),
        ("timm/convnext_tiny", "stage2/norm/scale", "stages.1.downsample.0.weight"),
        ("keras/ConvNeXtTiny", "stage2/norm/scale", "convnext_tiny_downsampling_layernorm_0/gamma"),
        ("keras/ConvNeXtBase", "stage3/block27/norm/bias", "convnext_base_stage_2_block_26_layernorm/beta"),
        ("keras/ConvNeXtBase", "stage1/block1/depthwise/kernel", "convnext_base_stage_0_block_0_depthwise_conv/kernel"),
    ],
)
def test_names(peer, path, expected):
    assert PEERS[peer].names.peer_name(path) == expected


def test_a_layer_scale_of_keras_goes_by_its_layer():
    # Keras numbers variables without a name through, and files have names of their own for them.
    layer = "convnext_tiny_stage_0_block_1_layer_scale"
    prepare = PEERS["keras/ConvNeXtTiny"].names.prepare
    for leaf in ("variable_1", "Variable", "0"):
        assert list(prepare({f"{layer}/{leaf}": np.ones(96)})) == [f"{layer}/gamma"]
    nested = "convnext_tiny_stem/convnext_tiny_stem_conv/kernel"
    assert list(prepare({nested: np.ones((4, 4, 3, 96))})) == ["convnext_tiny_stem_conv/kernel"]
