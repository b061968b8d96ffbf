"""Data sets in NumPy's .npz files: arrays {split}_images and {split}_labels, and optionally class_names."""

import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from jaxcnn.data.fields import Field, Image, Label
from jaxcnn.data.stores.arrays import array_store
from jaxcnn.data.stores.records import Store, shown
from jaxcnn.environment import memory
from jaxcnn.errors import UsageError, line


def open_npz(path: Path) -> Store:
    """Open such a file; what else it holds is not read.

    Raises:
        UsageError: it is no .npz file, damaged, or its arrays are larger unpacked than half the memory; or one is not
            what it should be.
    """
    held: list[str] = []

    def wanted(name: str) -> bool:
        held.append(shown(name))
        return name == "class_names" or name.endswith(("_images", "_labels"))

    arrays = read_npz(path, wanted)
    splits: dict[str, dict[str, np.ndarray]] = {}
    for key in arrays:
        name, _, kind = key.rpartition("_")
        if kind == "images" and name:
            if f"{name}_labels" not in arrays:
                raise UsageError(f"{path} holds {shown(key)} and no {shown(name)}_labels")
            splits[name] = {"image": arrays[key], "label": arrays[f"{name}_labels"]}
    if not splits:
        raise UsageError(f"{path} holds {', '.join(held)[:200] or 'nothing'}; expected train_images, train_labels, ...")
    images = next(iter(splits.values()))["image"]
    names = _class_names(path, arrays["class_names"]) if "class_names" in arrays else _numbers(path, splits)
    fields: dict[str, Field] = {"image": Image(images.shape[3] if images.ndim == 4 else 1), "label": Label(names)}
    return array_store(splits, fields, str(path))


def read_npz(path: Path, wanted: Callable[[str], bool] = lambda name: True) -> dict[str, np.ndarray]:
    """Return the arrays of a .npz file whose names are wanted.

    Raises:
        UsageError: it is none, damaged, encrypted or packed in a way that is not known, an array is none or holds
            objects, or they are larger than half the memory.
    """
    try:
        if not zipfile.is_zipfile(path):
            raise ValueError("it was not written by np.savez")
        # Opened here: np.load leaves a file open that it does not like.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            names = dict.fromkeys(filter(wanted, file.files))
            size = sum(one.file_size for one in file.zip.infolist() if one.filename.removesuffix(".npy") in names)
            if size > memory() // 2:
                raise ValueError(f"it unpacks to {size} bytes, more than half of the memory")
            found = {name: file[name] for name in names}
            for name, array in found.items():
                if not isinstance(array, np.ndarray):
                    raise ValueError(f"{shown(name)} is no array")
            return found
    except Exception as error:  # zipfile, what it unpacks with and NumPy raise whatever a damaged file leads them to
        raise UsageError(f"{path}: not a readable .npz file ({shown(line(error)[:200])})") from error


def _class_names(path: Path, names: np.ndarray) -> tuple[str, ...]:
    if names.ndim != 1 or names.dtype.kind not in "US" or not names.nbytes:
        raise UsageError(
            f"{path}: class_names is {names.dtype} of shape {names.shape}, expected text of shape [classes]"
        )
    if names.dtype.kind == "U":
        points: Any = np.ascontiguousarray(names, names.dtype.newbyteorder("=")).view(np.uint32)
        if points.max() > sys.maxunicode:  # NumPy makes strings of them all the same, on which Python fails later
            raise UsageError(f"{path}: class_names holds {points.max()}, which is no character")
    texts = names.tolist()
    return tuple(shown(name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name) for name in texts)


def _numbers(path: Path, splits: dict[str, dict[str, np.ndarray]]) -> tuple[str, ...]:
    """Return "0", "1", ... for the labels there are."""
    whole = [split["label"] for split in splits.values() if split["label"].dtype.kind in "iu"]
    labels = sorted({label for array in whole for label in np.unique(array).tolist()})
    if not labels or labels[0] < 0:
        return ()  # which is told with the array's name
    missing = next((number for number, label in enumerate(labels) if number != label), None)
    if missing is not None:
        raise UsageError(
            f"{path} has labels up to {labels[-1]} and none is {missing}: expected every number from 0, or an array "
            "class_names where some classes have no image"
        )
    return tuple(map(str, labels))
