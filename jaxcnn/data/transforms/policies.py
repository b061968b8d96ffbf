"""Policies: operations drawn for each image, with ranges as in torchvision, on pixels as in Pillow.

Those that move pixels move further images, class maps and boxes along; those that change colours change "image" alone.

An operation is data, a row of numbers for three stages: a warp, a blend, a table. Each operation uses one of them and
passes the others unchanged, so that a batch, whatever was drawn for its images, goes through all three at once.
Numbers that need double precision are made on the host, for all that can be drawn. float32 images are rounded first.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int32, Key

from jaxcnn.data.fields import Batch, Fields
from jaxcnn.data.transforms import autoaugment
from jaxcnn.data.transforms.base import (
    Geometric,
    Images,
    Pixels,
    PixelValue,
    Points,
    Sampling,
    check_channels,
    image_of,
    whole,
)
from jaxcnn.data.transforms.colour import BLACK, GREY, MEAN, SMOOTH, enhance
from jaxcnn.data.transforms.lookups import EQUALIZE, FIXED, STRETCH, look_up, make_tables
from jaxcnn.data.transforms.warps import fixed_matrix, warp, warp_points
from jaxcnn.errors import UsageError
from jaxcnn.typed import Interval

OPERATIONS = (
    "identity",
    "shear_x",
    "shear_y",
    "translate_x",
    "translate_y",
    "rotate",
    "brightness",
    "color",
    "contrast",
    "sharpness",
    "posterize",
    "solarize",
    "autocontrast",
    "equalize",
)
"""What RandAugment and TrivialAugment draw from; AutoAugment's policies also have "invert"."""

_BASES = {"brightness": BLACK, "contrast": MEAN, "color": GREY, "sharpness": SMOOTH}
SIGNED = frozenset({"shear_x", "shear_y", "translate_x", "translate_y", "rotate", *_BASES})


class Operation(NamedTuple):
    """What is done to each image: int32, factor float32, all [...] but for the matrix, [..., 6]; of numpy or of JAX."""

    matrix: Any
    """See `warp`."""
    base: Any
    """See `enhance`."""
    factor: Any
    mask: Any
    """See `make_tables`."""
    threshold: Any
    table: Any


def operation(name: str, magnitude: float, height: int, width: int) -> Operation:
    """Return an operation as data.

    Args:
        name: one of OPERATIONS, or "invert".
        magnitude: pixels per pixel for shears, pixels for moves (cut to whole ones), degrees for rotations, what is
            added to a factor of 1 for enhancements, bits kept by posterize, the first value that solarize inverts;
            not read by the others.
        height: of the images.
        width: of the images.
    """
    mask, threshold = 255, 256
    if name == "posterize":
        mask = 256 - 2 ** (8 - int(magnitude))
    elif name in ("solarize", "invert"):
        threshold = 0 if name == "invert" else math.ceil(magnitude)
    return Operation(
        matrix=fixed_matrix(_matrix(name, magnitude, height, width)),
        base=np.int32(_BASES.get(name, BLACK)),
        factor=np.float32(1 + magnitude if name in _BASES else 1),
        mask=np.int32(mask),
        threshold=np.int32(threshold),
        table=np.int32({"autocontrast": STRETCH, "equalize": EQUALIZE}.get(name, FIXED)),
    )


def _matrix(name: str, magnitude: float, height: int, width: int) -> tuple[float, ...]:
    """Return what the pillow's Image.transform takes; rotation is that of Image.rotate, about the centre."""
    shear = {"shear_x": (magnitude, 0.0), "shear_y": (0.0, magnitude)}.get(name, (0.0, 0.0))
    move = {"translate_x": (int(magnitude), 0), "translate_y": (0, int(magnitude))}.get(name, (0, 0))
    if name != "rotate":
        return (1.0, shear[0], move[0], shear[1], 1.0, move[1])
    angle = -math.radians(magnitude % 360.0)
    cos, sin = round(math.cos(angle), 15), round(math.sin(angle), 15)
    x, y = width / 2, height / 2
    return (cos, sin, x - cos * x - sin * y, -sin, cos, y + sin * x - cos * y)


def recolour(images: Pixels, what: Operation) -> Pixels:
    """Return the images after what one operation each, with the batch as leading axis, does to their colours."""
    # Without the barriers XLA computes a pixel anew for each one that reads it: four times the time.
    wait = jax.lax.optimization_barrier
    images = wait(enhance(images, what.base, what.factor))
    return look_up(images, wait(make_tables(images, what.mask, what.threshold, what.table)))


def _stack(operations: Iterable[Operation]) -> Operation:
    return Operation(*(np.stack(column) for column in zip(*operations, strict=True)))


def _signed(name: str, magnitude: float, height: int, width: int) -> list[Operation]:
    """Return the operation with its magnitude as it is, and negative where it may be."""
    return [operation(name, sign * magnitude, height, width) for sign in ((1, -1) if name in SIGNED else (1, 1))]


def _take(operations: Operation, index: Int32[Array, " batch"]) -> Operation:
    return Operation(*(jnp.asarray(column)[index] for column in operations))


def magnitudes(name: str, levels: int, height: int, width: int, *, wide: bool = False) -> list[float]:
    """Return the magnitudes of levels 0 to `levels`: torchvision's for RandAugment and AutoAugment.

    Args:
        name: of an operation.
        levels: the last level, whose change is the largest.
        height: of the images.
        width: of the images.
        wide: TrivialAugment's ranges (Müller and Hutter 2021, table 1, wide).
    """
    if name == "posterize":
        return [8 - round(level * (6 if wide else 4) / levels) for level in range(levels + 1)]
    if name == "solarize":
        return [255 - 255 * level / levels for level in range(levels + 1)]
    size = {"translate_x": width, "translate_y": height}.get(name, 0)
    largest = {"shear_x": 0.3, "shear_y": 0.3, "rotate": 30.0, **dict.fromkeys(_BASES, 0.9)}.get(name, 150 / 331 * size)
    if wide:
        largest = {"rotate": 135.0, "translate_x": 32.0, "translate_y": 32.0}.get(name, 0.99)
    return [largest * level / levels for level in range(levels + 1)]


class Policy(Geometric):
    """What the policies share."""

    def __call__(self, key: Key[Array, ""], batch: Batch, fields: Fields) -> Batch:
        """Return the batch after the operations drawn for each example.

        Raises:
          UsageError: it has no image, or one of other than 1 or 3 channels, or a field of another size.
        """
        images = image_of(self, batch, fields)
        check_channels(self, images)
        count, height, width, _ = images.shape
        batch = {**batch, "image": whole(images)}
        for what in self.draw(key, count, height, width):
            batch = jax.lax.optimization_barrier(self.moved(what, batch, fields))  # see `recolour`
            batch = {**batch, "image": recolour(batch["image"], what)}
        return {**batch, "image": batch["image"].astype(images.dtype)}

    def draw(self, key: Key[Array, ""], count: int, height: int, width: int) -> list[Operation]:
        """Return the operations of each example, in order."""
        raise NotImplementedError

    def move(self, drawn: Operation, images: Images, fill: int, interpolation: Sampling) -> Images:
        """Return the images after what one operation does to places."""
        return warp(images, drawn.matrix, fill, interpolation)

    def points(self, drawn: Operation, xy: Points, height: int, width: int) -> Points:
        """Return where one operation takes points."""
        return warp_points(drawn.matrix, xy)


@dataclass(frozen=True, kw_only=True)
class RandAugment(Policy):
    """A number of operations, each of the 14 as likely, all at one magnitude (Cubuk et al. 2019b)."""

    kind: Literal["rand_augment"] = "rand_augment"
    operations: Annotated[int, Interval(least=0, most=100)] = 2
    """How many, one after the other; the paper's N."""
    magnitude: Annotated[int, Interval(least=0, most=1000)] = 9
    """0 to `levels`; the paper's M."""
    levels: Annotated[int, Interval(least=1, most=1000)] = 30
    """The magnitude at which changes are largest: 30 as in torchvision, 10 as in the paper and in timm. 9 of 10 turns
    by 27 degrees, 9 of 30 by 9."""
    fill: PixelValue = 0
    """What comes in from outside."""
    interpolation: Sampling = "nearest"
    """How shears, moves and rotations read pixels between pixels."""

    def __post_init__(self) -> None:
        """Check the fields."""
        super().__post_init__()
        if self.magnitude > self.levels:
            raise UsageError(f"RandAugment.magnitude is {self.magnitude}: expected 0 to {self.levels}, its levels")

    def draw(self, key: Key[Array, ""], count: int, height: int, width: int) -> list[Operation]:
        """Return the operations of each example, in order."""
        steps = {name: magnitudes(name, self.levels, height, width)[self.magnitude] for name in OPERATIONS}
        table = _stack(what for name, step in steps.items() for what in _signed(name, step, height, width))
        drawn = jax.random.randint(key, (self.operations, count), 0, len(table.base))
        return [_take(table, row) for row in drawn]


@dataclass(frozen=True, kw_only=True)
class TrivialAugment(Policy):
    """One operation of the 14 at one of 31 magnitudes, all as likely (Müller and Hutter 2021, wide ranges)."""

    kind: Literal["trivial_augment"] = "trivial_augment"
    fill: PixelValue = 0
    """What comes in from outside."""
    interpolation: Sampling = "nearest"
    """How shears, moves and rotations read pixels between pixels."""

    def draw(self, key: Key[Array, ""], count: int, height: int, width: int) -> list[Operation]:
        """Return the operation of each example."""
        steps = {name: magnitudes(name, 30, height, width, wide=True) for name in OPERATIONS}
        table = _stack(
            what for name in OPERATIONS for step in steps[name] for what in _signed(name, step, height, width)
        )
        return [_take(table, jax.random.randint(key, (count,), 0, len(table.base)))]


@dataclass(frozen=True, kw_only=True)
class AutoAugment(Policy):
    """One of 25 pairs of operations, each with its own probability and magnitude (Cubuk et al. 2019a, appendix)."""

    kind: Literal["auto_augment"] = "auto_augment"
    policy: Literal["imagenet", "cifar10", "svhn"] = "imagenet"
    """What it was found for."""
    fill: PixelValue = 0
    """What comes in from outside."""
    interpolation: Sampling = "nearest"
    """How shears, moves and rotations read pixels between pixels."""

    def draw(self, key: Key[Array, ""], count: int, height: int, width: int) -> list[Operation]:
        """Return the two operations of each example, in order."""
        pairs = autoaugment.POLICIES[self.policy]
        steps = [step for pair in pairs for step in pair]
        levels = {name: magnitudes(name, 9, height, width) for name, _, _ in steps}
        rows = [what for name, _, level in steps for what in _signed(name, levels[name][level], height, width)]
        table = _stack([*rows, operation("identity", 0, height, width)])
        likely = jnp.array([probability for _, probability, _ in steps], jnp.float32)
        which, signs, shares = jax.random.split(key, 3)
        step = 2 * jax.random.randint(which, (count,), 0, len(pairs)) + jnp.arange(2)[:, None]
        row = 2 * step + jax.random.randint(signs, (2, count), 0, 2)
        row = jnp.where(jax.random.uniform(shares, (2, count)) < likely[step], row, len(rows))
        return [_take(table, each) for each in row]
