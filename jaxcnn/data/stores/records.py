"""Stored examples, read one by one in any order: what folders, tar files, TFDS, caches and objects have in common."""

import bisect
import hashlib
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import jax

from jaxcnn.data.examples import Split, described
from jaxcnn.data.fields import Example, Fields, class_names_of
from jaxcnn.errors import UsageError

# Files of other kinds lie about in folders of images: Thumbs.db, notes, lists of checksums.
_IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm")
# The split to train on, by its name.
_TRAIN = re.compile(r"(?<![a-z])train(ing|val)?(?![a-z])")


class Records(Protocol):
    """The examples of one split. Any number of threads may read at once."""

    def __len__(self) -> int:
        """Return the number of examples."""

    def __getitem__(self, index: int) -> Example:
        """Return one example, with all fields of its store; whoever reads checks that there is such a class.

        Raises:
            BadExample: it cannot be read. Whether bytes are an image, only decoding them tells.
        """

    def name(self, index: int) -> str:
        """Return what to call the example in a message: its file, for instance."""

    def fingerprint(self) -> str:
        """Return a SHA-256 over names, sizes and labels, the same wherever the files lie."""


@dataclass(frozen=True)
class Store:
    """A data set as it is stored."""

    fields: Fields
    """What its examples hold."""
    sizes: dict[str, int]
    """Examples in each split."""
    records: Callable[[str], Records]
    """Opens a split."""
    in_memory: bool = False
    """Whether the examples are arrays of one size in memory already."""
    decoded: Callable[[str, Callable[[], Split]], Split] | None = None
    """Given a split and what decodes all of it: returns the result, from where it was kept if it was decoded before."""
    ignored: tuple[str, ...] = ()
    """Files that are not examples, by name."""
    note: str = ""
    """What a reader of its scores must know."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    """Where a cache came from, and how it was made."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """The classes of the first field that has some."""
        return class_names_of(self.fields)


@dataclass(frozen=True)
class ArrayRecords:
    """Examples in memory."""

    arrays: Mapping[str, Any]
    """Each field as it is in a batch, with all examples first."""

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(jax.tree.leaves(self.arrays)[0])

    def __getitem__(self, index: int) -> Example:
        """Return one example, whose arrays are views."""
        return {name: _stored(values, index) for name, values in self.arrays.items()}

    def name(self, index: int) -> str:
        """Return the example's number."""
        return f"example {index}"

    def fingerprint(self) -> str:
        """Return a SHA-256 over all values: they are at hand."""
        parts: list[str | bytes] = []
        for header, array in described(self.arrays):
            # Of images the shape, of labels nothing: as it was before there were other fields.
            parts += [header or str(array.shape)] * (bool(header) or array.ndim > 1)
            parts.append(array.tobytes())
        return digest(parts)


def _stored(values: Any, index: int) -> Any:
    if isinstance(values, Mapping):
        return {name: part[index][values["mask"][index]] for name, part in values.items() if name != "mask"}
    return values[index] if values.ndim > 1 else values[index].item()


class Subset:
    """Parts of splits, one after the other."""

    def __init__(self, parts: Sequence[tuple[Records, int, int]]) -> None:
        """Take examples `start` to `stop` (exclusive) of each (records, start, stop)."""
        self._parts = list(parts)
        self._ends = list(itertools.accumulate(stop - start for _, start, stop in self._parts))

    def __len__(self) -> int:
        """Return the number of examples."""
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> Example:
        """Return one example."""
        records, place = self._find(index)
        return records[place]

    def name(self, index: int) -> str:
        """Return what to call the example in a message."""
        records, place = self._find(index)
        return records.name(place)

    def fingerprint(self) -> str:
        """Return a SHA-256 over those of the parts, and their bounds."""
        return digest(f"{records.fingerprint()} {start} {stop}" for records, start, stop in self._parts)

    def _find(self, index: int) -> tuple[Records, int]:
        number = bisect.bisect_right(self._ends, index)
        if index < 0 or number == len(self._parts):
            raise IndexError(f"there is no example {index} among {len(self)}")
        records, _, stop = self._parts[number]
        return records, stop - (self._ends[number] - index)


def is_image(name: str) -> bool:
    """Return whether a file of this name is taken for an image."""
    return name.lower().endswith(_IMAGES)


def shown(name: str) -> str:
    """Return a name from outside as it can be printed, drawn and written: bytes that are no UTF-8, and what moves a
    terminal's cursor, become escapes.
    """
    plain = (one if one.isprintable() else one.encode("unicode_escape").decode() for one in name)
    return name if name.isprintable() else "".join(plain)


def check_in_keeping(where: Path, classes: Mapping[str, Collection[str]], meant: Collection[str] = ()) -> None:
    """Raise where a split is none: it shares no class with the one to train on.

    So figures/2024/x.png beside train/ant/0.jpg would add a class 2024. Where no split is called train, or is among
    those that are `meant`, those that share classes are compared with; where none do, as ANIMALS/ant and PLANTS/oak,
    all are splits.

    Raises:
        UsageError: naming the first such split.
    """
    sharing = [one for one in classes if any(set(classes[one]) & set(classes[two]) for two in classes if two != one)]
    expected = [split for split in classes if _TRAIN.search(split.lower())] or list(meant) or sharing
    theirs = {name for split in expected for name in classes[split]}
    for split, names in classes.items():
        if expected and not theirs & set(names):
            raise UsageError(
                f"{where}: {shown(split)!r} holds {_some(names)}, none of which is a class of {shown(expected[0])!r} "
                f"({_some(theirs)}): if it is a split, name its classes alike; if not, move it elsewhere"
            )


def _some(names: Collection[str]) -> str:
    first = ", ".join(shown(name)[:40] for name in sorted(names)[:3])
    return f"{first}, ..." if len(names) > 3 else first


def mixed_order(name: str) -> bytes:
    """Return a key to sort files by, so that a slice of a split has images of all classes, about as many as the whole.

    A file's place among the others does not change with files that come or go.
    """
    return hashlib.sha256(name.encode(errors="surrogateescape")).digest()


def digest(parts: Iterable[str | bytes]) -> str:
    """Return a SHA-256 over `parts`, which tells where one ends and the next begins."""
    found = hashlib.sha256()
    for part in parts:
        raw = part.encode(errors="surrogateescape") if isinstance(part, str) else part
        found.update(len(raw).to_bytes(8, "little") + raw)
    return found.hexdigest()
