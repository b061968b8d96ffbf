"""Names of DenseNet's tensors in other libraries."""

import re

import numpy as np

from jaxcnn.preprocessing import Preprocessing
from jaxcnn.weights.peer import KERAS_LEAVES, Names, Peer, Tensors, keras_kernel


def _without_dots(tensors: Tensors) -> dict[str, np.ndarray]:
    """Return the tensors of torchvision's published files, which say norm.1 and conv.1 for norm1 and conv1."""
    return {
        re.sub(r"(\.denselayer\d+\.(?:norm|conv))\.(\d\.)", r"\1\2", name): value for name, value in tensors.items()
    }


# torchvision and timm.
TORCH = Names(
    (
        (r"stem/conv", "features.conv0"),
        (r"stem/bn", "features.norm0"),
        (r"stage(\d)/block(\d+)/((?:norm|conv)\d)", "features.denseblock{0}.denselayer{1}.{2}"),
        (r"transition(\d)/(norm|conv)", "features.transition{0}.{1}"),
        (r"norm/bn", "features.norm5"),
        (r"head", "classifier"),
    ),
    prepare=_without_dots,
)


def _with_our_epsilon(tensors: Tensors) -> dict[str, np.ndarray]:
    """Return the tensors with variances to which our epsilon, 1e-5, adds up as Keras' 1.001e-5 does to its own."""
    return {
        name: value + (1.001e-5 - 1e-5) if name.endswith("/moving_variance") else value
        for name, value in tensors.items()
    }


KERAS = Names(
    (
        (r"stem/(conv|bn)", "conv1_{0}"),
        (r"stage(\d)/block(\d+)/norm(\d)", "conv{0:1}_block{1}_{2:-1}_bn"),
        (r"stage(\d)/block(\d+)/conv(\d)", "conv{0:1}_block{1}_{2}_conv"),
        (r"transition(\d)/norm", "pool{0:1}_bn"),
        (r"transition(\d)/conv", "pool{0:1}_conv"),
        (r"norm/bn", "bn"),
        (r"head", "predictions"),
    ),
    leaves=KERAS_LEAVES,
    separator="/",
    kernel_layout=keras_kernel,
    prepare=_with_our_epsilon,
)

_BICUBIC = Preprocessing(interpolation="bicubic")
# By depth; in timm the default comes first.
_TIMM_TAGS = {121: ("ra_in1k", "tv_in1k"), 161: ("tv_in1k",), 169: ("tv_in1k",), 201: ("tv_in1k",)}

PEERS = {
    **{
        f"torchvision/densenet{depth}": Peer(model=f"densenet{depth}", names=TORCH, preprocessing=Preprocessing())
        for depth in _TIMM_TAGS
    },
    **{
        f"timm/densenet{depth}": Peer(
            model=f"densenet{depth}", names=TORCH, preprocessing=_BICUBIC, tags=dict.fromkeys(tags, _BICUBIC)
        )
        for depth, tags in _TIMM_TAGS.items()
    },
    **{
        f"keras/DenseNet{depth}": Peer(model=f"densenet{depth}", names=KERAS, preprocessing=Preprocessing())
        for depth in (121, 169, 201)
    },
}
