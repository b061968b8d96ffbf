"""Weights files of Keras: .h5 of Keras 2 (Keras 3 writes it, too) and .weights.h5 of Keras 3."""

import io
import itertools
import re
import struct
from collections.abc import Iterable
from typing import Any

import numpy as np

from jaxcnn.errors import UsageError

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


def read_hdf5(content: bytes) -> dict[str, np.ndarray]:
    """Return the weights by "<layer>/<weight>" as in Keras, such as "conv1_bn/moving_mean".

    The weights are named as in Keras 2: a depthwise kernel is a `depthwise_kernel`. Layers without a name of their own
    are numbered from the file's first: conv2d, conv2d_1, ... A slash in a layer's name becomes an underscore, as
    Keras 3 has it. Layers of a model within the model have their own names.

    Raises:
        UsageError: h5py is missing, or the file has no such weights.
        Exception: of several types; the file is damaged.
    """
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise UsageError("a file of Keras needs h5py: pip install 'jaxcnn[keras]'") from error
    _check_texts(content)
    with h5py.File(io.BytesIO(content), "r") as file:
        # Each object once, and none that a link leads to: neither a loop nor another file is followed.
        objects: dict[str, Any] = {}
        file.visititems(objects.__setitem__)
        root = "model_weights/" if "model_weights" in objects else ""
        top = objects["model_weights"] if root else file
        named = _legacy(top, root, objects) if _texts(top, "layer_names") else _numbered(objects)
        tensors: dict[str, np.ndarray] = {}
        left = len(content)  # Several weights might be the same bytes.
        for (layer, weight), dataset in named:
            key = f"{layer.replace('/', '_')}/{weight}"
            if key in tensors:
                raise UsageError(f"two layers are called {layer:.120}")
            tensors[key] = _values(dataset, f"{key:.120}", left)
            left -= tensors[key].nbytes
    if not tensors:
        raise UsageError("it is an HDF5 file, but has no weights of Keras")
    return _renumbered({_depthwise(key, tensors): value for key, value in tensors.items()})


_HEAP = re.compile(rb"GCOL\x01\0\0\0(.{8})", re.DOTALL)
# Bytes of a text that is no name but, such as a model's configuration, read once at most; and how many such there are.
_NAME, _LONG_TEXTS = 512, 16


def _check_texts(content: bytes) -> None:
    """Refuse a file that gives a long text again and again, which would take far more memory than the file has bytes.

    Attributes refer to texts by the place of a heap and a number within it; HDF5 reads an attribute as a whole.
    """
    if (content[13:15] if content[8:9] < b"\2" else content[9:11]) != b"\x08\x08":
        raise UsageError("it has places that are not of 8 bytes, as Keras never writes them")
    texts, at, left = 0, 0, len(content)
    for heap in _HEAP.finditer(content):
        end = heap.start() + int.from_bytes(heap[1], "little")
        if heap.start() < at or end > len(content):
            raise UsageError("its texts overlap, or are cut off")
        at = heap.end()
        while at + 16 <= end:
            number, size = (
                int.from_bytes(content[at : at + 2], "little"),
                int.from_bytes(content[at + 8 : at + 16], "little"),
            )
            if number == 0:  # What is free. HDF5 goes on behind it, and where it has no size, never.
                if size != end - at:
                    raise UsageError("its texts are damaged")
                break
            if size > _NAME:
                texts, left = texts + 1, left - size * content.count(struct.pack("<QI", heap.start(), number))
            if left < 0 or texts > _LONG_TEXTS:
                raise UsageError("it has long texts again and again, as Keras never writes them")
            at += 16 + -(-size // 8) * 8
        at = end


Named = list[tuple[tuple[str, str], Any]]


def _legacy(top: Any, root: str, objects: dict[str, Any]) -> Named:
    """Return (layer, weight) and dataset of each weight: a group per layer lists the names of its weights."""
    found: Named = []
    for layer in _texts(top, "layer_names"):
        paths = _texts(objects[root + layer], "weight_names")
        modules = {path.rpartition("/")[0] for path in paths}
        for path in paths:
            module, _, leaf = path.rpartition("/")
            # Several modules: the layer is a model.
            inner = module.rpartition("/")[2] if len(modules) > 1 else layer
            found.append(((inner, _weight_name(leaf)), objects[f"{root}{layer}/{path}"]))
    return found


def _texts(group: Any, name: str) -> list[str]:
    """Return an attribute that lists texts; a long one is cut into name0, name1, ..."""
    parts: Iterable[str] = (f"{name}{number}" for number in itertools.count())
    parts = [name] if name in group.attrs else itertools.takewhile(group.attrs.__contains__, parts)
    texts = [text for part in parts for text in group.attrs[part]]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in texts]


def _weight_name(leaf: str) -> str:
    leaf = leaf.removesuffix(":0")
    if re.fullmatch(r"[vV]ariable(_\d+)?", leaf):  # LayerScale of ConvNeXt gives its gamma no name
        return "gamma"
    match = _OLD_LEAF.fullmatch(leaf)
    return leaf if leaf in _LEAVES or match is None else _OLD.get(match[1], match[1])


def _numbered(objects: dict[str, Any]) -> Named:
    """Return (layer, weight) and dataset of each weight: layers/<class>_<number>/vars/<number>."""
    found: Named = []
    for path, group in objects.items():
        parts = path.split("/")
        if parts[-1] != "vars" or parts[0] == "optimizer" or not len(group):
            continue
        kind = re.sub(r"_\d+$", "", parts[-2]) if len(parts) > 1 else ""
        if kind == "seed_generator":  # of dropout
            continue
        layer = group.attrs.get("name")
        if not isinstance(layer, str):
            raise UsageError(
                "it has no names of layers, as an older Keras wrote it: load it with a newer one and save it again"
            )
        names = _VARIABLES.get(kind, ())
        if kind == "batch_normalization":
            names = _BATCH_NORMALIZATION[4 - min(len(group), 4) :]
        for number in group:
            known = number.isdecimal() and int(number) < len(names)
            found.append(((layer, names[int(number)] if known else number), objects[f"{path}/{number}"]))
    return found


def _values(dataset: Any, key: str, most: int) -> np.ndarray:
    """Return what a dataset holds, if it lies in this file as it is, in `most` bytes."""
    if dataset.dtype.kind not in "fiub":
        raise UsageError(f"{key} is of type {dataset.dtype}: expected numbers")
    if dataset.external or dataset.is_virtual:
        raise UsageError(f"{key} lies in another file")
    if dataset.chunks is not None:  # Compressed, 2 MiB may be 2 GiB, and more than the shape says.
        raise UsageError(f"{key} is compressed or in pieces, as Keras never does: h5repack -l CONTI -f NONE undoes it")
    stored = min(dataset.id.get_storage_size(), most)
    if dataset.nbytes > stored:
        raise UsageError(f"{key} claims {dataset.nbytes} bytes and stores {stored}")
    return np.asarray(dataset[()])


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
