"""From stored examples to rows of batches: read, checked, decoded, moved; what cannot be used is noted and left out."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxcnn.data.bad import BadExamples, none_usable
from jaxcnn.data.casting import cast
from jaxcnn.data.decode import decoded
from jaxcnn.data.fields import Batch, Boxes, ClassMap, Example, Fields, Image, Label, Value, frame_of, shapes_of
from jaxcnn.data.framing import Cut, Framing, Move, Size
from jaxcnn.data.stores.records import Records
from jaxcnn.errors import BadExample, UsageError
from jaxcnn.images.pixels import decode_classes, image_size

# By how much of a pixel a box may reach outside: corners are often products of shares and sizes.
_SLACK = 0.01


class Reading:
    """How the examples of one split become rows of batches. Any number of threads may read at once."""

    def __init__(self, records: Records, fields: Fields, framing: Framing, bad: BadExamples) -> None:
        """Note where examples come from.

        Args:
            records: the examples.
            fields: what they hold.
            framing: how images come to their size.
            bad: is told of the examples that cannot be used.
        """
        self._records, self._fields, self._framing, self._bad = records, fields, framing, bad
        self._frame = frame_of(fields)
        self._labels = [(name, len(kind.class_names)) for name, kind in fields.items() if isinstance(kind, Label)]
        self._images = [(name, kind) for name, kind in fields.items() if isinstance(kind, Image)]
        self._maps = [(name, kind) for name, kind in fields.items() if isinstance(kind, ClassMap)]
        self._boxes = [(name, kind) for name, kind in fields.items() if isinstance(kind, Boxes)]
        self._values = [(name, kind) for name, kind in fields.items() if isinstance(kind, Value)]
        # Where nothing else is to be moved alike, a fit finds its way by itself.
        alike = len(self._images) > 1 or self._maps or self._boxes
        self._moves = self._frame is not None and bool(alike or isinstance(framing, Cut))

    def fill(self, batch: Batch, start: int, indices: Sequence[int], positions: Sequence[int]) -> None:
        """Put examples into the rows of a batch from `start` on; `mask` says which can be used, all others are zero.

        All are read, checked and placed before the first is decoded: decoding leaves nothing of other code in the
        processor's caches, so what is done between two images takes four times as long.

        Args:
            batch: arrays as `fields.shapes_of` describes them, and `mask`.
            start: the first row.
            indices: of the examples.
            positions: of the examples in the stream.

        Raises:
            RunError: more examples are bad than allowed.
            UsageError: the framing cannot be of such an image.
        """
        opened = []
        for row, (index, position) in enumerate(zip(indices, positions, strict=True), start):
            try:
                opened.append((row, index, *self._open(index, position, batch, row)))
                batch["mask"][row] = True
            except (BadExample, UsageError) as error:
                self._pass_over(index, error, batch, row)
        images = [(name, batch[name]) for name, _ in self._images]
        for row, index, example, move in opened:
            try:
                for name, out in images:
                    self._framing.draw(example[name], move, out[row])
                for name, kind in self._maps:
                    _put_classes(name, kind, example[name], move, batch[name], row)
            except (BadExample, UsageError) as error:
                self._pass_over(index, error, batch, row)

    def shapes(self) -> dict[str, Any]:
        """Return shape and type of each field of one example, see `fields.shapes_of`.

        Raises:
            UsageError: images are to stay as they are, and no example can be used.
        """
        if self._framing.size is not None:
            names = [name for name, kind in self._fields.items() if isinstance(kind, Image | ClassMap)]
            return shapes_of(self._fields, dict.fromkeys(names, self._framing.size))
        for index in range(len(self._records)):
            try:
                return shapes_of(self._fields, self._sizes(index))
            except BadExample as error:
                self._note(index, error)
        raise none_usable(len(self._records), self._bad.in_order())

    def _open(self, index: int, position: int, batch: Batch, row: int) -> tuple[Example, Move | None]:
        """Read one example and put in all but its pictures; return it, and how these are to be moved."""
        example, move = self._records[index], None
        for name, classes in self._labels:
            label = example[name]
            check_label(name, label, classes)
            batch[name][row] = label
        for name, kind in self._images:
            _check_image(name, kind, example[name])
        if self._moves:
            move = self._framing.move(image_size(example[self._frame or ""]), position)
            for name, _ in self._images[1:] if self._framing.size is not None else ():
                _check_size(name, image_size(example[name]), move)
        for name, one in self._boxes:
            _put_boxes(name, one, example[name], move, batch[name], row)
        for name, value in self._values:
            _put_value(name, value, example[name], batch[name], row)
        return example, move

    def _pass_over(self, index: int, error: Exception, batch: Batch, row: int) -> None:
        """Note an example that cannot be used, and set its row to zero."""
        self._note(index, error)
        _clear({name: batch[name] for name in (*self._fields, "mask")}, row)

    def _note(self, index: int, error: Exception) -> None:
        name = self._records.name(index)
        if isinstance(error, UsageError):  # this one does not go with the others, or with the configuration
            raise UsageError(f"{name}: {error}") from error
        self._bad.add(index, name, str(error))

    def _sizes(self, index: int) -> dict[str, Size]:
        """Return height and width of images and class maps of one example as they are stored."""
        example = self._records[index]
        for name, classes in self._labels:
            check_label(name, example[name], classes)
        found: dict[str, Size] = {}
        for name, kind in self._images:
            _check_image(name, kind, example[name])
            height, width, _ = decoded(example[name], kind.channels).shape
            found[name] = height, width
        if self._frame is not None:
            size = found.get(self._frame) or image_size(example[self._frame])
            found |= {name: size for name, _ in self._maps}
        return found


def labelled(records: Records, index: int, classes: int) -> tuple[bytes | np.ndarray, int]:
    """Return image and label of one example.

    Raises:
        BadExample: it cannot be read, or its label is no class.
    """
    example = records[index]
    check_label("label", example["label"], classes)
    return example["image"], example["label"]


def check_label(name: str, label: int, classes: int) -> None:
    """Raise BadExample for a label that is no class."""
    if not 0 <= label < classes:
        unlabelled = " (is the split unlabelled?)" if label < 0 else ""
        raise BadExample(f"{name} {label}, expected 0 to {classes - 1}{unlabelled}")


def _check_image(name: str, kind: Image, image: bytes | np.ndarray) -> None:
    if not isinstance(image, bytes) and (image.shape[-1] != kind.channels or image.dtype != kind.dtype):
        raise BadExample(
            f"{name} is {image.dtype} with {image.shape[-1]} channels, expected {kind.dtype} with {kind.channels}"
        )
    if isinstance(image, bytes) and kind.dtype != "uint8":
        raise BadExample(f"{name} is an encoded file, expected pixels of {kind.dtype}")


def _check_size(name: str, size: tuple[int, ...], move: Move) -> None:
    if size != move.stored:
        here, there = (f"{height}x{width}" for height, width in (size, move.stored))
        raise BadExample(f"{name} is {here}, expected {there} as the image is")


def _put_classes(name: str, kind: ClassMap, stored: Any, move: Move | None, out: np.ndarray, row: int) -> None:
    assert move is not None
    classes = decode_classes(stored) if isinstance(stored, bytes) else np.asarray(stored)
    _check_size(name, classes.shape, move)
    given = classes[classes != kind.ignored]
    if given.size and not 0 <= given.min() <= given.max() < len(kind.class_names):
        wrong = given.min() if given.min() < 0 else given.max()
        raise BadExample(f"{name} holds {wrong}, expected 0 to {len(kind.class_names) - 1}, or {kind.ignored}")
    out[row] = move.classes(classes.astype(out.dtype, copy=False), kind.ignored)


def _put_boxes(name: str, kind: Boxes, stored: Any, move: Move | None, out: dict[str, np.ndarray], row: int) -> None:
    corners, labels = np.asarray(stored["corners"], np.float64), np.asarray(stored["label"])
    check_boxes(name, kind, corners, labels, None if move is None else move.stored)
    if move is not None:
        moved = move.corners(corners)
        corners = np.clip(moved, 0, np.array([move.size[1], move.size[0]] * 2))
        area, seen = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (moved, corners))
        kept = (seen > 0) & (seen >= kind.least_share * area)
        corners, labels = corners[kept], labels[kept]
    for part, values in (("corners", corners), ("label", labels), ("mask", True)):
        out[part][row, : len(corners)], out[part][row, len(corners) :] = values, 0


def check_boxes(name: str, kind: Boxes, corners: np.ndarray, labels: np.ndarray, size: Size | None) -> None:
    """Raise BadExample for boxes that cannot be in an image of this size, naming the first and what is wrong."""
    if corners.ndim != 2 or corners.shape[1] != 4 or labels.shape != corners.shape[:1]:
        raise BadExample(f"{name}: corners {corners.shape} and label {labels.shape}, expected [k, 4] and [k]")
    if len(corners) > kind.most:
        raise BadExample(f"{name}: {len(corners)} boxes, expected at most {kind.most}")
    height, width = size or (np.inf, np.inf)
    low, high = corners[:, :2], corners[:, 2:]
    edge = np.array([width, height]) + _SLACK
    wrong = {
        "is not finite": ~np.isfinite(corners).all(1),
        "is inverted": (low > high).any(1),
        "is empty": (low == high).any(1),
        f"reaches outside of {height}x{width}": (low < -_SLACK).any(1) | (high > edge).any(1),
        f"is of no class: expected 0 to {len(kind.class_names) - 1}": (labels < 0) | (labels >= len(kind.class_names)),
    }
    for what, which in wrong.items():
        if which.any():
            at = int(which.argmax())
            raise BadExample(f"{name}: box {at}, {corners[at].tolist()} of label {labels[at]}, {what}")


def _put_value(name: str, kind: Value, stored: Any, out: np.ndarray, row: int) -> None:
    value = np.asarray(stored)
    if value.shape != kind.shape:
        raise BadExample(f"{name} has shape {value.shape}, expected {kind.shape}")
    try:
        out[row] = cast(value, kind.dtype)
    except ValueError as error:
        raise BadExample(f"{name} {error}") from error


def _clear(batch: Any, row: int) -> None:
    """Set a row to zero."""
    for values in batch.values():
        if isinstance(values, dict):
            _clear(values, row)
        else:
            values[row] = 0
