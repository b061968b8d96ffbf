"""Names of the MobileNets' tensors in other libraries, which count the blocks through all stages."""

import dataclasses
from collections.abc import Iterator, Sequence

from jaxcnn.models import mobilenet_v1, mobilenet_v2, mobilenet_v3
from jaxcnn.preprocessing import Preprocessing
from jaxcnn.weights import efficientnet
from jaxcnn.weights.peer import KERAS_LEAVES, Names, Peer, keras_kernel

_V1_DEPTHS = mobilenet_v1.MobileNetV1.depths
_V2_DEPTHS = tuple(n for _, _, n, _ in mobilenet_v2.TABLE_2)
_V3_TABLES = {"large": mobilenet_v3.TABLE_1, "small": mobilenet_v3.TABLE_2}


def _counted(depths: Sequence[int]) -> Iterator[tuple[str, int]]:
    """Yield our path of each block and its number through all stages, from 1."""
    paths = (f"stage{i}/block{j}" for i, depth in enumerate(depths, 1) for j in range(1, depth + 1))
    return ((path, number) for number, path in enumerate(paths, 1))


def _torchvision_v2() -> Iterator[tuple[str, str]]:
    for block, k in _counted(_V2_DEPTHS):
        first = 0 if k == 1 else 1  # The first block has no expansion.
        yield rf"{block}/expand/conv", f"features.{k}.conv.0.0"
        yield rf"{block}/expand/bn", f"features.{k}.conv.0.1"
        yield rf"{block}/depthwise/conv", f"features.{k}.conv.{first}.0"
        yield rf"{block}/depthwise/bn", f"features.{k}.conv.{first}.1"
        yield rf"{block}/project/conv", f"features.{k}.conv.{first + 1}"
        yield rf"{block}/project/bn", f"features.{k}.conv.{first + 2}"


def _torchvision_v3(table: Sequence[mobilenet_v3.Row]) -> Iterator[tuple[str, str]]:
    rows = [row for row in table for _ in row.expanded]
    for (block, k), row in zip(_counted([len(row.expanded) for row in table]), rows, strict=True):
        units = ("expand",) * (k > 1) + ("depthwise",) + ("se",) * row.se + ("project",)
        for at, unit in enumerate(units):
            yield rf"{block}/{unit}/conv", f"features.{k}.block.{at}.0"
            yield rf"{block}/{unit}/bn", f"features.{k}.block.{at}.1"
            yield rf"{block}/{unit}/(fc\d)", f"features.{k}.block.{at}.{{0}}"


def _torchvision(blocks: Iterator[tuple[str, str]], top: int, *head: tuple[str, str]) -> Names:
    return Names(
        (
            (r"stem/conv", "features.0.0"),
            (r"stem/bn", "features.0.1"),
            *blocks,
            (r"top/conv", f"features.{top}.0"),
            (r"top/bn", f"features.{top}.1"),
            *head,
        )
    )


TORCHVISION_V2 = _torchvision(_torchvision_v2(), sum(_V2_DEPTHS) + 1, (r"head", "classifier.1"))
TORCHVISION_V3 = {
    variant: _torchvision(
        _torchvision_v3(table),
        sum(len(row.expanded) for row in table) + 1,
        (r"fc/dense", "classifier.0"),
        (r"head", "classifier.3"),
    )
    for variant, table in _V3_TABLES.items()
}

TIMM_V1 = Names(
    (
        (r"stage(\d)/block(\d)/depthwise/conv", "blocks.{0:-1}.{1:-1}.conv_dw"),
        (r"stage(\d)/block(\d)/depthwise/bn", "blocks.{0:-1}.{1:-1}.bn1"),
        (r"stage(\d)/block(\d)/pointwise/conv", "blocks.{0:-1}.{1:-1}.conv_pw"),
        (r"stage(\d)/block(\d)/pointwise/bn", "blocks.{0:-1}.{1:-1}.bn2"),
        *efficientnet.TIMM.rules,
    )
)
TIMM_V3 = {
    variant: Names(
        (
            (r"top/conv", f"blocks.{len(table)}.0.conv"),
            (r"top/bn", f"blocks.{len(table)}.0.bn1"),
            (r"fc/dense", "conv_head"),
            *efficientnet.TIMM.rules,
        )
    )
    for variant, table in _V3_TABLES.items()
}


def _keras(*rules: tuple[str, str]) -> Names:
    return Names(rules, leaves=KERAS_LEAVES, separator="/", kernel_layout=keras_kernel)


def _keras_v1() -> Iterator[tuple[str, str]]:
    for block, k in _counted(_V1_DEPTHS):
        for ours, theirs in (("depthwise", f"conv_dw_{k}"), ("pointwise", f"conv_pw_{k}")):
            yield rf"{block}/{ours}/conv", theirs
            yield rf"{block}/{ours}/bn", f"{theirs}_bn"


def _keras_inverted(depths: Sequence[int], prefix: str, norm: str) -> Iterator[tuple[str, str]]:
    """Yield the rules of inverted residuals; `prefix` is that of all but the first, which has no number."""
    for block, k in _counted(depths):
        start = "expanded_conv_" if k == 1 else f"{prefix}_{k - 1}_"
        yield rf"{block}/(expand|depthwise|project)/conv", f"{start}{{0}}"
        yield rf"{block}/(expand|depthwise|project)/bn", f"{start}{{0}}_{norm}"
        yield rf"{block}/se/fc1", f"{start}squeeze_excite_conv"
        yield rf"{block}/se/fc2", f"{start}squeeze_excite_conv_1"


KERAS_V1 = _keras((r"stem/conv", "conv1"), (r"stem/bn", "conv1_bn"), *_keras_v1(), (r"head", "conv_preds"))
KERAS_V2 = _keras(
    (r"stem/conv", "Conv1"),
    (r"stem/bn", "bn_Conv1"),
    *_keras_inverted(_V2_DEPTHS, "block", "BN"),
    (r"top/conv", "Conv_1"),
    (r"top/bn", "Conv_1_bn"),
    (r"head", "predictions"),
)
KERAS_V3 = {
    variant: _keras(
        (r"stem/conv", "conv"),
        (r"stem/bn", "conv_bn"),
        *_keras_inverted([len(row.expanded) for row in table], "expanded_conv", "bn"),
        (r"top/conv", "conv_1"),
        (r"top/bn", "conv_1_bn"),
        (r"fc/dense", "conv_2"),
        (r"head", "logits"),
    )
    for variant, table in _V3_TABLES.items()
}

# TensorFlow's networks; MobileNetV3's epsilon is ours already.
_TENSORFLOW = {"padding": "same", "epsilon": 1e-3}
_HALF = (0.5, 0.5, 0.5)
_V1, _V2 = Preprocessing(), Preprocessing(resize=232)
# The authors evaluate on the central 87.5 %, with pixels from -1 to 1.
_AUTHORS = Preprocessing(resize=256, mean=_HALF, std=_HALF)
_BICUBIC = Preprocessing(interpolation="bicubic")
_MIIL = Preprocessing(mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))


def _bicubic(resize: int) -> Preprocessing:
    return Preprocessing(resize=resize, interpolation="bicubic", mean=_HALF, std=_HALF)


def _timm(model: str, names: Names, preprocessing: Preprocessing, *tags: str, **options) -> Peer:
    """Return a row of timm; `tags` are those of weights with this preprocessing."""
    tagged = dict.fromkeys(tags, preprocessing)
    return Peer(model=model, names=names, options=options, preprocessing=preprocessing, tags=tagged)


def _timm_v3(variant: str, width: float, *tags: str) -> Peer:
    return _timm(f"mobilenet_v3_{variant}", TIMM_V3[variant], _BICUBIC, *tags, width=width, epsilon=1e-5)


# Where there is no tag, timm has the network but no weights of its own.
PEERS = {
    "torchvision/mobilenet_v2": Peer(
        model="mobilenet_v2", names=TORCHVISION_V2, preprocessing=_V1, tags={"IMAGENET1K_V2": _V2}
    ),
    "torchvision/mobilenet_v3_large": Peer(
        model="mobilenet_v3_large", names=TORCHVISION_V3["large"], preprocessing=_V1, tags={"IMAGENET1K_V2": _V2}
    ),
    "torchvision/mobilenet_v3_small": Peer(
        model="mobilenet_v3_small", names=TORCHVISION_V3["small"], preprocessing=_V1
    ),
    "timm/mobilenetv1_100": _timm("mobilenet_v1", TIMM_V1, _bicubic(256), "ra4_e3600_r224_in1k"),
    "timm/mobilenetv1_125": _timm("mobilenet_v1", TIMM_V1, _bicubic(248), "ra4_e3600_r224_in1k", width=1.25),
    **{
        f"timm/mobilenetv2_{round(100 * width):03}": _timm(
            "mobilenet_v2", efficientnet.TIMM, _BICUBIC, *tags, width=width
        )
        for width, *tags in ((0.35,), (0.5, "lamb_in1k"), (0.75,), (1.0, "ra_in1k"), (1.4, "ra_in1k"))
    },
    "timm/mobilenetv3_large_075": _timm_v3("large", 0.75),
    "timm/mobilenetv3_large_100": dataclasses.replace(
        _timm_v3("large", 1.0),
        tags={
            "ra_in1k": _BICUBIC,
            "ra4_e3600_r224_in1k": _bicubic(235),
            "miil_in21k": _MIIL,
            "miil_in21k_ft_in1k": _MIIL,
        },
    ),
    "timm/mobilenetv3_small_050": _timm_v3("small", 0.5, "lamb_in1k"),
    "timm/mobilenetv3_small_075": _timm_v3("small", 0.75, "lamb_in1k"),
    "timm/mobilenetv3_small_100": _timm_v3("small", 1.0, "lamb_in1k"),
    **{
        f"timm/tf_mobilenetv3_{variant}_{name}": _timm(
            f"mobilenet_v3_{variant}", TIMM_V3[variant], _AUTHORS, "in1k", width=width, padding="same"
        )
        for variant in ("large", "small")
        for name, width in (("075", 0.75), ("100", 1.0))
    },
    # Other widths: load(..., width=0.5).
    "keras/MobileNet": Peer(model="mobilenet_v1", names=KERAS_V1, options=_TENSORFLOW, preprocessing=_AUTHORS),
    "keras/MobileNetV2": Peer(model="mobilenet_v2", names=KERAS_V2, options=_TENSORFLOW, preprocessing=_AUTHORS),
    "keras/MobileNetV3Large": Peer(
        model="mobilenet_v3_large", names=KERAS_V3["large"], options={"padding": "same"}, preprocessing=_AUTHORS
    ),
    "keras/MobileNetV3Small": Peer(
        model="mobilenet_v3_small", names=KERAS_V3["small"], options={"padding": "same"}, preprocessing=_AUTHORS
    ),
}
