"""How an image becomes a network's input. It belongs to the weights: they were trained on such inputs."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Float32, UInt8

from jaxcnn.errors import UsageError
from jaxcnn.files import parse_json
from jaxcnn.images.opening import BadImage, eight_bits, read_file
from jaxcnn.images.pixels import decode
from jaxcnn.typed import check

if TYPE_CHECKING:
    from PIL.Image import Image

Interpolation = Literal["nearest", "box", "bilinear", "bicubic", "lanczos"]
"""How pixels between pixels are made, in Pillow's words: all but nearest with antialiasing."""

# Of a side of a network's input, in pixels, that a file may ask for: larger ones would fill the memory.
_LONGEST = 4096

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From an image to an array, as torchvision's transforms for PIL images do it, to the bit (torchvision
    normalises twice for GoogLeNet and Inception-v3, which is one step here and agrees to 2e-7).

    Called with a path, a PIL image or an array, returns the network's input. An image file is decoded and turned to
    three channels as torchvision's ImageFolder does: a grey value is repeated, an alpha channel dropped, CMYK converted
    by Pillow, grey of 16 bits scaled to 8, and a rotation in the EXIF data is NOT applied.

    Attributes:
        size: height and width of the input: cut from the centre, zeros where the image is smaller. None: no crop.
        resize: length of the shorter side before the crop, the longer one rounded down; None resizes both sides to
            `size`, without a crop.
        interpolation: of the resizing, with antialiasing, by Pillow; "none": the image keeps its size before the crop.
        channels: their order; L is one channel of grey.
        scale: multiplies pixels of 0 to 255, before mean and std.
        mean: subtracted, per channel in the order of `channels`; or an image [height][width][channel] of means, as
            He et al. 2015 subtract one on CIFAR.
        std: divides.
    """

    size: tuple[int, ...] | None = (224, 224)
    resize: int | None = 256
    interpolation: Interpolation | Literal["none"] = "bilinear"
    channels: Literal["RGB", "BGR", "L"] = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, ...] | tuple[tuple[tuple[float, ...], ...], ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        """Refuse what makes no input."""
        if self.size is not None and (len(self.size) != 2 or min(self.size) < 1):
            raise UsageError(f"size={self.size!r:.80}: expected height and width, or None for no crop")
        if self.resize is not None and self.resize < 1:
            raise UsageError(f"resize={self.resize!r:.80}: expected a length in pixels, or None")
        if self.scale <= 0:
            raise UsageError(f"scale={self.scale}: expected a positive number")
        channels = len(self.channels)
        if np.shape(self.mean) not in ((channels,), (*(self.size or ()), channels)):
            raise UsageError(
                f"mean={str(self.mean)[:60]}: expected {channels} numbers, one for each channel, or an image"
            )
        if len(self.std) != channels:
            raise UsageError(f"std={self.std!r:.80}: expected {channels} numbers, one for each channel")
        if min(self.std) <= 0:
            raise UsageError(f"std={self.std}: expected positive numbers")

    def __call__(self, image: "str | Path | Image | UInt8[np.ndarray, '...']") -> Float32[np.ndarray, "h w c"]:
        """Return the network's input for one image.

        Args:
          image: path of an image file, PIL image, or uint8 array [h, w], [h, w, 1] or [h, w, 3] (red first).

        Raises:
          UsageError: there is no such file, it is no image, or the array is of another type or shape.
        """
        resized = self.resized(_opened(image, "L" if self.channels == "L" else "RGB"))
        pixels = np.asarray(resized, np.float32).reshape(resized.height, resized.width, -1)
        if self.channels == "BGR":
            pixels = pixels[..., ::-1]
        # Divided: x / 255 is not always x * (1 / 255), and torchvision and Keras divide.
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        return (pixels / np.float32(1 / self.scale) - mean) / std

    def resized(self, image: "Image") -> "Image":
        """Return the image resized and cropped, of the same mode."""
        from PIL import Image

        (height, width), (top, left) = self.steps(image.height, image.width)
        if height * width > 4 * _LONGEST**2:
            raise UsageError(
                f"an image of {image.height}x{image.width} is too long and narrow: its size would be {height}x{width}"
            )
        if self.interpolation != "none" and (self.resize, self.size) != (None, None):
            image = image.resize((width, height), Image.Resampling[self.interpolation.upper()])
        if self.size is None:
            return image
        return image.crop((left, top, left + self.size[1], top + self.size[0]))

    def steps(self, height: int, width: int) -> tuple[tuple[int, int], tuple[int, int]]:
        """Return what an image of height x width is resized to, height first, and where the crop begins, top first."""
        scaled = height, width
        if self.interpolation != "none" and self.resize is not None:
            scaled = self.resize * height // min(scaled), self.resize * width // min(scaled)
        elif self.interpolation != "none" and self.size is not None:
            scaled = self.size[0], self.size[1]
        rows, columns = self.size or scaled
        return scaled, (_start(scaled[0], rows), _start(scaled[1], columns))

    def to_json(self) -> str:
        """Return it as text, which `from_json` reads; UsageError where that would not."""
        self._check_sides()
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Preprocessing":
        """Return what `to_json` wrote.

        Raises:
          UsageError: the text is something else.
        """
        found = check(cls, parse_json(text, "the preprocessing"), "")
        found._check_sides()
        return found

    def _check_sides(self) -> None:
        for name, sides in (("size", self.size), ("resize", self.resize and (self.resize,))):
            if max(sides or (0,)) > _LONGEST:
                raise UsageError(f"{name} is {getattr(self, name)!r:.80}: expected sides up to {_LONGEST} pixels")


def _start(length: int, wanted: int) -> int:
    """Return where the crop of a side begins: rounded half to even, outside of an image that is smaller."""
    return round((length - wanted) / 2) if length >= wanted else -((wanted - length) // 2)


def _opened(image: Any, mode: Literal["L", "RGB"]) -> "Image":
    """Return an image of 8 bits in this mode, from a path, a PIL image or an array."""
    from PIL import Image

    if isinstance(image, Image.Image):
        try:
            return eight_bits(image, mode)
        except BadImage as error:
            raise UsageError(f"the image cannot be used: {error}") from error
    if isinstance(image, str | Path):
        try:
            pixels = decode(read_file(image), len(mode))
        except OSError as error:
            raise UsageError(f"the image {image} cannot be read: {error.strerror}") from error
        except BadImage as error:
            raise UsageError(f"the image {image} cannot be used: {error}") from error
        image = pixels
    array = np.asarray(image)
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3)):
        raise UsageError(
            f"an image of {array.dtype} {list(array.shape)}: expected uint8 [h, w], [h, w, 1] or [h, w, 3]"
        )
    if not array.size:
        raise UsageError(f"an image of {list(array.shape)} has no pixels")
    return Image.fromarray(array[..., 0] if array.shape[2:] == (1,) else array).convert(mode)
