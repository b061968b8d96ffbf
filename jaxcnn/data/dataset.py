"""Images and labels on the host, and the numbers that normalise them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int32, UInt8

from jaxcnn.data.config import DataConfig
from jaxcnn.errors import UsageError


@dataclass(frozen=True)
class Split:
    """A number of labelled images of one size."""

    images: UInt8[np.ndarray, "n height width channels"]
    labels: Int32[np.ndarray, " n"]

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """The splits of one data set; labels index `class_names`."""

    train: Split
    val: Split | None
    test: Split
    class_names: tuple[str, ...]
    note: str = ""
    """What a reader of its scores must know, such as that a split is only a part."""

    def splits(self) -> dict[str, Split]:
        """Return the splits there are, by their purpose."""
        found = {"train": self.train, "val": self.val, "test": self.test}
        return {name: split for name, split in found.items() if split is not None}


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
    config: DataConfig, images: UInt8[np.ndarray, "n height width channels"]
) -> tuple[Float32[np.ndarray, "..."], Float32[np.ndarray, " channels"]]:
    """Return the mean and standard deviation to normalise by, for pixels in 0..1.

    What `config` does not give is measured on `images`, the training images, by sums of whole numbers: the
    order of the images and the machine make no difference.

    Returns:
        mean: [channels], or [height, width, channels] with `per_pixel_mean`.
        std: [channels].
    """
    channels = images.shape[-1]
    for field, given in (("mean", config.mean), ("std", config.std)):
        if given is not None and len(given) != channels:
            raise UsageError(f"data.{field} has {len(given)} numbers, the images have {channels} channels")
    if config.per_pixel_mean and config.mean is not None:
        raise UsageError("data.per_pixel_mean measures the mean: give it or data.mean, not both")
    mean = None if config.mean is None else np.array(config.mean)
    std = None if config.std is None else np.array(config.std)
    if mean is None or std is None:
        total, squares = _sums(images)
        count = len(images) * images.shape[1] * images.shape[2]
        channel_mean = total.sum((0, 1)) / count
        if mean is None:
            mean = (total / len(images) if config.per_pixel_mean else channel_mean) / 255
        if std is None:
            std = np.sqrt(squares / count - channel_mean**2) / 255
    if not (std > 0).all():
        raise UsageError(f"data.std is {std.tolist()}: a channel has one value only, or std was given as 0")
    return mean.astype(np.float32), std.astype(np.float32)


def _sums(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the sum of values at each pixel, and the sum of squares of each channel, both exact."""
    total = np.zeros(images.shape[1:], np.int64)
    squares = np.zeros(images.shape[1:], np.int64)
    for start in range(0, len(images), 1000):  # few enough for uint32: 255 * 255 * 1000 < 2**32
        chunk = images[start : start + 1000].astype(np.uint32)
        total += chunk.sum(0, dtype=np.uint32)
        squares += np.multiply(chunk, chunk, out=chunk).sum(0, dtype=np.uint32)
    return total, squares.sum((0, 1))
