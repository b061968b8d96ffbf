"""Names of ConvNeXt's tensors in other libraries."""

from collections.abc import Iterator

import numpy as np

from jaxcnn.preprocessing import Preprocessing
from jaxcnn.weights.peer import KERAS_LEAVES, Names, Peer, Tensors, keras_kernel


def _torchvision_stages() -> Iterator[tuple[str, str]]:
    """Yield the rules of the stages: `features` counts the stem, and each downsampling and stage in turn."""
    layers = {"depthwise": 0, "norm": 2, "fc1": 3, "fc2": 5}
    for i in (1, 2, 3, 4):
        down, stage = f"features.{2 * i - 2}", f"features.{2 * i - 1}.{{0:-1}}"
        yield rf"stage{i}/norm", f"{down}.0"
        yield rf"stage{i}/downsample", f"{down}.1"
        yield rf"stage{i}/block(\d+)/layer_scale", f"{stage}.layer_scale"
        yield from ((rf"stage{i}/block(\d+)/{layer}", f"{stage}.block.{at}") for layer, at in layers.items())


TORCHVISION = Names(
    (
        (r"stem/conv", "features.0.0"),
        (r"stem/norm", "features.0.1"),
        *_torchvision_stages(),
        (r"norm", "classifier.0"),
        (r"head", "classifier.2"),
    )
)

TIMM = Names(
    (
        (r"stem/conv", "stem.0"),
        (r"stem/norm", "stem.1"),
        (r"stage(\d)/norm", "stages.{0:-1}.downsample.0"),
        (r"stage(\d)/downsample", "stages.{0:-1}.downsample.1"),
        (r"stage(\d)/block(\d+)/layer_scale", "stages.{0:-1}.blocks.{1:-1}.gamma"),
        (r"stage(\d)/block(\d+)/depthwise", "stages.{0:-1}.blocks.{1:-1}.conv_dw"),
        (r"stage(\d)/block(\d+)/norm", "stages.{0:-1}.blocks.{1:-1}.norm"),
        (r"stage(\d)/block(\d+)/(fc\d)", "stages.{0:-1}.blocks.{1:-1}.mlp.{2}"),
        (r"norm", "head.norm"),
        (r"head", "head.fc"),
    )
)


def _keras_tensors(tensors: Tensors) -> dict[str, np.ndarray]:
    """Return the tensors by the name of the innermost layer; that of a layer scale, which has no name, as gamma."""
    renamed = {}
    for name, value in tensors.items():
        path, _, leaf = name.rpartition("/")
        layer = path.rpartition("/")[2]
        renamed[f"{layer}/gamma" if layer.endswith("_layer_scale") else f"{layer}/{leaf}"] = value
    return renamed


def _keras(model: str) -> Names:
    """Return the names in Keras, where each starts with the model's."""
    block = model + "_stage_{0:-1}_block_{1:-1}"
    return Names(
        (
            (r"stem/conv", f"{model}_stem_conv"),
            (r"stem/norm", f"{model}_stem_layernorm"),
            (r"stage(\d)/norm", f"{model}_downsampling_layernorm_{{0:-2}}"),
            (r"stage(\d)/downsample", f"{model}_downsampling_conv_{{0:-2}}"),
            (r"stage(\d)/block(\d+)/layer_scale", f"{block}_layer_scale/gamma"),
            # A grouped Conv2D, not a DepthwiseConv2D.
            (r"stage(\d)/block(\d+)/depthwise/kernel", f"{block}_depthwise_conv/kernel"),
            (r"stage(\d)/block(\d+)/depthwise", f"{block}_depthwise_conv"),
            (r"stage(\d)/block(\d+)/norm", f"{block}_layernorm"),
            (r"stage(\d)/block(\d+)/fc(\d)", f"{block}_pointwise_conv_{{2}}"),
            (r"norm", f"{model}_head_layernorm"),
            (r"head", f"{model}_head_dense"),
        ),
        leaves=KERAS_LEAVES,
        separator="/",
        kernel_layout=keras_kernel,
        prepare=_keras_tensors,
    )


# How the authors evaluate, and how timm evaluates weights of its own and those for 384x384.
_AUTHORS = Preprocessing(interpolation="bicubic")
_IN12K = Preprocessing(resize=235, interpolation="bicubic")
_384 = Preprocessing(size=(384, 384), resize=None, interpolation="bicubic")
_FB_TAGS = {
    "fb_in1k": _AUTHORS,
    "fb_in22k": _AUTHORS,
    "fb_in22k_ft_in1k": _AUTHORS,
    "fb_in22k_ft_in1k_384": _384,
}
_IN12K_TAGS = {"in12k": _IN12K, "in12k_ft_in1k": _IN12K, "in12k_ft_in1k_384": _384}

_TORCHVISION_RESIZE = {"tiny": 236, "small": 230, "base": 232, "large": 232}

PEERS = {
    **{
        f"torchvision/convnext_{size}": Peer(
            model=f"convnext_{size}", names=TORCHVISION, preprocessing=Preprocessing(resize=resize)
        )
        for size, resize in _TORCHVISION_RESIZE.items()
    },
    **{
        f"timm/convnext_{size}": Peer(
            model=f"convnext_{size}", names=TIMM, preprocessing=_IN12K, tags={**_FB_TAGS, **_IN12K_TAGS}
        )
        for size in ("tiny", "small")
    },
    **{
        f"timm/convnext_{size}": Peer(model=f"convnext_{size}", names=TIMM, preprocessing=_AUTHORS, tags=_FB_TAGS)
        for size in ("base", "large")
    },
    **{
        f"keras/ConvNeXt{size.title()}": Peer(
            model=f"convnext_{size}", names=_keras(f"convnext_{size}"), preprocessing=_AUTHORS
        )
        for size in _TORCHVISION_RESIZE
    },
}
