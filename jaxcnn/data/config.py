"""What to train on, and how images become the network's input."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from jaxcnn.data.augment import Augmentation
from jaxcnn.data.crops import ScaleJitter, TrainCrop
from jaxcnn.data.order import LastBatch
from jaxcnn.errors import UsageError
from jaxcnn.parts import Part
from jaxcnn.preprocessing import Interpolation
from jaxcnn.typed import Config, Count, Open, Positive, Probability

SourceName = Literal["tfds", "digits", "npz", "folder", "tar", "cache"]


@dataclass(frozen=True, kw_only=True)
class DataConfig(Config, at="data"):
    """A data set, its splits, and the path from stored pixels to the network's input."""

    source: Annotated[SourceName | Any | None, Open("a data source", "__call__")] = None
    """tfds: TensorFlow Datasets by name; digits: the 1,797 handwritten digits that scikit-learn carries (a
    fixed random fifth is the split test); npz: arrays train_images, train_labels, test_images, test_labels;
    folder: SPLIT/CLASS/image files, or CLASS/image files as one split named train; tar: the same within tar files, or
    pairs KEY.jpg and KEY.cls as WebDataset has them; cache: what `jaxcnn data prepare` wrote; mine.py:load: what your
    own function returns, called with `options`, or an object of yours. None: an object that `load` is given."""
    options: dict[str, Any] = field(default_factory=dict)
    """What a source of your own is called with, as pairs KEY VALUE."""
    name: str = ""
    """Name of a TFDS data set, for example mnist, cifar10 or imagenette/full-size-v2."""
    path: Path | None = None
    """TFDS data folder (default: TFDS's own), .npz file, folder of images, tar file or folder of them, or cache."""
    pipeline: Literal["auto", "resident", "streaming"] = "auto"
    """resident: images are decoded once and kept on the devices; streaming: they are decoded by threads while the
    network trains. Both give the same batches. auto: streaming where `train_crop` asks for it, or where the images at
    `image_size` would fill more than half of the free memory."""
    threads: Count | None = None
    """Threads that decode; None: as many as there are cores, beyond which more only get in each other's way."""
    bad_limit: Probability = 0.001
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
    image_size: Count | None = None
    """Side in pixels of the network's square input; by default images keep their size."""
    resize: Interpolation | Literal["pad"] = "bilinear"
    """How images come to image_size: scaled by the short side, with antialiasing but for nearest, then cropped at the
    centre; or unscaled with a border of zeros (pad)."""
    resize_to: Count | None = None
    """Length that the short side is scaled to before the crop at the centre, such as 256 for an image_size of 224;
    None: image_size."""
    train_crop: Annotated[TrainCrop | Any | None, Open("a crop", "box")] = None
    """While training: the part of the stored image that is cut out at random and scaled to image_size, in place of
    the crop at the centre."""
    augment: tuple[Augmentation, ...] = ()
    """While training: random changes of each batch on the device, in this order, such as PadCrop(pad=4), Flip()."""
    mean: tuple[float, ...] | None = None
    """Subtracted from each channel, for pixels in 0..1; by default measured on the training images. Images of float32
    keep their own unit."""
    std: tuple[Positive, ...] | None = None
    """Divides each channel after that; by default measured on the training images."""
    per_pixel_mean: bool = False
    """Subtract the training images' mean at each pixel in place of a mean for each channel."""
    download: bool = True
    """Let TFDS download and prepare a data set that is not in its folder yet."""

    def __post_init__(self) -> None:
        """Refuse fields that cannot be, or not together.

        Raises:
            UsageError: naming them.
        """
        super().__post_init__()
        _check_size(self)
        _check_source(self)
        if self.per_pixel_mean and self.mean is not None:
            raise UsageError("data.per_pixel_mean measures the mean: give it or data.mean, not both")


def _check_size(config: DataConfig) -> None:
    size, crop = config.image_size, config.train_crop
    if config.resize_to is not None and (size is None or config.resize_to < size):
        raise UsageError(f"data.resize_to is {config.resize_to}: expected {size}, data.image_size, or more")
    if config.resize_to is not None and config.resize == "pad":
        raise UsageError(f"data.resize_to is {config.resize_to}, but data.resize pad does not scale: give one of them")
    if crop is not None and config.pipeline == "resident":
        raise UsageError("data.train_crop cuts from whole images, which data.pipeline resident does not keep: give one")
    if isinstance(crop, ScaleJitter) and crop.short_side[0] < (size or 1):
        raise UsageError(
            f"data.train_crop.short_side begins at {crop.short_side[0]}: expected {size}, data.image_size, or more"
        )


def _check_source(config: DataConfig) -> None:
    source = config.source
    if config.name and source != "tfds":
        raise UsageError(f"data.name is {config.name!r}, which data.source {source} does not read: only tfds does")
    if config.path is not None and source in ("digits", None):
        raise UsageError(
            f"data.path is {str(config.path)!r}, which data.source {source} does not read: it needs no file"
        )
    if isinstance(source, Part) and source.options:
        raise UsageError("data.source has options of its own: give them as data.options")
    if config.options and not isinstance(source, Part):
        raise UsageError(f"data.options are for a source of your own, such as mine.py:load: data.source is {source}")
