"""Arrays in memory as a data set: checked as a whole, so that a mistake in them is told at once."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Shaped

from jaxcnn.data.casting import cast, check_range
from jaxcnn.data.examples import Split
from jaxcnn.data.fields import ClassMap, Field, Fields, Image, Label, Value, map_dtype
from jaxcnn.data.stores.records import ArrayRecords, Store
from jaxcnn.errors import UsageError


def array_store(splits: Mapping[str, Mapping[str, Any]], fields: Fields, what: str) -> Store:
    """Return arrays as a data set.

    Args:
        splits: for each split its arrays by field, all examples first.
        fields: what they are: images, labels, class maps and values.
        what: where they came from, for the errors.

    Raises:
        UsageError: naming what is wrong, where an array has another rank, length, type or range.
    """
    found = {split: check_arrays(arrays, fields, f"{what} {split}".strip()) for split, arrays in splits.items()}
    records = {split: ArrayRecords(arrays) for split, arrays in found.items()}
    sizes = {split: len(one) for split, one in records.items()}
    return Store(fields, sizes, records.__getitem__, in_memory=True)


def check_arrays(arrays: Mapping[str, Any], fields: Fields, what: str) -> dict[str, np.ndarray]:
    """Return arrays as they are in batches.

    Raises:
        UsageError: as `array_store`.
    """
    found = {name: _checked(name, field, np.asarray(arrays[name]), what) for name, field in fields.items()}
    count = len(next(iter(found.values())))
    for name, array in found.items():
        if len(array) != count:
            raise UsageError(f"{what}: {name} has shape {array.shape} for {count} of {next(iter(found))}")
        if not len(array):
            raise UsageError(f"{what}: {name} has shape {array.shape}: there is no example")
    return found


def check_images(images: Any, shape: tuple[int, ...], what: str) -> Split:
    """Return images of one shape, [height, width, channels], as a split that has nothing else.

    Raises:
        UsageError: as `array_store`; or they are of another shape.
    """
    found = check_arrays({"image": images}, {"image": Image(shape[-1])}, what)
    if found["image"].shape[1:] != shape:
        raise UsageError(f"{what}: images are {found['image'].shape[1:]}, expected {shape}")
    return Split(found)


def _checked(name: str, field: Field, values: np.ndarray, what: str) -> Shaped[np.ndarray, "n *shape"]:
    try:
        match field:
            case Image():
                return as_images(values, field, batched=True)
            case Label(class_names):
                return _labels(values, len(class_names))
            case ClassMap():
                return _class_maps(values, field)
            case Value(shape, dtype):
                if values.shape[1:] != shape:
                    raise ValueError(f"has shape {values.shape}, expected {('n', *shape)}")
                return cast(values, dtype)
            case _:
                raise ValueError(f"is of kind {type(field).__name__}, which is no array")
    except ValueError as error:
        raise UsageError(f"{what}: {name} {error}") from error


def as_images(values: np.ndarray, field: Image, *, batched: bool) -> Shaped[np.ndarray, "*n height width channels"]:
    """Return pixels of one image, or of many, as a field has them.

    Raises:
        ValueError: one line: another rank, number of channels, type or range.
    """
    rank, first = (4, "n, ") if batched else (3, "")
    if values.ndim == rank - 1:
        values = values[..., None]
    if values.ndim != rank or 0 in values.shape:
        raise ValueError(f"has shape {values.shape}, expected [{first}height, width, channels]")
    if values.shape[-3] in (1, 3) and values.shape[-1] not in (1, 3, 4):
        raise ValueError(f"has shape {values.shape}: expected the channels last, not first")
    if values.shape[-1] != field.channels:
        raise ValueError(f"has {values.shape[-1]} channels, expected {field.channels}")
    if values.dtype.kind not in "iuf":
        raise ValueError(f"is {values.dtype}, expected {field.dtype}")
    if field.dtype == "float32":
        return cast(values, np.float32)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise ValueError("holds NaN or infinity")
    if values.dtype != np.uint8:
        check_range(values, 0, 255)
    if values.dtype.kind == "f":
        low, high = values.min(), values.max()
        advice = "; multiply by 255 and round" if high <= 1 else ""
        raise ValueError(f"is {values.dtype} from {low:g} to {high:g}, expected uint8{advice}")
    return values.astype(np.uint8, copy=False)


def _labels(values: np.ndarray, classes: int) -> np.ndarray:
    if values.ndim != 1:
        raise ValueError(f"has shape {values.shape}, expected [n]")
    if values.dtype.kind not in "iu":
        raise ValueError(f"is {values.dtype}, expected whole numbers from 0")
    if values.size and values.min() < 0:
        raise ValueError(f"{values.min()} found, expected numbers from 0 (is the split unlabelled?)")
    if values.size and values.max() >= classes:
        raise ValueError(f"{values.max()} found, there are {classes} classes")
    return values.astype(np.int32)


def _class_maps(values: np.ndarray, field: ClassMap) -> np.ndarray:
    if values.ndim != 3 or values.dtype.kind not in "iu":
        raise ValueError(f"is {values.dtype} of shape {values.shape}, expected whole numbers [n, height, width]")
    given = values[values != field.ignored]
    if given.size:
        check_range(given, 0, len(field.class_names) - 1)
    return values.astype(map_dtype(field), copy=False)
