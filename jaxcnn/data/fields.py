"""What an example holds: named fields, each of a kind that says how it is read, cut, moved and put into batches.

    fields = {"image": Image(channels=3), "label": Label(class_names=("cat", "dog"))}

A batch is a mapping from the same names to arrays with the examples first (of boxes, to a mapping of such arrays), and
`mask`, bool [batch]: False for what fills the batch up or cannot be used, which counts nowhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from jaxcnn.errors import UsageError, unknown

Example = Mapping[str, Any]
"""One example as it is stored, by field. Image: the bytes of a file, or [height, width, channels]. Label: a whole
number. ClassMap: the bytes of a file, or whole numbers [height, width]. Boxes: {"corners": [k, 4], "label": [k]}.
Value: an array."""
Batch = Mapping[str, Any]
"""Arrays by field, and `mask`."""

# What a batch holds beside its fields: `target` once labels were mixed, `index` where a stream says which examples.
_TAKEN = ("mask", "target", "index")


@dataclass(frozen=True)
class Image:
    """Pixels. In a batch: [batch, height, width, channels], of this type."""

    channels: int = 3
    dtype: Literal["uint8", "float32"] = "uint8"
    """float32: arrays that were given as such, in whatever unit."""


@dataclass(frozen=True)
class Label:
    """One class for the whole example. In a batch: int32 [batch], in [0, classes)."""

    class_names: tuple[str, ...]


@dataclass(frozen=True)
class ClassMap:
    """A class at each pixel of the image. In a batch: uint8 [batch, height, width] (int32 above 256 classes).

    What a crop or a rotation brings in from outside the image is `ignored`.
    """

    class_names: tuple[str, ...]
    ignored: int = 255
    """The value of pixels that do not count."""


@dataclass(frozen=True)
class Boxes:
    """Objects. In a batch: {"corners": float32 [batch, most, 4], "label": int32 [batch, most], "mask": bool the same}.

    Corners are x and y of the left upper and of the right lower one, in pixels of the image: pixel (0, 0) is the square
    from (0, 0) to (1, 1). Rows where `mask` is False hold no object.
    """

    class_names: tuple[str, ...]
    most: int
    """Rows of each example in a batch."""
    least_share: float = 0.1
    """A move of the image takes a box away of which less than this share is left within it."""


@dataclass(frozen=True)
class Value:
    """Numbers that no change of the image moves. In a batch: [batch, *shape], of this dtype."""

    shape: tuple[int, ...] = ()
    dtype: str = "float32"


Field = Image | Label | ClassMap | Boxes | Value
Fields = Mapping[str, Field]

KINDS: tuple[type[Field], ...] = (Image, Label, ClassMap, Boxes, Value)


def check_fields(fields: Fields) -> Fields:
    """Return fields that examples can have.

    Raises:
        UsageError: there are none, a name is taken, or something is no field.
    """
    if not fields:
        raise UsageError("an example holds no field: expected an image, for instance")
    for name, field in fields.items():
        if not isinstance(field, KINDS):
            expected = ", ".join(kind.__name__ for kind in KINDS)
            raise UsageError(f"field {name!r} is {field!r:.80}: expected one of {expected}")
        if name in _TAKEN:
            raise UsageError(f"a field is called {name!r}, which a batch holds already: choose another name")
        if isinstance(field, ClassMap) and 0 <= field.ignored < len(field.class_names):
            raise UsageError(f"field {name!r}: {field.ignored} is a class, and what is ignored: choose another number")
        if isinstance(field, ClassMap) and not -(2**31) <= field.ignored < 2**31:
            raise UsageError(f"field {name!r}: {field.ignored} is ignored, expected a number of 32 bits")
    return fields


def frame_of(fields: Fields) -> str | None:
    """Return the field that all others are cut with: the first image, else the first class map; None: there is none."""
    return next((name for kind in (Image, ClassMap) for name, field in fields.items() if isinstance(field, kind)), None)


def class_names_of(fields: Fields) -> tuple[str, ...]:
    """Return the names of the classes of the first field that has classes; (): none has."""
    return next((field.class_names for field in fields.values() if isinstance(field, Label | ClassMap | Boxes)), ())


def labelled_image(fields: Fields, what: str) -> tuple[Image, Label]:
    """Return the fields `image` and `label` of a data set that has no others.

    Raises:
        UsageError: it has others; `what` only takes these.
    """
    image, label = fields.get("image"), fields.get("label")
    if len(fields) == 2 and isinstance(image, Image) and isinstance(label, Label):
        return image, label
    found = ", ".join(f"{name} ({type(field).__name__})" for name, field in fields.items())
    raise UsageError(f"{what} takes labelled images, that is image and label: the data set holds {found}")


def map_dtype(field: ClassMap) -> np.dtype:
    """Return the type of a class map in a batch."""
    small = len(field.class_names) <= 256 and 0 <= field.ignored < 256
    return np.dtype(np.uint8 if small else np.int32)


def shapes_of(fields: Fields, sizes: Mapping[str, tuple[int, int]]) -> dict[str, Any]:
    """Return shape and type of each field of one example of a batch.

    Args:
        fields: of the data set.
        sizes: height and width of its images and class maps.
    """

    def shape(name: str, field: Field) -> Any:
        match field:
            case Image(channels, dtype):
                return jax.ShapeDtypeStruct((*sizes[name], channels), np.dtype(dtype))
            case Label():
                return jax.ShapeDtypeStruct((), np.int32)
            case ClassMap():
                return jax.ShapeDtypeStruct(sizes[name], map_dtype(field))
            case Boxes(most=most):
                kinds = {"corners": ((most, 4), np.float32), "label": ((most,), np.int32), "mask": ((most,), np.bool_)}
                return {part: jax.ShapeDtypeStruct(*kind) for part, kind in kinds.items()}
            case Value(whole, dtype):
                return jax.ShapeDtypeStruct(whole, np.dtype(dtype))

    return {name: shape(name, field) for name, field in fields.items()}


def zeros(shapes: Mapping[str, Any], count: int) -> Batch:
    """Return so many examples of zeros: black, of class 0, without boxes."""
    return jax.tree.map(lambda one: np.zeros((count, *one.shape), one.dtype), dict(shapes))


def row_of(batch: Any, index: int) -> Any:
    """Return views of one example of a batch on the host, without `mask` where it is one of fields alone."""
    return {name: row_of(one, index) for name, one in batch.items()} if isinstance(batch, dict) else batch[index]


def check_names(wanted: Mapping[str, type], fields: Fields) -> None:
    """Raise where a data set lacks a field, or has it of another kind.

    Raises:
        UsageError: naming what there is.
    """
    for name, kind in wanted.items():
        if name not in fields:
            raise unknown("field of the data set", name, fields)
        if not isinstance(fields[name], kind):
            raise UsageError(f"field {name!r} is of kind {type(fields[name]).__name__}: expected {kind.__name__}")
