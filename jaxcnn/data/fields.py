"""What an example holds: named fields, each of a kind that says how it is read, cut, moved and put into batches.

    fields = {"image": Image(channels=3), "label": Label(class_names=("cat", "dog"))}

A batch is a mapping from the same names to arrays with the examples first (of boxes, to a mapping of such arrays), and
`mask`, bool [batch]: False for what fills the batch up or cannot be used, which counts nowhere.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Image:
    """Pixels. In a batch: uint8 [batch, height, width, channels], or float32 where they were given as such."""

    channels: int = 3


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
    """An object of which a move of the image leaves less than this share, by area, holds no longer; 0 to 1."""


@dataclass(frozen=True)
class Value:
    """Numbers that no change of the image moves. In a batch: [batch, *shape], of this dtype."""

    shape: tuple[int, ...] = ()
    dtype: str = "float32"


Field = Image | Label | ClassMap | Boxes | Value
Fields = Mapping[str, Field]
Batch = Mapping[str, Any]
