"""How an image becomes a network's input. It belongs to the weights: they were trained on such inputs."""

from dataclasses import dataclass
from typing import Literal

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From an image to an array: resize, crop the centre, scale, normalise.

    Attributes:
        size: height and width of the input.
        resize: length of the shorter side before the crop; None resizes both sides to `size`, without a crop.
        interpolation: of the resizing, with antialiasing.
        channels: their order.
        scale: multiplies pixels of 0 to 255, before mean and std.
        mean: subtracted, per channel in the order of `channels`.
        std: divides.
    """

    size: tuple[int, int] = (224, 224)
    resize: int | None = 256
    interpolation: Literal["nearest", "bilinear", "bicubic"] = "bilinear"
    channels: Literal["RGB", "BGR"] = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
