"""Names of residual networks' tensors in other libraries: ResNet, Wide ResNet, ResNeXt."""

import re

import numpy as np

from jaxcnn.preprocessing import Preprocessing
from jaxcnn.weights.peer import KERAS_LEAVES, Names, Peer, Tensors, keras_kernel

_RULES = (
    (r"stem/(conv|bn)", "{0}1"),
    (r"stage(\d+)/block(\d+)/shortcut/conv", "layer{0}.{1:-1}.downsample.0"),
    (r"stage(\d+)/block(\d+)/shortcut/norm", "layer{0}.{1:-1}.downsample.1"),
    (r"stage(\d+)/block(\d+)/((?:conv|bn)\d)", "layer{0}.{1:-1}.{2}"),
    (r"stage(\d+)/block(\d+)/se/(fc\d)", "layer{0}.{1:-1}.se.{2}"),
)
# And timm.
TORCHVISION = Names((*_RULES, (r"head", "fc")))
# github.com/akamaster/pytorch_resnet_cifar10.
_AKAMASTER = Names((*_RULES, (r"head", "linear")))


def keras_variances(tensors: Tensors) -> dict[str, np.ndarray]:
    """Return the tensors with variances to which our epsilon, 1e-5, adds up as Keras' 1.001e-5 does to its own."""
    return {
        name: value + (1.001e-5 - 1e-5) if name.endswith("_bn/moving_variance") else value
        for name, value in tensors.items()
    }


def _without_biases(tensors: Tensors) -> dict[str, np.ndarray]:
    """Return the tensors with each convolution's bias subtracted from the mean of the norm that follows it."""
    folded = keras_variances(tensors)
    for name in tensors:
        mean = re.sub(r"_conv/bias$", "_bn/moving_mean", name)
        if mean != name and mean in tensors and np.shape(tensors[mean]) == np.shape(tensors[name]):
            folded[mean] = tensors[mean] - folded.pop(name)
    return folded


_KERAS = Names(
    (
        (r"stem/(conv|bn)", "conv1_{0}"),
        (r"stage(\d)/block(\d+)/shortcut/conv", "conv{0:1}_block{1}_0_conv"),
        (r"stage(\d)/block(\d+)/shortcut/norm", "conv{0:1}_block{1}_0_bn"),
        (r"stage(\d)/block(\d+)/(conv|bn)(\d)", "conv{0:1}_block{1}_{3}_{2}"),
        (r"head", "predictions"),
    ),
    leaves=KERAS_LEAVES,
    separator="/",
    kernel_layout=keras_kernel,
    prepare=_without_biases,
)

V1, V2 = Preprocessing(), Preprocessing(resize=232)
_BICUBIC = Preprocessing(interpolation="bicubic")
_BICUBIC_95 = Preprocessing(resize=235, interpolation="bicubic")
# timm's weights by the tag of their recipe, which evaluates alike in all of these models; the exceptions are below.
_TIMM_TAGS = {
    "a1_in1k": _BICUBIC_95,
    "a1h_in1k": _BICUBIC_95,
    "a2_in1k": _BICUBIC_95,
    "a3_in1k": Preprocessing(size=(160, 160), resize=168, interpolation="bicubic"),
    "am_in1k": _BICUBIC,
    "b1k_in1k": _BICUBIC_95,
    "b2k_in1k": _BICUBIC_95,
    "bt_in1k": _BICUBIC,
    "c1_in1k": _BICUBIC_95,
    "c2_in1k": _BICUBIC_95,
    "d_in1k": _BICUBIC_95,
    "fb_ssl_yfcc100m_ft_in1k": V1,
    "fb_swsl_ig1b_ft_in1k": V1,
    "fb_wsl_ig1b_ft_in1k": V1,
    "gluon_in1k": _BICUBIC,
    "ra_in1k": _BICUBIC,
    "ra2_in1k": _BICUBIC,
    "ra4_e3600_r224_in1k": Preprocessing(
        resize=248, interpolation="bicubic", mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
    ),
    "racm_in1k": _BICUBIC,
    "ram_in1k": _BICUBIC,
    "tv_in1k": V1,
    "tv2_in1k": Preprocessing(size=(176, 176), resize=201),
    "untrained": _BICUBIC,
}


def timm_peer(model: str, *tags: str, **options) -> Peer:
    """Return the row of a model of timm whose weights have these tags, the default first."""
    known = {tag: _TIMM_TAGS[tag] for tag in tags}
    return Peer(model=model, names=TORCHVISION, options=options, preprocessing=known[tags[0]], tags=known)


_FB = ("fb_ssl_yfcc100m_ft_in1k", "fb_swsl_ig1b_ft_in1k")
_A = ("a1_in1k", "a2_in1k", "a3_in1k")
_RESNET50 = ("am_in1k", "b1k_in1k", "b2k_in1k", "bt_in1k", "c1_in1k", "c2_in1k", "d_in1k", "ra_in1k", "ram_in1k")

PEERS = {
    **{
        f"torchvision/{model}": Peer(model=model, names=TORCHVISION, preprocessing=V1)
        for model in ("resnet18", "resnet34")
    },
    "torchvision/resnext101_64x4d": Peer(model="resnext101_64x4d", names=TORCHVISION, preprocessing=V2),
    **{
        f"torchvision/{model}": Peer(model=model, names=TORCHVISION, preprocessing=V1, tags={"IMAGENET1K_V2": V2})
        for model in (
            *("resnet50", "resnet101", "resnet152", "wide_resnet50_2", "wide_resnet101_2"),
            *("resnext50_32x4d", "resnext101_32x8d"),
        )
    },
    "timm/resnet18": timm_peer("resnet18", *_A, "tv_in1k", "gluon_in1k", *_FB),
    "timm/resnet34": timm_peer("resnet34", *_A, "bt_in1k", "ra4_e3600_r224_in1k", "tv_in1k", "gluon_in1k"),
    "timm/resnet50": Peer(
        model="resnet50",
        names=TORCHVISION,
        preprocessing=_TIMM_TAGS["a1_in1k"],
        tags={
            **{tag: _TIMM_TAGS[tag] for tag in (*_A, *_RESNET50, "tv_in1k", "tv2_in1k", "gluon_in1k", *_FB)},
            "a1h_in1k": Preprocessing(size=(176, 176), resize=195, interpolation="bicubic"),
        },
    ),
    "timm/resnet101": timm_peer("resnet101", "a1h_in1k", *_A, "tv_in1k", "tv2_in1k", "gluon_in1k"),
    "timm/resnet152": timm_peer("resnet152", "a1h_in1k", *_A, "tv_in1k", "tv2_in1k", "gluon_in1k"),
    "timm/wide_resnet50_2": timm_peer("wide_resnet50_2", "racm_in1k", "tv_in1k", "tv2_in1k"),
    "timm/wide_resnet101_2": timm_peer("wide_resnet101_2", "tv_in1k", "tv2_in1k"),
    "timm/resnext50_32x4d": timm_peer(
        "resnext50_32x4d", "a1h_in1k", *_A, "ra_in1k", "tv_in1k", "tv2_in1k", "gluon_in1k", *_FB
    ),
    "timm/resnext101_32x4d": timm_peer("resnext101_32x4d", *_FB, "gluon_in1k"),
    "timm/resnext101_32x8d": timm_peer("resnext101_32x8d", "tv_in1k", "tv2_in1k", "fb_wsl_ig1b_ft_in1k", *_FB),
    "timm/resnext101_64x4d": timm_peer("resnext101_64x4d", "c1_in1k", "tv_in1k", "gluon_in1k"),
    **{
        f"keras/ResNet{depth}": Peer(
            model=f"resnet{depth}",
            names=_KERAS,
            options={"variant": "v1"},
            preprocessing=Preprocessing(
                channels="BGR", scale=1.0, mean=(103.939, 116.779, 123.68), std=(1.0, 1.0, 1.0)
            ),
        )
        for depth in (50, 101, 152)
    },
    **{
        f"akamaster/resnet{depth}": Peer(
            model=f"resnet{depth}",
            names=_AKAMASTER,
            options={"shortcut": "A_centred"},
            # ImageNet's mean and deviation, though these are CIFAR-10's images.
            preprocessing=Preprocessing(size=(32, 32), resize=None),
        )
        for depth in (20, 32, 44, 56, 110, 1202)
    },
}
