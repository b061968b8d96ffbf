"""What every change of a training batch shares: its form, its checks, its draws.

A transform is called as `transform(key, batch, fields)` and returns the batch changed. Any function that does so is
one; those here are frozen values with a `kind`, which names them in JSON. `fields` says what the batch holds
(`jaxcnn.data.fields`). Images are [batch, height, width, channels], uint8 or float32 in 0..255, and keep their type
unless a transform says otherwise. Each example draws from the key by its place in the batch, so the same key gives the
same batch, jitted or not, on one device or with the batch sharded over many.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float32, Key, Shaped, UInt8

from jaxcnn.data.fields import Batch, Boxes, ClassMap, Fields, Image
from jaxcnn.errors import UsageError
from jaxcnn.typed import Config, Interval

Images = Shaped[Array, "batch height width channels"]
Pixels = UInt8[Array, "batch height width channels"]
Points = Float32[Array, "batch points 2"]
PixelValue = Annotated[int, Interval(least=0, most=255)]
Sampling = Literal["nearest", "bilinear"]


class Transform(Config):
    """A change of a batch. For one of the pixels of its image alone, `images` is all there is to write.

        @dataclass(frozen=True)
        class Invert(Transform):
            def images(self, key, images):
                return 255 - images

    That changes the field "image", the network's input, and no other.
    """

    def __call__(self, key: Key[Array, ""], batch: Batch, fields: Fields) -> Batch:
        """Return the batch changed.

        Raises:
          UsageError: it has no image.
        """
        return {**batch, "image": self.images(key, image_of(self, batch, fields))}

    def images(self, key: Key[Array, ""], images: Images) -> Images:
        """Return the images changed."""
        raise NotImplementedError


class Geometric(Transform):
    """Moves pixels: of all images of an example alike, and its class maps and boxes with them.

    Class maps are read by nearest neighbour, and what comes into them from outside is their `ignored`. A box becomes
    the one around its moved corners, clipped to the image; where less is left of it than its field's `least_share`, its
    mask becomes False. Labels and values stay. A further float32 image, which may hold anything, such as distances, is
    read by nearest neighbour whatever `interpolation` says.

    One of your own has `draw`, `move` and `points`.
    """

    fill: int = 0
    """What comes into images from outside, 0 to 255."""
    interpolation: Sampling = "nearest"
    """How pixels between pixels are read; bilinear ones are whole numbers, cut as Pillow cuts them."""

    def __call__(self, key: Key[Array, ""], batch: Batch, fields: Fields) -> Batch:
        """Return the batch moved.

        Raises:
          UsageError: it has no image, or a field's pixels are not as many as the image's.
        """
        count, height, width, _ = image_of(self, batch, fields).shape
        return self.moved(self.draw(key, count, height, width), batch, fields)

    def draw(self, key: Key[Array, ""], count: int, height: int, width: int) -> Any:
        """Return what is random in the moves of `count` examples, as arrays with these first."""
        raise NotImplementedError

    def move(self, drawn: Any, images: Images, fill: int, interpolation: Sampling) -> Images:
        """Return the images moved as drawn; `fill` comes in from outside."""
        raise NotImplementedError

    def points(self, drawn: Any, xy: Points, height: int, width: int) -> Points:
        """Return where points of the images land: x to the right and y down, (0, 0) the outer corner of a pixel."""
        raise NotImplementedError

    def moved(self, drawn: Any, batch: Batch, fields: Fields) -> Batch:
        """Return the batch with all that has a place in the image moved as drawn."""
        _, height, width, _ = batch["image"].shape
        found = dict(batch)
        for name, pixels in pixels_of(self, batch, fields).items():
            field = fields[name]
            if isinstance(field, ClassMap):
                found[name] = self.move(drawn, pixels, field.ignored, "nearest")[..., 0]
            else:
                whole_numbers = name == "image" or pixels.dtype == jnp.uint8
                found[name] = self.move(drawn, pixels, self.fill, self.interpolation if whole_numbers else "nearest")
        for name, field in fields.items():
            if isinstance(field, Boxes):
                found[name] = self._boxes(drawn, batch[name], field.least_share, height, width)
        return found

    def _boxes(self, drawn: Any, boxes: Mapping[str, Array], least: float, height: int, width: int) -> dict[str, Array]:
        corners = boxes["corners"]
        count, most, _ = corners.shape
        four = jnp.stack([corners[..., np.array([0, 2, 0, 2])], corners[..., np.array([1, 1, 3, 3])]], axis=-1)
        four = self.points(drawn, four.reshape(count, 4 * most, 2), height, width).reshape(count, most, 4, 2)
        low, high = four.min(2), four.max(2)
        size = jnp.array([width, height], jnp.float32)
        seen_low, seen_high = jnp.clip(low, 0, size), jnp.clip(high, 0, size)
        area, seen = ((end - start).prod(-1) for start, end in ((low, high), (seen_low, seen_high)))
        left = (seen > 0) & (seen >= least * area)
        return {**boxes, "corners": jnp.concatenate([seen_low, seen_high], -1), "mask": boxes["mask"] & left}


def name_of(transform: Any) -> str:
    """Return what a transform is called in messages: the name of its class, or of a function."""
    return getattr(transform, "__qualname__", type(transform).__name__)


def image_of(transform: Any, batch: Batch, fields: Fields) -> Images:
    """Return the field "image" of a batch.

    Raises:
      UsageError: there is none; naming the transform.
    """
    if "image" not in batch or not isinstance(fields.get("image"), Image):
        raise UsageError(
            f"{name_of(transform)} changes the field 'image', an Image, which the examples do not have: "
            f"they have {', '.join(fields) or 'no field'}"
        )
    return batch["image"]


def pixels_of(transform: Any, batch: Batch, fields: Fields) -> dict[str, Images]:
    """Return all images of a batch and its class maps, these with an axis for one channel, by the names of the fields.

    Raises:
      UsageError: they are not of the size of "image"; naming the transform and the field.
    """
    _, height, width, _ = image_of(transform, batch, fields).shape
    found: dict[str, Images] = {}
    for name, field in fields.items():
        if isinstance(field, Image | ClassMap):
            found[name] = batch[name][..., None] if isinstance(field, ClassMap) else batch[name]
            if found[name].shape[1:3] != (height, width):
                rows, columns = found[name].shape[1:3]
                raise UsageError(
                    f"{name_of(transform)}: field {name!r} is {rows}x{columns}: expected {height}x{width} as the image"
                )
    return found


def check_channels(transform: Any, images: Images, channels: tuple[int, ...] = (1, 3)) -> None:
    """Raise for images of another number of channels than a transform of colours is defined for.

    Raises:
      UsageError: naming the transform.
    """
    if images.shape[-1] not in channels:
        expected = " or ".join(map(str, channels))
        raise UsageError(f"{name_of(transform)}: the images have {images.shape[-1]} channels: expected {expected}")


def product(a: Array, b: Array) -> Array:
    """Return a * b, rounded before anything is added to it: float32, above -1e9.

    A compiler may make a product and a sum one operation with one rounding. What is then cut to a whole number would
    be another one, now and then, in another program. The bound, which is never met, stands between the two.
    """
    return jnp.maximum(a * b, jnp.float32(-1e9))


def uniform(key: Key[Array, ""], shape: tuple[int, ...], low: float, high: float) -> Float32[Array, "..."]:
    """Return numbers from [low, high), the same bits in every program."""
    return jnp.float32(low) + product(jnp.float32(high - low), jax.random.uniform(key, shape))


def chosen(key: Key[Array, ""], probability: float, count: int) -> Array:
    """Return for each of `count` images whether it is one to change, bool [count, 1, 1, 1]."""
    return jax.random.bernoulli(key, probability, (count, 1, 1, 1))


def whole(images: Images) -> Pixels:
    """Return the images in uint8, rounded to the nearest of 0..255."""
    return images if images.dtype == jnp.uint8 else jnp.round(jnp.clip(images, 0, 255)).astype(jnp.uint8)
