"""Weights files of Keras: .h5 of Keras 2 (Keras 3 writes it, too) and .weights.h5 of Keras 3."""

import importlib.util
import itertools
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.errors import UsageError
from jaxcnn.weights.hdf5_index import Index, read_index

# In .weights.h5 the variables of a layer have numbers for names; their order, by the layer's class.
_KERNEL_BIAS = ("kernel", "bias")
_VARIABLES = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "conv2d_transpose", "dense"), _KERNEL_BIAS),
    "depthwise_conv2d": ("depthwise_kernel", "bias"),
    "separable_conv2d": ("depthwise_kernel", "pointwise_kernel", "bias"),
    "layer_normalization": ("gamma", "beta"),
    "normalization": ("mean", "variance", "count"),
    "layer_scale": ("gamma",),
}
# Three variables: without gamma (scale=False), as in Inception; the file is the same without beta (center=False),
# which no network of Keras' applications has.
_BATCH_NORMALIZATION = ("gamma", "beta", "moving_mean", "moving_variance")

# Names that Keras gives count all layers made in a process; ours count those of the file.
_UNNAMED = re.compile(rf"({'|'.join([*_VARIABLES, 'batch_normalization'])})(?:_(\d{{1,9}}))?")

# Of Keras 1; files of VGG-16 and VGG-19 still have them: block1_conv1_W_1.
_OLD_LEAF = re.compile(r"(?:.*_)?(W|b|gamma|beta|running_mean|running_std)(?:_\d+)?")
_OLD = {"W": "kernel", "b": "bias", "running_mean": "moving_mean", "running_std": "moving_variance"}
_LEAVES = {name for names in _VARIABLES.values() for name in names} | set(_BATCH_NORMALIZATION)


def read_hdf5(content: bytes, path: Path) -> dict[str, np.ndarray]:
    """Return the weights by "<layer>/<weight>" as in Keras, such as "conv1_bn/moving_mean".

    The weights are named as in Keras 2: a depthwise kernel is a `depthwise_kernel`. Layers without a name of their own
    are numbered from the file's first: conv2d, conv2d_1, ... A slash in a layer's name becomes an underscore, as
    Keras 3 has it. Layers of a model within the model have their own names.

    Args:
        content: of the file.
        path: of the file, for the process that finds out what lies where in it.

    Raises:
        UsageError: h5py is missing, or the file has no such weights.
        Exception: of several types; the file is damaged.
    """
    if importlib.util.find_spec("h5py") is None:
        raise UsageError("a file of Keras needs h5py: pip install 'jaxcnn[keras]'")
    index = read_index(path)
    root = "model_weights/" if "model_weights" in index["groups"] else ""
    named = _legacy(index, root) if _texts(index["groups"][root[:-1]], "layer_names") else _numbered(index)
    tensors: dict[str, np.ndarray] = {}
    left = len(content)  # Several weights might be the same bytes.
    for (layer, weight), place in named:
        key = f"{layer.replace('/', '_')}/{weight}"
        if key in tensors:
            raise UsageError(f"two layers are called {layer:.120}")
        tensors[key] = _values(content, place, f"{key:.120}", left)
        left -= tensors[key].nbytes
    if not tensors:
        raise UsageError("it is an HDF5 file, but has no weights of Keras")
    return _renumbered({_depthwise(key, tensors): value for key, value in tensors.items()})


Named = list[tuple[tuple[str, str], Any]]


def _legacy(index: Index, root: str) -> Named:
    """Return (layer, weight) and place of each weight: a group per layer lists the names of its weights."""
    found: Named = []
    for layer in _texts(index["groups"][root[:-1]], "layer_names"):
        paths = _texts(index["groups"][root + layer], "weight_names")
        modules = {path.rpartition("/")[0] for path in paths}
        for path in paths:
            module, _, leaf = path.rpartition("/")
            # Several modules: the layer is a model.
            inner = module.rpartition("/")[2] if len(modules) > 1 else layer
            found.append(((inner, _weight_name(leaf)), index["datasets"][f"{root}{layer}/{path}"]))
    return found


def _texts(attributes: Mapping[str, str | list[str]], name: str) -> list[str]:
    """Return an attribute that lists texts; a long one is cut into name0, name1, ..."""
    parts: Iterable[str] = (f"{name}{number}" for number in itertools.count())
    parts = [name] if name in attributes else itertools.takewhile(attributes.__contains__, parts)
    return [text for part in parts for text in attributes[part]]


def _weight_name(leaf: str) -> str:
    leaf = leaf.removesuffix(":0")
    if re.fullmatch(r"[vV]ariable(_\d+)?", leaf):  # LayerScale of ConvNeXt gives its gamma no name
        return "gamma"
    match = _OLD_LEAF.fullmatch(leaf)
    return leaf if leaf in _LEAVES or match is None else _OLD.get(match[1], match[1])


def _numbered(index: Index) -> Named:
    """Return (layer, weight) and place of each weight: layers/<class>_<number>/vars/<number>."""
    layers: dict[str, dict[str, Any]] = {}
    for path, place in index["datasets"].items():
        group, _, number = path.rpartition("/")
        if group.rpartition("/")[2] == "vars" and not group.startswith("optimizer/"):
            layers.setdefault(group, {})[number] = place
    found: Named = []
    for group, places in layers.items():
        kind = re.sub(r"_\d+$", "", group.rpartition("/")[0].rpartition("/")[2])
        if kind == "seed_generator":  # of dropout
            continue
        layer = index["groups"][group].get("name")
        if not isinstance(layer, str):
            raise UsageError(
                "it has no names of layers, as an older Keras wrote it: load it with a newer one and save it again"
            )
        names = _VARIABLES.get(kind, ())
        if kind == "batch_normalization":
            names = _BATCH_NORMALIZATION[4 - min(len(places), 4) :]
        for number, place in places.items():
            known = number.isdecimal() and int(number) < len(names)
            found.append(((layer, names[int(number)] if known else number), place))
    return found


def _values(content: bytes, place: Any, key: str, most: int) -> np.ndarray:
    """Return what a dataset holds, if it lies in the content as it is, in `most` bytes."""
    if isinstance(place, str):
        raise UsageError(f"{key} {place}")
    kind, shape, offset, stored = place
    claimed, stored = math.prod(shape) * np.dtype(kind).itemsize, min(stored, most, len(content) - offset)
    if claimed > stored:
        raise UsageError(f"{key} claims {claimed} bytes and stores {stored}")
    return np.ndarray(shape, kind, content, offset).copy()


def _depthwise(key: str, tensors: dict[str, np.ndarray]) -> str:
    """Return the name of a weight; Keras 3 calls a depthwise kernel, [height, width, channels, 1], kernel."""
    layer, _, leaf = key.rpartition("/")
    shape, bias = np.shape(tensors[key]), tensors.get(f"{layer}/bias")
    if leaf != "kernel" or len(shape) != 4 or shape[3] != 1 or (bias is not None and bias.size != shape[2]):
        return key
    return f"{layer}/depthwise_kernel"


def _renumbered(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights with layers that Keras named numbered from the first of each class."""
    unnamed = {match[0]: match for key in tensors if (match := _UNNAMED.fullmatch(key.rpartition("/")[0]))}
    counts: dict[str, int] = {}
    names = {}
    for layer, match in sorted(unnamed.items(), key=lambda item: int(item[1][2] or 0)):
        number = counts.get(match[1], 0)
        counts[match[1]] = number + 1
        names[layer] = f"{match[1]}_{number}" if number else match[1]
    renamed = {}
    for key, value in tensors.items():
        layer, _, leaf = key.rpartition("/")
        renamed[f"{names.get(layer, layer)}/{leaf}"] = value
    return renamed
