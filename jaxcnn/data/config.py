"""What to train on, and how images become the network's input."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """A data set, its splits, and the path from stored pixels to the network's input."""

    source: Literal["tfds", "digits", "npz", "folder"]
    """tfds: TensorFlow Datasets by name; digits: the 1,797 handwritten digits that scikit-learn carries (a
    fixed random fifth is the split test); npz: arrays train_images, train_labels, test_images, test_labels;
    folder: SPLIT/CLASS/image files, or CLASS/image files as one split named train."""
    name: str = ""
    """Name of a TFDS data set, for example mnist, cifar10 or imagenette/full-size-v2."""
    path: Path | None = None
    """TFDS data folder (default: TFDS's own), .npz file, or folder of images."""
    train_split: str = "train"
    """Examples to train on, in TFDS's slicing syntax for every source: train, train[:45000], train[:90%],
    train+validation."""
    val_split: str | None = None
    """Examples to choose by while training; none by default."""
    test_split: str = "test"
    """Examples of the final score."""
    image_size: int | None = None
    """Side in pixels of the network's square input; by default images keep their size."""
    resize: Literal["bilinear", "bicubic", "pad"] = "bilinear"
    """How images come to image_size: scaled by the short side, then cropped at the centre; or unscaled with a
    border of zeros (pad)."""
    pad_crop: int = 0
    """While training: pixels of padding on each side before a random crop to the image's size; 0: off."""
    pad_mode: Literal["zero", "reflect"] = "zero"
    """What the padding holds: black, or the image reflected at its edge."""
    flip: bool = False
    """While training: mirror half of the images left to right, at random."""
    mean: tuple[float, ...] | None = None
    """Subtracted from each channel, for pixels in 0..1; by default measured on the training images."""
    std: tuple[float, ...] | None = None
    """Divides each channel after that; by default measured on the training images."""
    per_pixel_mean: bool = False
    """Subtract the training images' mean at each pixel in place of a mean for each channel."""
    download: bool = True
    """Let TFDS download and prepare a data set that is not in its folder yet."""
