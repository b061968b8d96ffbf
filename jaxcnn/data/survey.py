"""What a data set holds: sizes, classes, shapes, kinds of files, mean and deviation, and what cannot be used."""

import operator
import threading
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, UInt8

from jaxcnn.data.bad import Bad
from jaxcnn.data.config import DataConfig
from jaxcnn.data.decode import decoded
from jaxcnn.data.fields import Example, labelled_image
from jaxcnn.data.framing import Fit
from jaxcnn.data.reading import labelled
from jaxcnn.data.sources import open_store
from jaxcnn.data.stores.records import Records, Store
from jaxcnn.data.threads import in_order
from jaxcnn.errors import BadExample, UsageError
from jaxcnn.images.pixels import kind_of

Progress = Callable[[str, int, int], None]
"""Told what is done, how many images of it are, and how many there are."""

# Examples that a thread reads at a stretch.
_CHUNK = 64
_FILES = (".tar", ".npz", ".tgz", ".gz")


def named(name: str, tfds_dir: Path | None = None) -> DataConfig:
    """Return where a data set is read from.

    Args:
        name: digits; a path of a folder of images, a .npz file, a tar file, a folder of them or a cache; else the name
            of a TFDS data set.
        tfds_dir: TFDS's data folder; given, `name` is TFDS's.

    Raises:
        UsageError: there is no such path.
    """
    path = Path(name).expanduser()
    if tfds_dir is not None:
        if not tfds_dir.expanduser().is_dir():
            raise UsageError(f"{tfds_dir}: no such folder, expected TFDS's data folder")
        return DataConfig(source="tfds", name=name, path=tfds_dir)
    if name == "digits":
        return DataConfig(source="digits")
    if path.is_file():
        return DataConfig(source="npz" if path.suffix == ".npz" or zipfile.is_zipfile(path) else "tar", path=path)
    if path.is_dir():
        if (path / "dataset_info.json").is_file():
            raise UsageError(f"{path} is a prepared TFDS data set: give its name, such as mnist, and the data folder")
        if (path / "cache.json").is_file():
            return DataConfig(source="cache", path=path)
        return DataConfig(source="tar" if next(path.glob("*.tar"), None) else "folder", path=path)
    if name.startswith(("/", ".", "~")) or path.suffix in _FILES:
        raise UsageError(f"{name}: no such file or folder")
    return DataConfig(source="tfds", name=name)


def opened(config: DataConfig, poll: Callable[[], None] = lambda: None) -> Store:
    """Return a data set of `named`, whatever its splits are called; TFDS may download it first.

    Raises:
        UsageError: it cannot be opened.
    """
    try:
        return open_store(config, poll=poll)
    except UsageError as error:
        if config.path is None and str(error).startswith("unknown TFDS data set"):
            raise UsageError(f"there is no file or folder {config.name!r}, and {error}") from error
        raise


@dataclass(frozen=True)
class Spread:
    """Of a number of lengths in pixels."""

    min: int
    median: float
    max: int


@dataclass(frozen=True)
class Survey:
    """What one split holds; all but `examples` and `bad` is of the examples that can be used."""

    examples: int
    """All of them, bad ones too."""
    bad: list[Bad]
    class_counts: list[int]
    """Examples of each class."""
    height: Spread | None
    """Of the images as they are stored; None: there are none."""
    width: Spread | None
    formats: dict[str, int]
    """How many are JPEG, PNG, ...; pixels: stored as such."""
    modes: dict[str, int]
    """How many are RGB, L (grey), CMYK, ..., in Pillow's words."""
    mean: list[float]
    """Of each channel, for pixels in 0..1; []: no pixel."""
    std: list[float]


def survey(
    store: Store,
    split: str,
    config: DataConfig,
    poll: Callable[[], None] = lambda: None,
    progress: Progress = lambda what, done, total: None,
) -> Survey:
    """Read and decode a whole split, by threads.

    Mean and deviation come from sums of whole numbers, so they are exact, and those that training measures at the same
    `image_size`.

    Args:
        store: of `opened`.
        split: its name.
        config: `image_size`, `resize` and `resize_to` say which pixels are counted (None: the stored ones), `threads`
            how many threads read.
        poll: called for each image; what it raises ends the work.
        progress: told how far it is, now and then.

    Raises:
        UsageError: the data set is not one of labelled images.
    """
    image, label = labelled_image(store.fields, "a survey")
    records, fit = store.records(split), Fit.of(config)
    classes, total = len(label.class_names), len(records)
    found = _Tally()

    def read(start: int) -> _Tally:
        tally = _Tally()
        for index in range(start, min(start + _CHUNK, total)):
            poll()
            _read(records, index, classes, image.channels, fit, tally)
        return tally

    starts = range(0, total, _CHUNK)
    with closing(in_order(read, starts, config.threads)) as tallies:
        for start, tally in zip(starts, tallies, strict=True):
            found.add(tally)
            progress(split, min(start + _CHUNK, total), total)
    mean, std = found.moments()
    return Survey(
        examples=len(records),
        bad=found.bad,
        class_counts=np.bincount(found.labels, minlength=classes).tolist() if found.labels else [],
        height=_spread(found.heights),
        width=_spread(found.widths),
        formats=dict(found.formats.most_common()),
        modes=dict(found.modes.most_common()),
        mean=mean.tolist(),
        std=std.tolist(),
    )


@dataclass
class _Tally:
    """Of some images."""

    bad: list[Bad] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    heights: list[int] = field(default_factory=list)
    widths: list[int] = field(default_factory=list)
    formats: Counter[str] = field(default_factory=Counter)
    modes: Counter[str] = field(default_factory=Counter)
    total: Any = 0
    """Of the values of each channel, int64 [channels]; 0 before the first image."""
    squares: Any = 0
    """Of their squares."""
    pixels: int = 0

    def add(self, other: "_Tally") -> None:
        """Take in those of another one."""
        for name, value in vars(other).items():
            setattr(self, name, operator.iadd(getattr(self, name), value))

    def count(self, pixels: UInt8[np.ndarray, "h w channels"]) -> None:
        """Add up the pixels of one image."""
        height, width, channels = pixels.shape
        rows = pixels.reshape(height, width * channels)
        squares = np.multiply(rows, rows, dtype=np.uint16)
        sums = (values.sum(0, dtype=np.int64).reshape(width, channels).sum(0) for values in (rows, squares))
        self.total, self.squares = (old + new for old, new in zip((self.total, self.squares), sums, strict=True))
        self.pixels += height * width

    def moments(self) -> tuple[Float64[np.ndarray, " channels"], Float64[np.ndarray, " channels"]]:
        """Return mean and standard deviation of each channel."""
        if not self.pixels:
            return np.zeros(0), np.zeros(0)
        mean = self.total / self.pixels
        return mean / 255, np.sqrt(self.squares / self.pixels - mean**2) / 255


def _read(records: Records, index: int, classes: int, channels: int, fit: Fit, tally: _Tally) -> None:
    try:
        image, label = labelled(records, index, classes)
        pixels = decoded(image, channels)
    except BadExample as error:
        tally.bad.append(Bad(records.name(index), str(error)))
        return
    file, mode = _kind(image)
    tally.labels.append(label)
    tally.heights.append(pixels.shape[0])
    tally.widths.append(pixels.shape[1])
    tally.formats[file] += 1
    tally.modes[mode] += 1
    tally.count(fit.pixels(pixels))


def _kind(image: bytes | UInt8[np.ndarray, "h w c"]) -> tuple[str, str]:
    """Return the format and the mode, in Pillow's words, of an image that was decoded."""
    if not isinstance(image, bytes):
        return "pixels", {1: "L", 3: "RGB"}.get(image.shape[2], f"{image.shape[2]} channels")
    return kind_of(image)


def _spread(lengths: Sequence[int]) -> Spread | None:
    return Spread(min(lengths), float(np.median(lengths)), max(lengths)) if lengths else None


@dataclass
class Weighed:
    """The records of a split, whose images are weighed as they are read."""

    records: Records
    bytes: int = 0
    """Of the images that were read, as they are stored."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.records)

    def __getitem__(self, index: int) -> Example:
        """Return one example."""
        example = self.records[index]
        image = example["image"]
        with self._lock:
            self.bytes += len(image) if isinstance(image, bytes) else image.nbytes
        return example

    def name(self, index: int) -> str:
        """Return what to call the example in a message."""
        return self.records.name(index)

    def fingerprint(self) -> str:
        """Return that of the records."""
        return self.records.fingerprint()


def weighed(store: Store) -> tuple[Store, dict[str, Weighed]]:
    """Return a store that weighs what is read, and its splits."""
    splits = {split: Weighed(store.records(split)) for split in store.sizes}
    return replace(store, records=splits.__getitem__), splits
