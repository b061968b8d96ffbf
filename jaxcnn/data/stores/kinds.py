"""Which kinds of fields the examples of an object hold: as it states them, else told by its first example.

| the value | the kind |
|---|---|
| an image of Pillow's, the bytes of a file, {"bytes", "path"}; 8-bit [height, width, channels] | Image |
| 8-bit [height, width] | Image, unless it is of the size of an image beside it |
| whole numbers [height, width], of the size of an image beside them | ClassMap |
| a whole number | Label |
| {"corners": [k, 4], "label": [k]} | Boxes |
| other numbers | Value: int32, float32 or bool |

Anything else, such as text, is left out. Classes are named by Hugging Face's ClassLabel, else "0", "1", ... up to the
largest in all splits; that, and the most boxes, is found by a pass over all examples, which stated fields spare.
"""

import operator
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxcnn.data.fields import Boxes, ClassMap, Field, Fields, Image, Label, Value, check_fields
from jaxcnn.errors import UsageError
from jaxcnn.images.opening import GREY, WHOLE, BadImage, read_file
from jaxcnn.images.pixels import channels_of, decode_classes, image_size

# Of images that are decoded, so many are looked at: where all of them are grey, the data set is.
_LOOKED_AT = 16
# Larger numbers are no classes.
_MOST_CLASSES = 1 << 16
_IGNORED = ClassMap(()).ignored


class Raw(Protocol):
    """One split of an object, as it is given."""

    @property
    def features(self) -> Mapping[str, Any]:
        """What a Hugging Face data set says of its fields."""

    def __len__(self) -> int:
        """Return the number of examples."""

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """Return one example by field."""

    def all_of(self, name: str) -> Iterator[Any]:
        """Yield a field of all examples, in whatever portions; None where one has none."""


def fields_of(
    splits: Mapping[str, Raw],
    stated: Fields | None,
    like: Mapping[str, type[Field]] | None,
    poll: Callable[[], None],
) -> tuple[dict[str, str], Fields]:
    """Return what the source calls each field, and the fields.

    Args:
        splits: of the source.
        stated: its fields, where it says so itself.
        like: the fields that are needed; None: all there are.
        poll: called for each example that is looked at.

    Raises:
        UsageError: a field that is needed or stated is not there, or of another kind.
    """
    first = splits.get("train") or next(iter(splits.values()))
    example = first[0]
    if stated is not None:
        missing = [name for name in check_fields(stated) if name not in example]
        if missing:
            raise UsageError(f"the source states a field {missing[0]!r}: its examples hold {', '.join(example)}")
        kinds: dict[str, type[Field] | None] = {name: type(field) for name, field in stated.items()}
    else:
        kinds = _kinds(example)
    names = {name: name for name, kind in kinds.items() if kind} if like is None else _chosen(kinds, example, like)
    fields: dict[str, Field] = {}
    for name, source in names.items():
        kind = kinds[source] if like is None else like[name]
        assert kind is not None
        fields[name] = stated[source] if stated else _field(kind, source, splits, first, poll)
    if not fields:
        raise UsageError(f"the examples of the source hold nothing that can be batched: {_shown(kinds, example)}")
    return names, check_fields(fields)


def encoded_or_same(value: Any) -> Any:
    """Return the bytes of an image file, given them, its path or Hugging Face's {"bytes", "path"}; or the same.

    Raises:
        BadImage: see `read_file`; or there are neither bytes nor a path.
        OSError: see `read_file`.
    """
    if _is_file(value):
        content, path = value.get("bytes"), value.get("path")
        if content is None and path is None:
            raise BadImage("has neither bytes nor a path")
        value = Path(path) if content is None else content
    if isinstance(value, Path):
        return read_file(value)
    return bytes(value) if isinstance(value, bytearray | memoryview) else value


def _is_file(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and set(value) <= {"bytes", "path"}


def _is_picture(value: Any) -> bool:
    """Return whether this is an image by its type: a file, or Pillow's."""
    files = isinstance(value, bytes | bytearray | memoryview | Path) or _is_file(value)
    return files or (hasattr(value, "convert") and hasattr(value, "mode"))


def _array(value: Any) -> np.ndarray | None:
    """Return numbers as an array; None: they are none."""
    if isinstance(value, str | bytes | Mapping) or value is None:
        return None
    try:
        found = np.asarray(value)
    except ValueError:  # rows of different lengths
        return None
    return found if found.dtype.kind in "biuf" else None


def _is_whole(value: Any) -> bool:
    try:
        operator.index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def _is_boxes(value: Any) -> bool:
    return isinstance(value, Mapping) and {"corners", "label"} <= set(value)


def _kinds(example: Mapping[str, Any]) -> dict[str, type[Field] | None]:
    """Return the kind of each field, None where it is none; see above."""
    found: dict[str, type[Field] | None] = {}
    flat: dict[str, np.ndarray] = {}  # 8-bit or other whole numbers [h, w]
    sizes: list[tuple[int, ...]] = []
    for name, value in example.items():
        array = None if _is_picture(value) else _array(value)
        if _is_picture(value):
            found[name] = Image
            sizes.append(_size(value))
        elif _is_boxes(value):
            found[name] = Boxes
        elif _is_whole(value):
            found[name] = Label
        elif array is not None and array.ndim == 3 and array.dtype == np.uint8:
            found[name] = Image
            sizes.append(array.shape[:2])
        else:
            found[name] = None if array is None else Value
            if array is not None and array.ndim == 2 and array.dtype.kind in "iu":
                flat[name] = array
    for name in sorted(flat, key=lambda name: name != "image"):
        if flat[name].shape in sizes:
            found[name] = ClassMap
        elif flat[name].dtype == np.uint8:
            found[name] = Image
            sizes.append(flat[name].shape)
    return found


def _size(picture: Any) -> tuple[int, ...]:
    try:
        value = encoded_or_same(picture)
        return image_size(value) if isinstance(value, bytes) else (value.height, value.width)
    except BadImage:
        return (0, 0)


def _fits(kind: type[Field], value: Any) -> bool:
    """Return whether a value can be read as a field of this kind."""
    array = None if _is_picture(value) else _array(value)
    if kind is Image:
        return _is_picture(value) or (array is not None and array.ndim in (2, 3) and array.dtype.kind in "iuf")
    if kind is Label:
        return _is_whole(value)
    if kind is ClassMap:
        several = getattr(value, "mode", "L") not in WHOLE
        return (_is_picture(value) and not several) or (
            array is not None and array.ndim == 2 and array.dtype.kind in "iu"
        )
    return _is_boxes(value) if kind is Boxes else array is not None


def _chosen(
    kinds: Mapping[str, type[Field] | None], example: Mapping[str, Any], like: Mapping[str, type[Field]]
) -> dict[str, str]:
    """Return what the source calls the fields that are needed: their names, or the only other one of that kind."""
    chosen: dict[str, str] = {}
    for name, kind in like.items():
        if name in kinds:
            if not _fits(kind, example[name]):
                raise UsageError(
                    f"field {name!r} is to be of kind {kind.__name__}: the examples hold {_shown(kinds, example)}"
                )
            chosen[name] = name
            continue
        free = [other for other in kinds if other not in like and other not in chosen.values()]
        same = [other for other in free if kinds[other] is kind] or [
            other for other in free if _fits(kind, example[other])
        ]
        if len(same) != 1:
            raise UsageError(
                f"a field {name!r} of kind {kind.__name__} is needed: the examples hold {_shown(kinds, example)}"
            )
        chosen[name] = same[0]
    return chosen


def _shown(kinds: Mapping[str, type[Field] | None], example: Mapping[str, Any]) -> str:
    words = {name: type(example[name]).__name__ if kind is None else kind.__name__ for name, kind in kinds.items()}
    return ", ".join(f"{name} ({word})" for name, word in words.items()) or "nothing"


def _field(kind: type[Field], name: str, splits: Mapping[str, Raw], first: Raw, poll: Callable[[], None]) -> Field:
    """Return a field as the examples have it."""
    if kind is Image:
        return _image(name, first)
    if kind is Value:
        array = np.asarray(first[0][name])
        dtypes = {"f": "float32", "i": "int32", "u": "int32", "b": "bool"}
        return Value(array.shape, dtypes[array.dtype.kind])
    given = getattr(first.features.get(name), "names", None)
    class_names = tuple(map(str, given or ()))
    if kind is Label and class_names:
        return Label(class_names)
    largest, most = _largest(kind, name, splits, poll)
    class_names = class_names or tuple(map(str, range(largest + 1)))
    if kind is Label:
        return Label(class_names)
    return ClassMap(class_names) if kind is ClassMap else Boxes(class_names, most)


def _image(name: str, first: Raw) -> Image:
    value = first[0][name]
    if not _is_picture(value):
        array = np.asarray(value)
        return Image(1 if array.ndim == 2 else array.shape[-1], "float32" if array.dtype.kind == "f" else "uint8")
    return Image(max(_channels(first[index][name]) for index in range(min(len(first), _LOOKED_AT))))


def _channels(picture: Any) -> int:
    try:
        value = encoded_or_same(picture)
        if not isinstance(value, bytes):
            return 1 if getattr(value, "mode", "L") in GREY else 3
        return channels_of(value)
    except BadImage:
        return 1  # it says nothing


def _largest(kind: type[Field], name: str, splits: Mapping[str, Raw], poll: Callable[[], None]) -> tuple[int, int]:
    """Return the largest class of all splits, and the most boxes of one example."""
    largest, most = -1, 1
    for split, raw in splits.items():
        for value in raw.all_of(name):
            poll()
            classes = _classes(kind, value)
            most = max(most, classes.size)
            if classes.size:
                largest = max(largest, int(classes.max()))
            if largest >= _MOST_CLASSES:
                raise UsageError(
                    f"split {split!r}: {name} holds {largest}, expected classes below {_MOST_CLASSES}; if they are "
                    "numbers of another kind, state so: jaxcnn.data.Value"
                )
    if largest < 0:
        raise UsageError(f"no example has a class in {name}")
    return largest, most


def _classes(kind: type[Field], value: Any) -> np.ndarray:
    """Return the classes that a value holds; none where it is bad, which is told when it is read."""
    if kind is Boxes:
        value = value["label"] if _is_boxes(value) else ()
    try:
        value = encoded_or_same(value)
        found = decode_classes(value) if isinstance(value, bytes) else np.asarray(value)
    except BadImage:
        return np.zeros(0, int)
    if found.dtype.kind not in "iu":
        return np.zeros(0, int)
    return found[found != _IGNORED] if kind is ClassMap else found.reshape(-1)
