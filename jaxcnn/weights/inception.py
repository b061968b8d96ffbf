"""Names of the tensors of GoogLeNet and the Inception networks in other libraries."""

import re
from collections.abc import Iterable, Iterator
from functools import partial

import numpy as np

from jaxcnn.layers import Row
from jaxcnn.layers.branches import Steps, branch_paths, conv_paths
from jaxcnn.models import inception_resnet, inception_v3, inception_v4
from jaxcnn.preprocessing import Preprocessing
from jaxcnn.weights.peer import KERAS_LEAVES, Names, Peer, Tensors, keras_kernel

Rule = tuple[str, str]
# What a convolution of a branch holds, one group; the torch libraries call the two alike.
_PAIR = "/(conv|bn)"

TORCHVISION_GOOGLENET = Names(
    (
        (rf"stem/(conv\d){_PAIR}", "{0}.{1}"),
        (rf"(inception\w+)/branch1/conv1{_PAIR}", "{0}.branch1.{1}"),
        (rf"(inception\w+)/branch([23])/conv(\d){_PAIR}", "{0}.branch{1}.{2:-1}.{3}"),
        (rf"(inception\w+)/branch4/conv1{_PAIR}", "{0}.branch4.1.{1}"),
        (rf"(aux\d)/conv{_PAIR}", "{0}.conv.{1}"),
        (r"(aux\d)/(fc\d)", "{0}.{1}"),
        (r"head", "fc"),
    ),
    flattened={"aux1/fc1": 128, "aux2/fc1": 128},
)

# Our block -> torchvision's, and its branches' names, to which a number is added where there are several convolutions.
_V3_BLOCKS = {
    **{f"inception_a/block{i}": f"Mixed_5{letter}" for i, letter in enumerate("bcd", 1)},
    "reduction_a/block1": "Mixed_6a",
    **{f"inception_b/block{i}": f"Mixed_6{letter}" for i, letter in enumerate("bcde", 1)},
    "reduction_b/block1": "Mixed_7a",
    **{f"inception_c/block{i}": f"Mixed_7{letter}" for i, letter in enumerate("bc", 1)},
}
_V3_BRANCHES = {
    "inception_a": ("branch1x1", "branch5x5_{0}", "branch3x3dbl_{0}", "branch_pool"),
    "reduction_a": ("branch3x3", "branch3x3dbl_{0}"),
    "inception_b": ("branch1x1", "branch7x7_{0}", "branch7x7dbl_{0}", "branch_pool"),
    "reduction_b": ("branch3x3_{0}", "branch7x7x3_{0}"),
    "inception_c": ("branch1x1", "branch3x3_{0}", "branch3x3dbl_{0}", "branch_pool"),
}


def _v3_blocks() -> Iterator[Rule]:
    """Yield the rules of all blocks."""
    for ours, theirs in _V3_BLOCKS.items():
        for i, branch in enumerate(_V3_BRANCHES[ours.partition("/")[0]], 1):
            yield rf"{ours}/branch{i}/conv(\d){_PAIR}", f"{theirs}.{branch}.{{1}}"
    for ours, theirs in list(_V3_BLOCKS.items())[-2:]:
        for i, branch in ((2, "branch3x3_2"), (3, "branch3x3dbl_3")):
            for fork, letter in ((1, "a"), (2, "b")):
                yield rf"{ours}/branch{i}/block1/branch{fork}/conv1{_PAIR}", f"{theirs}.{branch}{letter}.{{0}}"


# torchvision and timm.
TORCH_V3 = Names(
    (
        *(
            (rf"stem/conv{i}{_PAIR}", f"Conv2d_{name}.{{0}}")
            for i, name in enumerate(("1a_3x3", "2a_3x3", "2b_3x3", "3b_1x1", "4a_3x3"), 1)
        ),
        *_v3_blocks(),
        (rf"aux/conv(\d){_PAIR}", "AuxLogits.conv{0:-1}.{1}"),
        (r"aux/fc", "AuxLogits.fc"),
        (r"head", "fc"),
    )
)


def _timm_branches(ours: str, theirs: str, branches: tuple[Steps, ...]) -> Iterator[Rule]:
    """Yield the rules of branches whose steps timm numbers, poolings included, where there are several."""
    last_group = re.compile(ours).groups
    for i, steps in enumerate(branches):
        numbers = [f".{at}" for at, step in enumerate(steps) if isinstance(step, Row)] if len(steps) > 1 else [""]
        for conv, number in enumerate(numbers, 1):
            pattern = rf"{ours}/branch{i + 1}/conv{conv}{_PAIR}"
            yield pattern, f"{theirs}.branch{i}{number}.{{{last_group}}}"


def _timm_v4_forks() -> Iterator[Rule]:
    """Yield the rules of the last blocks' second and third branch."""
    for branch, convs in ((2, 1), (3, 3)):
        ours, theirs = rf"inception_c/block(\d)/branch{branch}", f"features.{{0:18}}.branch{branch - 1}"
        yield rf"{ours}/conv(\d){_PAIR}", f"{theirs}_{{1:-1}}.{{2}}"
        for fork, letter in ((1, "a"), (2, "b")):
            yield rf"{ours}/block1/branch{fork}/conv1{_PAIR}", f"{theirs}_{convs}{letter}.{{1}}"


TIMM_V4 = Names(
    (
        (rf"stem/conv(\d){_PAIR}", "features.{0:-1}.{1}"),
        (rf"stem/block1/branch2/conv1{_PAIR}", "features.3.conv.{0}"),
        *_timm_branches("stem/block2", "features.4", inception_v4.STEM[4]),
        (rf"stem/block3/branch1/conv1{_PAIR}", "features.5.conv.{0}"),
        *_timm_branches(r"inception_a/block(\d)", "features.{0:5}", inception_v4.BLOCK_A),
        *_timm_branches("reduction_a/block1", "features.10", inception_v4.REDUCTION_A),
        *_timm_branches(r"inception_b/block(\d)", "features.{0:10}", inception_v4.BLOCK_B),
        *_timm_branches("reduction_b/block1", "features.18", inception_v4.REDUCTION_B),
        *_timm_v4_forks(),
        *_timm_branches(r"inception_c/block(\d)", "features.{0:18}", inception_v4.BLOCK_C),
        (r"head", "last_linear"),
    )
)


def _timm_residual(ours: str, theirs: str, branches: tuple[Steps, ...]) -> Iterator[Rule]:
    """Yield the rules of residual blocks."""
    yield rf"{ours}/up", f"{theirs}.conv2d"
    yield from _timm_branches(f"{ours}/mixed", theirs, branches)


TIMM_RESNET = Names(
    (
        *(
            (rf"stem/conv{i}{_PAIR}", f"conv2d_{name}.{{0}}")
            for i, name in enumerate(("1a", "2a", "2b", "3b", "4a"), 1)
        ),
        *_timm_branches("mixed_5b/block1", "mixed_5b", inception_resnet.MIXED_5B),
        *_timm_residual(r"inception_a/block(\d+)", "repeat.{0:-1}", inception_resnet.BLOCK_A),
        *_timm_branches("reduction_a/block1", "mixed_6a", inception_resnet.REDUCTION_A),
        *_timm_residual(r"inception_b/block(\d+)", "repeat_1.{0:-1}", inception_resnet.BLOCK_B),
        *_timm_branches("reduction_b/block1", "mixed_7a", inception_resnet.REDUCTION_B),
        *_timm_residual(r"inception_c/block(\d)", "repeat_2.{0:-1}", inception_resnet.BLOCK_C),
        *_timm_residual("inception_c/block10", "block8", inception_resnet.BLOCK_C),
        (rf"last_conv{_PAIR}", "conv2d_7b.{0}"),
        (r"head", "classif"),
    )
)


def _keras_numbered(paths: Iterable[str]) -> Iterator[Rule]:
    """Yield the rules of layers that Keras numbers as it makes them, here from 1 (see `_renumbered`)."""
    for number, path in enumerate(paths, 1):
        yield f"{path}/conv", f"conv2d_{number}"
        yield f"{path}/bn", f"batch_normalization_{number}"


def _renumbered(tensors: Tensors) -> dict[str, np.ndarray]:
    """Return the tensors with Keras' numbers counted from 1, and the scales that its norms do without, all 1.

    The numbers go up in the order in which the layers were made, but start where the process happened to be:
    "conv2d", "conv2d_1", ... in a fresh one, "conv2d_94", ... where there was another network before.
    """
    numbered = re.compile(r"(conv2d|batch_normalization)(?:_(\d{1,9}))?")
    found = {layer: match for layer in _layers(tensors) if (match := numbered.fullmatch(layer))}
    renamed = {}
    for kind in ("conv2d", "batch_normalization"):
        layers = [layer for layer, match in found.items() if match[1] == kind]
        layers.sort(key=lambda layer: int(found[layer][2] or 0))
        renamed.update({layer: f"{kind}_{number}" for number, layer in enumerate(layers, 1)})
    result = {}
    for name, value in tensors.items():
        layer, _, leaf = name.rpartition("/")
        layer = renamed.get(layer, layer)
        result[f"{layer}/{leaf}"] = value
        if leaf == "moving_mean":
            result[f"{layer}/gamma"] = np.ones_like(value)
    return result


def _layers(tensors: Tensors) -> list[str]:
    return list(dict.fromkeys(name.rpartition("/")[0] for name in tensors))


def _resnet_paths() -> Iterator[str]:
    """Yield the paths of Inception-ResNet-v2's numbered convolutions in Keras' order."""
    yield from conv_paths(inception_v3.stem_v3(), "stem")
    yield from conv_paths((inception_resnet.MIXED_5B,), "mixed_5b")
    for i in range(1, 11):
        yield from branch_paths(inception_resnet.BLOCK_A, f"inception_a/block{i}/mixed")
    yield from conv_paths((inception_resnet.REDUCTION_A,), "reduction_a")
    for i in range(1, 21):
        yield from branch_paths(inception_resnet.BLOCK_B, f"inception_b/block{i}/mixed")
    yield from conv_paths((inception_resnet.REDUCTION_B,), "reduction_b")
    for i in range(1, 11):
        yield from branch_paths(inception_resnet.BLOCK_C, f"inception_c/block{i}/mixed")


def _keras(*rules: Rule) -> Names:
    return Names(
        (*rules, (r"head", "predictions")),
        leaves=KERAS_LEAVES,
        separator="/",
        kernel_layout=keras_kernel,
        prepare=_renumbered,
    )


KERAS_V3 = _keras(
    *_keras_numbered(
        path for name, steps in inception_v3.inception_v3().stage_steps().items() for path in conv_paths(steps, name)
    )
)
KERAS_RESNET = _keras(
    *_keras_numbered(_resnet_paths()),
    (r"inception_a/block(\d+)/up", "block35_{0}_conv"),
    (r"inception_b/block(\d+)/up", "block17_{0}_conv"),
    (r"inception_c/block(\d+)/up", "block8_{0}_conv"),
    (r"last_conv/conv", "conv_7b"),
    (r"last_conv/bn", "conv_7b_bn"),
)

# Pixels from -1 to 1. torchvision's `transform_input` makes them so within the model.
_symmetric = partial(Preprocessing, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
_TIMM_299 = _symmetric(size=(299, 299), resize=341, interpolation="bicubic")
_TIMM_333 = _symmetric(size=(299, 299), resize=333, interpolation="bicubic")
_GLUON = Preprocessing(size=(299, 299), resize=341, interpolation="bicubic")
# The same range, computed as Keras does.
_KERAS_299 = Preprocessing(size=(299, 299), resize=342, scale=1 / 127.5, mean=(1.0, 1.0, 1.0), std=(1.0, 1.0, 1.0))

PEERS = {
    "torchvision/googlenet": Peer(
        model="googlenet_bn",
        names=TORCHVISION_GOOGLENET,
        aux=("aux1.", "aux2."),
        preprocessing=_symmetric(),
    ),
    "torchvision/inception_v3": Peer(
        model="inception_v3",
        names=TORCH_V3,
        options={"count_include_pad": True},
        aux=("AuxLogits.",),
        preprocessing=_symmetric(size=(299, 299), resize=342),
    ),
    "timm/inception_v3": Peer(
        model="inception_v3",
        names=TORCH_V3,
        options={"count_include_pad": True},
        aux=("AuxLogits.",),
        preprocessing=_TIMM_299,
        tags={**dict.fromkeys(("tv_in1k", "tf_in1k", "tf_adv_in1k"), _TIMM_299), "gluon_in1k": _GLUON},
    ),
    "timm/inception_v4": Peer(
        model="inception_v4", names=TIMM_V4, preprocessing=_TIMM_299, tags={"tf_in1k": _TIMM_299}
    ),
    "timm/inception_resnet_v2": Peer(
        model="inception_resnet_v2",
        names=TIMM_RESNET,
        preprocessing=_TIMM_333,
        tags=dict.fromkeys(("tf_in1k", "tf_ens_adv_in1k"), _TIMM_333),
    ),
    "keras/InceptionV3": Peer(model="inception_v3", names=KERAS_V3, preprocessing=_KERAS_299),
    "keras/InceptionResNetV2": Peer(model="inception_resnet_v2", names=KERAS_RESNET, preprocessing=_KERAS_299),
}
