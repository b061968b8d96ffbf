"""Data sets that are objects in Python: arrays, lists, and whatever gives examples by number or one after the other.

A source is a mapping from splits, or one of its splits alone, which is then `train`; and `fields`, where it says itself
what examples hold. A split is one of:

- a mapping from field to array (or list), with the examples first: {"image": [n, h, w, 3], "label": [n]};
- what has a length and examples by number: a list, a Grain data source, a Hugging Face data set, one of torch's;
- what has a length and is iterated: it is read once, in order, into memory.

An example is a mapping by field, or a pair (image, label). Several threads read at once.
"""

import operator
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxcnn.data.fields import Boxes, ClassMap, Example, Field, Fields, Image, Label, Value
from jaxcnn.data.stores.arrays import array_store, as_images
from jaxcnn.data.stores.kinds import Raw, encoded_or_same, fields_of
from jaxcnn.data.stores.records import Store, digest
from jaxcnn.errors import BadExample, UsageError
from jaxcnn.images.opening import eight_bits

# Examples that go into the fingerprint of a data set that is not in memory.
_LOOKED_AT = 64


def open_object(
    given: Any, like: Mapping[str, type[Field]] | None = None, poll: Callable[[], None] = lambda: None
) -> Store:
    """Return an object as a data set.

    Args:
        given: see above.
        like: the fields that are needed, by the names they are to have; None: all that can be batched.
        poll: called for each example that is looked at; what it raises ends that.

    Raises:
        UsageError: it is none, lacks a field, or a field is of another kind than is needed.
    """
    if isinstance(given, Store):
        return given
    stated, splits = _splits(given, poll)
    names, fields = fields_of(splits, stated, like, poll)
    arrays = {
        split: {name: raw.columns[source] for name, source in names.items()}
        for split, raw in splits.items()
        if isinstance(raw, Columns) and raw.arrays(names.values())
    }
    if len(arrays) == len(splits) and not any(isinstance(field, Boxes) for field in fields.values()):
        return array_store(arrays, fields, "source")
    records = {split: ObjectRecords(raw, split, names, fields) for split, raw in splits.items()}
    return Store(fields, {split: len(one) for split, one in records.items()}, records.__getitem__)


def _splits(given: Any, poll: Callable[[], None]) -> tuple[Fields | None, dict[str, Raw]]:
    """Return the fields that a source states, and its splits."""
    stated = None
    if isinstance(given, Mapping) and "fields" in given and isinstance(given["fields"], Mapping):
        stated, given = given["fields"], {name: value for name, value in given.items() if name != "fields"}
    if not isinstance(given, Mapping) or not all(map(_is_split, given.values())):
        given = {"train": given}
    if not given:
        raise UsageError('the source is empty: expected {"train": ..., "test": ...}')
    return stated, {str(split): _raw(str(split), examples, poll) for split, examples in given.items()}


def _is_split(value: Any) -> bool:
    """Return whether this is examples, and no column of them."""
    if isinstance(value, Mapping):
        return not {"corners", "label"} <= set(value)
    if isinstance(value, list | tuple):
        return bool(value) and isinstance(value[0], Mapping | tuple)
    return not hasattr(value, "__array__") and not isinstance(value, str | bytes)


def _raw(split: str, examples: Any, poll: Callable[[], None]) -> Raw:
    if isinstance(examples, Mapping):
        return Columns(split, examples)
    if not hasattr(examples, "__len__"):
        raise UsageError(
            f"split {split!r} is {type(examples).__name__}, which has no length: expected arrays by field, examples by "
            "number, or an iterable with __len__"
        )
    if not hasattr(examples, "__getitem__"):
        expected, found = len(examples), []
        for example in examples:
            poll()
            found.append(example)
        if len(found) != expected:
            raise UsageError(f"split {split!r} says that it has {expected} examples, and gives {len(found)}")
        examples = found
    if not len(examples):
        raise UsageError(f"split {split!r} has no example")
    return Items(split, examples)


@dataclass(frozen=True)
class Columns:
    """Examples as arrays or lists by field."""

    split: str
    columns: Mapping[str, Any]

    def __post_init__(self) -> None:
        """Check the lengths."""
        lengths = {name: self._length(column) for name, column in self.columns.items()}
        if not lengths or 0 in lengths.values():
            raise UsageError(f"split {self.split!r} has no example: its fields are {', '.join(lengths) or 'none'}")
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{length} of {name}" for name, length in lengths.items())
            raise UsageError(f"split {self.split!r} has fields of different lengths: {shown}")

    def _length(self, column: Any) -> int:
        if isinstance(column, Mapping):  # of boxes
            column = column["corners"]
        if not hasattr(column, "__len__") or np.shape(column)[:1] == ():
            raise UsageError(f"split {self.split!r} is arrays by field, of which one is {type(column).__name__}")
        return len(column)

    def __len__(self) -> int:
        """Return the number of examples."""
        return self._length(next(iter(self.columns.values())))

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """Return one example."""
        return {
            name: {part: values[index] for part, values in column.items()}
            if isinstance(column, Mapping)
            else column[index]
            for name, column in self.columns.items()
        }

    @property
    def features(self) -> Mapping[str, Any]:
        """See `Raw`."""
        return {}

    def all_of(self, name: str) -> Iterator[Any]:
        """See `Raw`."""
        column = self.columns[name]
        if hasattr(column, "__array__"):
            yield column
        else:
            yield from (self[index][name] for index in range(len(self)))

    def arrays(self, names: Iterable[str]) -> bool:
        """Return whether these are arrays."""
        return all(hasattr(self.columns[name], "__array__") for name in names)


@dataclass(frozen=True)
class Items:
    """Examples by number."""

    split: str
    items: Any

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.items)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        """Return one example by field."""
        item = self.items[index]
        if hasattr(item, "_asdict"):
            item = item._asdict()
        if isinstance(item, tuple | list) and len(item) == 2:
            return {"image": item[0], "label": item[1]}
        if isinstance(item, Mapping):
            return item
        raise UsageError(
            f"example {index} of split {self.split!r} is {type(item).__name__}: expected a mapping by field, or a pair "
            "(image, label)"
        )

    @property
    def features(self) -> Mapping[str, Any]:
        """See `Raw`."""
        found = getattr(self.items, "features", None)
        return found if isinstance(found, Mapping) else {}

    def all_of(self, name: str) -> Iterator[Any]:
        """See `Raw`."""
        yield from (self[index].get(name) for index in range(len(self)))


@dataclass(frozen=True)
class ObjectRecords:
    """The examples of a split, each brought to its stored form as it is read."""

    raw: Raw
    split: str
    names: Mapping[str, str]
    """What the fields are called there."""
    fields: Fields

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.raw)

    def __getitem__(self, index: int) -> Example:
        """Return one example."""
        given = self.raw[index]
        return {name: self._value(name, self.names[name], field, given) for name, field in self.fields.items()}

    def _value(self, name: str, source: str, field: Field, given: Mapping[str, Any]) -> Any:
        if given.get(source) is None:
            raise BadExample(f"it has no {source}")
        try:
            return stored(field, given[source])
        except (ValueError, TypeError) as error:  # TypeError: NumPy's, for what are no real numbers
            raise BadExample(f"{name} {error}") from error

    def name(self, index: int) -> str:
        """Return the example's number."""
        return f"{self.split} example {index}"

    def fingerprint(self) -> str:
        """Return a SHA-256 over the number of examples and the content of some of them, evenly spread."""
        count = min(len(self), _LOOKED_AT)
        parts: list[str | bytes] = [f"{len(self)} {dict(self.fields)}"]
        for place in range(count):
            try:
                example = self[place * len(self) // count]
            except BadExample as error:
                parts.append(str(error))
                continue
            for name in sorted(example):
                values = example[name].values() if isinstance(example[name], Mapping) else [example[name]]
                parts += [value if isinstance(value, bytes) else np.asarray(value).tobytes() for value in values]
        return digest(parts)


def stored(field: Field, value: Any) -> Any:
    """Return a value from outside as it is stored, see `fields.Example`.

    Raises:
        ValueError: one line: it cannot be of this field.
        BadImage, OSError: a file cannot be read, see `opening.read_file`.
    """
    match field:
        case Image():
            return _image(value, field)
        case Label():
            try:
                return operator.index(value)
            except TypeError:
                raise ValueError(f"{value!r:.40}, expected a whole number") from None
        case ClassMap():
            return _classes(value)
        case Boxes():
            return _boxes(value)
        case Value():
            return np.asarray(value)


def _image(value: Any, field: Image) -> bytes | np.ndarray:
    value = encoded_or_same(value)
    if isinstance(value, bytes):
        return value
    if hasattr(value, "convert"):  # Pillow's
        value = np.asarray(eight_bits(value, "L" if field.channels == 1 else "RGB"))
    return as_images(np.asarray(value), field, batched=False)


def _classes(value: Any) -> bytes | np.ndarray:
    value = encoded_or_same(value)
    if isinstance(value, bytes):
        return value
    classes = np.asarray(value)
    if classes.ndim != 2 or classes.dtype.kind not in "iub":
        raise ValueError(f"is {classes.dtype} of shape {classes.shape}, expected whole numbers [height, width]")
    return classes


def _boxes(value: Any) -> dict[str, np.ndarray]:
    if not isinstance(value, Mapping) or not {"corners", "label"} <= set(value):
        raise ValueError('is no boxes: expected {"corners": [k, 4], "label": [k]}')
    corners, labels = np.asarray(value["corners"], float).reshape(-1, 4), np.asarray(value["label"])
    if labels.size and labels.dtype.kind not in "iu":
        raise ValueError(f"has labels of {labels.dtype}, expected whole numbers")
    kept = np.asarray(value.get("mask", np.ones(len(corners), bool)), bool)
    return {"corners": corners[kept], "label": labels.astype(np.int64)[kept]}
