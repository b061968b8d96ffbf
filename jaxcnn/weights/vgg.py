"""Names of VGG's tensors in other libraries."""

from typing import Any

import numpy as np

from jaxcnn.models import create
from jaxcnn.preprocessing import Preprocessing
from jaxcnn.weights.peer import KERAS_LEAVES, Names, Peer, Rules, Tensors, keras_kernel

# What fc6 reads are maps of 512 channels.
_FLATTENED = {"fc6/dense": 512}


def _features(model: str) -> Rules:
    """Return rules for the convolutions in torch's `features`, a list that counts norms, ReLUs and poolings too."""
    vgg: Any = create(model)
    rules, place = [], 0
    for stage, depth in enumerate(vgg.depths, 1):
        for block in range(1, depth + 1):
            rules.append((f"stage{stage}/block{block}/conv", f"features.{place}"))
            if vgg.batch_norm:
                rules.append((f"stage{stage}/block{block}/bn", f"features.{place + 1}"))
            place += 3 if vgg.batch_norm else 2
        place += 1
    return tuple(rules)


def _torchvision(model: str) -> Names:
    classifier = (("fc6/dense", "classifier.0"), ("fc7/dense", "classifier.3"), ("head", "classifier.6"))
    return Names((*_features(model), *classifier), flattened=_FLATTENED)


def _timm(model: str) -> Names:
    classifier = ((r"fc([67])/dense", "pre_logits.fc{0:-5}"), ("head", "head.fc"))
    return Names((*_features(model), *classifier), flattened=_FLATTENED, prepare=_fc6_as_dense)


def _fc6_as_dense(tensors: Tensors) -> Tensors:
    """Return timm's tensors with the 7x7 convolution [4096, 512, 7, 7] as torchvision's fully connected layer."""
    name = "pre_logits.fc1.weight"
    if name not in tensors or np.ndim(tensors[name]) != 4:
        return tensors  # Left for the error that lists what does not fit.
    return {**tensors, name: np.asarray(tensors[name]).reshape(len(tensors[name]), -1)}


KERAS = Names(
    (
        (r"stage(\d)/block(\d)/conv", "block{0}_conv{1}"),
        (r"fc6/dense", "fc1"),
        (r"fc7/dense", "fc2"),
        (r"head", "predictions"),
    ),
    leaves=KERAS_LEAVES,
    separator="/",
    kernel_layout=keras_kernel,
)

# Pixels less their mean, as in the paper, in the order of its released Caffe weights, which these are; evaluated
# with images resized to 256.
_CAFFE = Preprocessing(channels="BGR", scale=1.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0))
# The paper's convolutions for torchvision; the fully connected layers of this file are NaN.
_FEATURES = Preprocessing(mean=(0.48235, 0.45882, 0.40784), std=(1 / 255, 1 / 255, 1 / 255))

_MODELS = [f"vgg{depth}{norm}" for depth in (11, 13, 16, 19) for norm in ("", "_bn")]

PEERS = {
    **{
        f"torchvision/{model}": Peer(
            model=model,
            names=_torchvision(model),
            preprocessing=Preprocessing(),
            tags={"IMAGENET1K_FEATURES": _FEATURES} if model == "vgg16" else {},
        )
        for model in _MODELS
    },
    **{
        f"timm/{model}": Peer(
            model=model, names=_timm(model), preprocessing=Preprocessing(), tags={"tv_in1k": Preprocessing()}
        )
        for model in _MODELS
    },
    "keras/VGG16": Peer(model="vgg16", names=KERAS, preprocessing=_CAFFE),
    "keras/VGG19": Peer(model="vgg19", names=KERAS, preprocessing=_CAFFE),
}
