"""Names of EfficientNet's tensors in other libraries."""

from collections.abc import Iterator

from jaxcnn.preprocessing import Preprocessing
from jaxcnn.weights.peer import KERAS_LEAVES, Names, Peer, keras_kernel


def _torchvision_blocks() -> Iterator[tuple[str, str]]:
    """Yield the rules of the blocks, whose layers are counted: those of stage 1 have no expansion."""
    for stage, units in (("(1)", ("depthwise", "se", "project")), (r"(\d)", ("expand", "depthwise", "se", "project"))):
        for at, unit in enumerate(units):
            block = rf"stage{stage}/block(\d+)/{unit}"
            yield rf"{block}/conv", f"features.{{0}}.{{1:-1}}.block.{at}.0"
            yield rf"{block}/bn", f"features.{{0}}.{{1:-1}}.block.{at}.1"
            yield rf"{block}/(fc\d)", f"features.{{0}}.{{1:-1}}.block.{at}.{{2}}"


TORCHVISION = Names(
    (
        (r"stem/conv", "features.0.0"),
        (r"stem/bn", "features.0.1"),
        *_torchvision_blocks(),
        (r"top/conv", "features.8.0"),
        (r"top/bn", "features.8.1"),
        (r"head", "classifier.1"),
    )
)


def _timm_blocks() -> Iterator[tuple[str, str]]:
    """Yield the rules of the blocks; stage 1 has timm's separable block, without an expansion."""
    separable = {"depthwise": ("conv_dw", "bn1"), "project": ("conv_pw", "bn2")}
    inverted = {"expand": ("conv_pw", "bn1"), "depthwise": ("conv_dw", "bn2"), "project": ("conv_pwl", "bn3")}
    for stage, units in (("(1)", separable), (r"(\d)", inverted)):
        for unit, (conv, norm) in units.items():
            yield rf"stage{stage}/block(\d+)/{unit}/conv", f"blocks.{{0:-1}}.{{1:-1}}.{conv}"
            yield rf"stage{stage}/block(\d+)/{unit}/bn", f"blocks.{{0:-1}}.{{1:-1}}.{norm}"


TIMM = Names(
    (
        (r"stem/conv", "conv_stem"),
        (r"stem/bn", "bn1"),
        *_timm_blocks(),
        (r"stage(\d)/block(\d+)/se/fc1", "blocks.{0:-1}.{1:-1}.se.conv_reduce"),
        (r"stage(\d)/block(\d+)/se/fc2", "blocks.{0:-1}.{1:-1}.se.conv_expand"),
        (r"top/conv", "conv_head"),
        (r"top/bn", "bn2"),
        (r"head", "classifier"),
    )
)


def _keras_blocks() -> Iterator[tuple[str, str]]:
    """Yield the rules of the blocks, which Keras letters from a to m (B7 has 13 in a stage)."""
    for number, letter in enumerate("abcdefghijklm", 1):
        ours, theirs = rf"stage(\d)/block{number}", f"block{{0}}{letter}"
        yield rf"{ours}/(expand|project)/(conv|bn)", f"{theirs}_{{1}}_{{2}}"
        yield rf"{ours}/depthwise/conv", f"{theirs}_dwconv"
        yield rf"{ours}/depthwise/bn", f"{theirs}_bn"
        yield rf"{ours}/se/fc1", f"{theirs}_se_reduce"
        yield rf"{ours}/se/fc2", f"{theirs}_se_expand"


KERAS = Names(
    (
        (r"(stem|top)/(conv|bn)", "{0}_{1}"),
        *_keras_blocks(),
        (r"head", "predictions"),
    ),
    leaves=KERAS_LEAVES,
    separator="/",
    kernel_layout=keras_kernel,
    # The preprocessing, which Keras builds into the model: it divides by 255, subtracts the mean, divides by the
    # root of a "variance" that is the standard deviation, and by that root once more.
    ignore=(r"normalization\w*/.*",),
)

# TensorFlow's network, as in the paper: see jaxcnn/models/efficientnet.py.
_TENSORFLOW = {"padding": "same", "epsilon": 1e-3, "momentum": 0.99}
_HALF = {"mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}


def _bicubic(size: int, resize: int | None, **rest) -> Preprocessing:
    return Preprocessing(size=(size, size), resize=resize, interpolation="bicubic", **rest)


def _timm_tensorflow(i: int, size: int, resize: int) -> Peer:
    """Return the row of timm/tf_efficientnet_b`i`."""
    others = ["aa_in1k", "ns_jft_in1k", *["in1k"] * (i <= 5), *["ra_in1k"] * (i in (5, 7))]
    tags = {**dict.fromkeys(others, _bicubic(size, resize)), "ap_in1k": _bicubic(size, resize, **_HALF)}
    return Peer(
        model=f"efficientnet_b{i}", names=TIMM, options=_TENSORFLOW, preprocessing=_bicubic(size, resize), tags=tags
    )


# Input size and resize per variant, from B0 on.
_TORCHVISION = ((224, 256), (240, 256), (288, 288), (300, 320), (380, 384), (456, 456), (528, 528), (600, 600))
_TIMM_TF = ((224, 256), (240, 272), (260, 292), (300, 331), (380, 412), (456, 488), (528, 560), (600, 632))
_PAPER_SIZES = (224, 240, 260, 300, 380, 456, 528, 600)

# What timm trained itself: the weights that its plain name stands for, and others by tag.
_TIMM: tuple[tuple[Preprocessing, dict[str, Preprocessing]], ...] = (
    (_bicubic(224, 256), {"ra_in1k": _bicubic(224, 256), "ra4_e3600_r224_in1k": _bicubic(224, 248, **_HALF)}),
    (
        _bicubic(240, 266, **_HALF),
        {"ft_in1k": _bicubic(224, 256), "ra4_e3600_r240_in1k": _bicubic(240, 266, **_HALF)},
    ),
    (_bicubic(256, 292), {"ra_in1k": _bicubic(256, 292)}),
    (_bicubic(288, 329), {"ra2_in1k": _bicubic(288, 329)}),
    (_bicubic(320, 365), {"ra2_in1k": _bicubic(320, 365)}),
    (_bicubic(448, None), {"sw_in12k": _bicubic(416, 437), "sw_in12k_ft_in1k": _bicubic(448, None)}),
)

PEERS = {
    **{
        f"torchvision/efficientnet_b{i}": Peer(
            model=f"efficientnet_b{i}",
            names=TORCHVISION,
            preprocessing=_bicubic(size, resize),
            tags={"IMAGENET1K_V2": Preprocessing(size=(240, 240), resize=255)} if i == 1 else {},
        )
        for i, (size, resize) in enumerate(_TORCHVISION)
    },
    **{
        f"timm/efficientnet_b{i}": Peer(
            model=f"efficientnet_b{i}",
            names=TIMM,
            # torch's defaults in B5, too.
            options={"epsilon": 1e-5, "momentum": 0.9},
            preprocessing=default,
            tags=tags,
        )
        for i, (default, tags) in enumerate(_TIMM)
    },
    **{f"timm/tf_efficientnet_b{i}": _timm_tensorflow(i, *sizes) for i, sizes in enumerate(_TIMM_TF)},
    **{
        f"keras/EfficientNetB{i}": Peer(
            model=f"efficientnet_b{i}",
            names=KERAS,
            options=_TENSORFLOW,
            # The authors crop all but 16 pixels on each side.
            preprocessing=_bicubic(size, size + 32),
        )
        for i, size in enumerate(_PAPER_SIZES)
    },
}
