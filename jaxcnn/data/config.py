"""What to train on, and how images become the network's input."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jaxcnn.data.augment import Augmentation
from jaxcnn.data.crops import RandomResizedCrop, ScaleJitter
from jaxcnn.data.order import LastBatch
from jaxcnn.typed import Config


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config, at="data"):
    """A data set, its splits, and the path from stored pixels to the network's input."""

    source: Literal["tfds", "digits", "npz", "folder", "tar", "cache"]
    """tfds: TensorFlow Datasets by name; digits: the 1,797 handwritten digits that scikit-learn carries (a
    fixed random fifth is the split test); npz: arrays train_images, train_labels, test_images, test_labels;
    folder: SPLIT/CLASS/image files, or CLASS/image files as one split named train; tar: the same within tar files, or
    pairs KEY.jpg and KEY.cls as WebDataset has them; cache: what `jaxcnn data prepare` wrote."""
    name: str = ""
    """Name of a TFDS data set, for example mnist, cifar10 or imagenette/full-size-v2."""
    path: Path | None = None
    """TFDS data folder (default: TFDS's own), .npz file, folder of images, tar file or folder of them, or cache."""
    pipeline: Literal["auto", "resident", "streaming"] = "auto"
    """resident: images are decoded once and kept on the devices; streaming: they are decoded by threads while the
    network trains. Both give the same batches. auto: streaming where `train_crop` asks for it, or where the images at
    `image_size` would fill more than half of the free memory."""
    threads: int | None = None
    """Threads that decode; None: as many as there are cores, beyond which more only get in each other's way."""
    bad_limit: float = 0.001
    """Fraction of a split's examples that may be unreadable or wrongly labelled: they are counted, named and passed
    over. Beyond it the run stops."""
    last_batch: LastBatch = "continue"
    """Where the training examples do not fill their last batch. continue: it goes on into the next epoch; drop: the
    rest, another in each epoch, is left out; pad: it is filled up with examples that do not count."""
    train_split: str = "train"
    """Examples to train on, in TFDS's slicing syntax for every source: train, train[:45000], train[:90%],
    train+validation."""
    val_split: str | None = None
    """Examples to choose by while training; none by default."""
    test_split: str = "test"
    """Examples of the final score."""
    image_size: int | None = None
    """Side in pixels of the network's square input; by default images keep their size."""
    resize: Literal["nearest", "box", "bilinear", "bicubic", "lanczos", "pad"] = "bilinear"
    """How images come to image_size: scaled by the short side, with antialiasing but for nearest, then cropped at the
    centre; or unscaled with a border of zeros (pad)."""
    resize_to: int | None = None
    """Length that the short side is scaled to before the crop at the centre, such as 256 for an image_size of 224;
    None: image_size."""
    train_crop: RandomResizedCrop | ScaleJitter | None = None
    """While training: the part of the stored image that is cut out at random and scaled to image_size, in place of
    the crop at the centre."""
    augment: tuple[Augmentation, ...] = ()
    """While training: random changes of each batch on the device, in this order, such as PadCrop(pad=4), Flip()."""
    mean: tuple[float, ...] | None = None
    """Subtracted from each channel, for pixels in 0..1; by default measured on the training images."""
    std: tuple[float, ...] | None = None
    """Divides each channel after that; by default measured on the training images."""
    per_pixel_mean: bool = False
    """Subtract the training images' mean at each pixel in place of a mean for each channel."""
    download: bool = True
    """Let TFDS download and prepare a data set that is not in its folder yet."""
