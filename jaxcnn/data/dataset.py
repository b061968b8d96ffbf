"""Labelled images, in memory or streamed, and the numbers that normalise them."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from jaxtyping import Bool, Float32, Int, Int32, UInt8

from jaxcnn.data.bad import Bad
from jaxcnn.data.config import DataConfig
from jaxcnn.errors import UsageError

Batch = dict[str, np.ndarray]
"""image uint8 [rows, height, width, channels], label int32 [rows], mask bool [rows]: False for what does not count."""


class Examples(Protocol):
    """A split, whether its images are in memory (`Split`) or read when they are needed (`streaming.Reader`)."""

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width, channels."""

    @property
    def bad(self) -> Sequence[Bad]:
        """The examples that cannot be used, as far as they are known."""

    def __len__(self) -> int:
        """Return the number of examples, bad ones among them."""

    def batches(self, indices: Sequence[Int[np.ndarray, " rows"]]) -> Iterator[Batch]:
        """Yield the examples of each of some lists of indices; bad ones are black, of class 0 and masked."""

    def fingerprint(self) -> str:
        """Return a SHA-256 that tells this split from another."""


@dataclass(frozen=True)
class Split:
    """A number of labelled images of one size."""

    images: UInt8[np.ndarray, "n height width channels"]
    labels: Int32[np.ndarray, " n"]
    unusable: Mapping[int, Bad] = field(default_factory=dict)
    """The examples that could not be read, by their indices: black, of class 0."""

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)

    def __getitem__(self, part: slice) -> "Split":
        """Return consecutive examples."""
        indices = range(len(self))[part]
        unusable = {index - indices.start: bad for index, bad in self.unusable.items() if index in indices}
        return Split(self.images[part], self.labels[part], unusable)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Height, width, channels."""
        return self.images.shape[1:]

    @property
    def shapes(self):
        import jax

        return {
            "image": jax.ShapeDtypeStruct(self.images.shape[1:], self.images.dtype),
            "label": jax.ShapeDtypeStruct((), np.int32),
        }

    @property
    def bad(self) -> Sequence[Bad]:
        """The examples that cannot be used."""
        return [self.unusable[index] for index in sorted(self.unusable)]

    @property
    def usable(self) -> Bool[np.ndarray, " n"]:
        """Which examples can be used."""
        usable = np.ones(len(self), bool)
        usable[list(self.unusable)] = False
        return usable

    def batches(self, indices: Sequence[Int[np.ndarray, " rows"]]) -> Iterator[Batch]:
        """Yield the examples of each of some lists of indices; see `Examples`."""
        usable = self.usable
        for rows in indices:
            yield {"image": self.images[rows], "label": self.labels[rows], "mask": usable[rows]}

    def fingerprint(self) -> str:
        """Return the SHA-256 of images and labels."""
        digest = hashlib.sha256()
        for array in (self.images, self.labels):
            digest.update(np.ascontiguousarray(array))
        return digest.hexdigest()


def concatenate(parts: Sequence[Split]) -> Split:
    """Return the examples of several splits, one after the other."""
    if len(parts) == 1:
        return parts[0]
    starts = np.cumsum([0, *map(len, parts)]).tolist()
    unusable = {
        start + index: bad for start, part in zip(starts, parts, strict=False) for index, bad in part.unusable.items()
    }
    images, labels = (np.concatenate([getattr(part, name) for part in parts]) for name in ("images", "labels"))
    return Split(images, labels, unusable)


@dataclass(frozen=True)
class Dataset:
    """The splits of one data set; labels index `class_names`."""

    train: Examples
    val: Examples | None
    test: Examples
    class_names: tuple[str, ...]
    note: str = ""
    """What a reader of its scores must know, such as that a split is only a part."""
    fields: Any = None
    norms: Any = None
    streamed: bool = False
    ignored: tuple = ()
    augment: tuple = ()
    last_batch: str = "continue"
    config: Any = None

    @property
    def shapes(self):
        return self.train.shapes

    @property
    def sizes(self):
        return {n: len(s) for n, s in self.splits().items()}

    def split(self, name):
        from jaxcnn.errors import unknown

        if name not in self.splits():
            raise unknown("split", name, self.splits())
        return self.splits()[name]

    def describe(self):
        from jaxcnn.data.description import Description

        return Description(
            self.fields, self.shapes, self.sizes, self.norms, self.streamed, self.augment, self.last_batch
        )

    def splits(self) -> dict[str, Examples]:
        """Return the splits there are, by their purpose."""
        found = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in found.items() if split is not None}


def eval_batches(split: Examples, batch_size: int) -> Iterator[Batch]:
    """Yield the examples of `split` in order, each once, in batches of one size on the host.

    The last batch is filled up with zeros where `mask` is False.
    """
    starts = range(0, len(split), batch_size)
    indices = [np.arange(start, min(start + batch_size, len(split))) for start in starts]
    for batch in split.batches(indices):
        fill = batch_size - len(batch["label"])
        yield {name: np.pad(array, ((0, fill), *[(0, 0)] * (array.ndim - 1))) for name, array in batch.items()}


def check_split(images: np.ndarray, labels: np.ndarray, what: str) -> Split:
    """Return the arrays as a Split.

    Args:
        images: whole numbers in 0..255, [n, height, width, channels] or [n, height, width] for one channel.
        labels: whole numbers from 0, [n].
        what: where they came from, for the error.

    Raises:
        UsageError: naming what is wrong, where an array has another rank, length, type or range.
    """
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or 0 in images.shape:
        raise UsageError(f"{what}: images have shape {images.shape}, expected [n, height, width, channels]")
    if images.shape[1] in (1, 3) and images.shape[-1] not in (1, 3, 4):
        raise UsageError(f"{what}: images have shape {images.shape}: expected the channels last, not first")
    if images.dtype != np.uint8:
        _check_range(images, what)
        images = images.astype(np.uint8)
    if labels.ndim != 1 or len(labels) != len(images):
        raise UsageError(f"{what}: labels have shape {labels.shape} for {len(images)} images")
    if labels.dtype.kind not in "iu":
        raise UsageError(f"{what}: labels are {labels.dtype}, expected whole numbers from 0")
    if labels.min() < 0:
        raise UsageError(f"{what}: label {labels.min()} found, expected numbers from 0 (is the split unlabelled?)")
    return Split(images, labels.astype(np.int32))


def _check_range(images: np.ndarray, what: str) -> None:
    if images.dtype.kind not in "iuf":
        raise UsageError(f"{what}: images are {images.dtype}, expected uint8")
    low, high = images.min(), images.max()
    if not np.isfinite([low, high]).all():
        raise UsageError(f"{what}: images hold NaN or infinity")
    if low < 0 or high > 255:
        raise UsageError(f"{what}: images hold values from {low:g} to {high:g}, expected 0 to 255")
    if images.dtype.kind == "f":
        advice = "; multiply by 255 and round" if high <= 1 else ""
        raise UsageError(f"{what}: images are {images.dtype} from {low:g} to {high:g}, expected uint8{advice}")


def normalisation(
    config: DataConfig, split: Examples, poll: Callable[[], None] = lambda: None
) -> tuple[Float32[np.ndarray, "..."], Float32[np.ndarray, " channels"]]:
    """Return the mean and standard deviation to normalise by, for pixels in 0..1.

    What `config` does not give is measured on `split`, the training images, by sums of whole numbers: the
    order of the images and the machine make no difference. `poll` is called now and then; what it raises ends the
    work.

    Returns:
        mean: [channels], or [height, width, channels] with `per_pixel_mean`.
        std: [channels].
    """
    height, width, channels = split.image_shape
    for name, given in (("mean", config.mean), ("std", config.std)):
        if given is not None and len(given) != channels:
            raise UsageError(f"data.{name} has {len(given)} numbers, the images have {channels} channels")
    if config.per_pixel_mean and config.mean is not None:
        raise UsageError("data.per_pixel_mean measures the mean: give it or data.mean, not both")
    mean = None if config.mean is None else np.array(config.mean)
    std = None if config.std is None else np.array(config.std)
    if mean is None or std is None:
        total, squares, images = _sums(split, poll)
        count = images * height * width
        channel_mean = total.sum((0, 1)) / count
        if mean is None:
            mean = (total / images if config.per_pixel_mean else channel_mean) / 255
        if std is None:
            std = np.sqrt(squares / count - channel_mean**2) / 255
    if not (std > 0).all():
        raise UsageError(f"data.std is {std.tolist()}: a channel has one value only, or std was given as 0")
    return mean.astype(np.float32), std.astype(np.float32)


def _sums(split: Examples, poll: Callable[[], None]) -> tuple[np.ndarray, np.ndarray, int]:
    """Return the sum of values at each pixel, the sum of squares of each channel, both exact, and the usable images."""
    total, squares = (np.zeros(split.image_shape, np.int64) for _ in range(2))
    count = 0
    for batch in eval_batches(split, 250):  # at most 66,000, for uint32: 255 * 255 * 66,000 < 2**32
        poll()
        chunk = batch["image"].astype(np.uint32)  # black where it does not count
        total += chunk.sum(0, dtype=np.uint32)
        squares += np.multiply(chunk, chunk, out=chunk).sum(0, dtype=np.uint32)
        count += int(batch["mask"].sum())
    return total, squares.sum((0, 1)), count
