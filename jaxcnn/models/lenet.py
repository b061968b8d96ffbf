"""LeNet-5 (LeCun, Bottou, Bengio and Haffner 1998, Proc. IEEE 86(11)): the paper's form and today's.

The two share the sizes of their maps and little else: the paper's C3 sees only some of S2's maps, its
subsampling has weights, and its ten outputs are distances to drawn digits.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxcnn.errors import UsageError
from jaxcnn.layers import Conv, Dense, avg_pool, conv, max_pool, sum_pool
from jaxcnn.layers.initialisers import Initializer, Uniform, UniformFanIn, he_normal_fan_in
from jaxcnn.models.base import Model, ModelEntry

# Table I of the paper: the maps of S2 that each of the 16 maps of C3 sees.
C3_TABLE = (
    *((0, 1, 2), (1, 2, 3), (2, 3, 4), (3, 4, 5), (0, 4, 5), (0, 1, 5)),
    *((0, 1, 2, 3), (1, 2, 3, 4), (2, 3, 4, 5), (0, 3, 4, 5), (0, 1, 4, 5), (0, 1, 2, 5)),
    *((0, 1, 3, 4), (1, 2, 4, 5), (0, 2, 3, 5)),
    (0, 1, 2, 3, 4, 5),
)

# The targets of F6: 7x12 bitmaps of the digits, drawn for this file in the manner of the paper's figure 3.
_DRAWINGS = """
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
..###.. ...##.. .#####. ####### ....##. ####### ..####. ####### .#####. .#####.
.##.##. ..###.. ##...## .....## ...###. ##..... .##.... ##...## ##...## ##...##
##...## .####.. .....## ....##. ..####. ##..... ##..... .....## ##...## ##...##
##...## ...##.. .....## ...##.. .##.##. ##..... ##..... ....##. ##...## ##...##
##...## ...##.. ....##. ..####. ##..##. ######. ######. ....##. .#####. ##...##
##...## ...##.. ...##.. .....## ##..##. .....## ##...## ...##.. ##...## .######
##...## ...##.. ..##... .....## ####### .....## ##...## ...##.. ##...## .....##
##...## ...##.. .##.... .....## ....##. .....## ##...## ..##... ##...## .....##
.##.##. ...##.. ##..... ##...## ....##. ##...## ##...## ..##... ##...## ....##.
..###.. .###### ####### .#####. ....##. .#####. .#####. ..##... .#####. .####..
....... ....... ....... ....... ....... ....... ....... ....... ....... .......
"""
_ROWS = [line.split() for line in _DRAWINGS.split("\n") if line]
# [10, 84], +1 where the digit has ink and -1 elsewhere.
DIGIT_CODES = np.array(
    [[1.0 if mark == "#" else -1.0 for row in _ROWS for mark in row[digit]] for digit in range(10)],
    np.float32,
)


def squash(x: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """Return 1.7159 tanh(2x/3): targets of +-1 lie where it bends most, and do not saturate it."""
    return 1.7159 * jnp.tanh(2.0 / 3.0 * x)


def _init(fan_in: int) -> dict[str, Any]:
    """Return the paper's initialisers (appendix A): weights and bias alike uniform in +-2.4 / fan_in."""
    return {"kernel_init": UniformFanIn(2.4), "bias_init": Uniform(2.4 / fan_in)}


class TrainableSubsampling(nn.Module):
    """S2 and S4: the sum of each 2x2 block times one coefficient per map, plus one bias per map."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"]
    ) -> Float[Array, "batch height/2 width/2 channels"]:
        """Return the subsampled maps, before the squashing function."""
        coefficient = self.param("coefficient", Uniform(2.4 / 4), (x.shape[-1],))
        bias = self.param("bias", Uniform(2.4 / 4), (x.shape[-1],))
        total = sum_pool(x.astype(self.dtype), 2)
        return total * coefficient.astype(self.dtype) + bias.astype(self.dtype)


@dataclass(frozen=True)
class _TableUniform(Initializer):
    """Each 5x5 kernel of the table uniform in +-2.4 / fan_in, fan_in being 25 times the maps its output
    sees."""

    def draw(self, key, shape):
        """Return kernels of shape [5, 5, 60]."""
        limits = [2.4 / (25 * len(sources)) for sources in C3_TABLE for _ in sources]
        return Uniform(1.0).draw(key, shape) * jnp.asarray(limits, jnp.float32)


class TableConv(nn.Module):
    """C3: a 5x5 convolution from 6 maps to 16, connected by `C3_TABLE`; 60 kernels and 16 biases."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch height width 6"]) -> Float[Array, "batch height-4 width-4 16"]:
        """Return the 16 maps, before the squashing function."""
        sources = np.array([source for row in C3_TABLE for source in row])
        targets = np.array([target for target, row in enumerate(C3_TABLE) for _ in row])
        kernel = self.param("kernel", _TableUniform(), (5, 5, len(sources)))
        bias = self.param("bias", Uniform(2.4 / 100), (len(C3_TABLE),))
        # Absent connections are zeros of the dense kernel and no parameters.
        dense = jnp.zeros((5, 5, 6, len(C3_TABLE)), self.dtype)
        dense = dense.at[:, :, sources, targets].set(kernel.astype(self.dtype))
        return conv(x.astype(self.dtype), dense) + bias.astype(self.dtype)


def _to_side(x: Float[Array, "batch height width channels"], sides: tuple[int, ...]) -> Array:
    """Return images of the largest of `sides`, padded with zeros; other sizes raise UsageError."""
    if x.ndim != 4 or x.shape[1] != x.shape[2] or x.shape[1] not in sides:
        expected = " or ".join(f"{side}x{side}" for side in sides)
        raise UsageError(f"LeNet-5 got images of shape {x.shape}; expected [batch, {expected}, channels]")
    pad = (max(sides) - x.shape[1]) // 2
    return jnp.pad(x, ((0, 0), (pad, pad), (pad, pad), (0, 0)))


class LeNet5Paper(Model):
    """LeNet-5 as printed: 60,000 parameters for one-channel images of 32x32 (28x28 is padded by 2).

    The outputs are minus half the squared distance of F6 to each digit's fixed 84 numbers, so the largest
    logit is the nearest code, and softmax cross-entropy over them is the likelihood of equally wide Gaussians
    around the codes (the paper trains with the squared distance and a MAP term instead). The codes are own
    drawings of the paper's stylised digits, and constants, so there are 10 classes, or F6 itself with
    `num_classes=None`.
    """

    num_classes: int | None = 10
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits for 10 digits (or the 84 values of F6); training and evaluation are the same."""
        if self.num_classes not in (None, len(DIGIT_CODES)):
            raise UsageError(f"num_classes={self.num_classes}: lenet5_1998 compares with 10 drawn digits; expected 10")
        conv5x5 = partial(Conv, kernel_size=5, dtype=self.dtype)
        subsample = partial(TrainableSubsampling, dtype=self.dtype)
        x = _to_side(x, (28, 32))
        x = squash(conv5x5(6, name="c1", **_init(25 * x.shape[-1]))(x))
        x = squash(subsample(name="s2")(x))
        x = squash(TableConv(dtype=self.dtype, name="c3")(x))
        x = squash(subsample(name="s4")(x))
        x = squash(conv5x5(120, name="c5", **_init(400))(x))
        x = squash(Dense(84, dtype=self.dtype, name="f6", **_init(120))(x.reshape(x.shape[0], -1)))
        x = x.astype(jnp.float32)
        if self.num_classes is None:
            return x
        return -0.5 * jnp.sum(jnp.square(x[:, None] - DIGIT_CODES), axis=-1)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Images that the model admits."""
        return 28, 28, 1


class LeNet5(Model):
    """LeNet-5 as built today: dense C3, pooling without weights, fully connected logits.

    61,706 parameters for one-channel images and 10 classes at 32x32; 28x28 is padded with zeros to it. With
    `pad=False` images of 28x28 go in as they are: 44,426 parameters.
    """

    num_classes: int | None = 10
    activation: Literal["relu", "tanh"] = "relu"
    pooling: Literal["max", "avg"] = "max"
    pad: bool = True
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits (or 84 features); training and evaluation are the same."""
        act = {"relu": nn.relu, "tanh": jnp.tanh}[self.activation]
        pool = {"max": max_pool, "avg": avg_pool}[self.pooling]
        conv5x5 = partial(Conv, kernel_size=5, kernel_init=he_normal_fan_in, dtype=self.dtype)
        dense = partial(Dense, kernel_init=he_normal_fan_in, dtype=self.dtype)
        x = _to_side(x, (28, 32) if self.pad else (28,))
        x = pool(act(conv5x5(6, name="conv1")(x)), 2)
        x = pool(act(conv5x5(16, name="conv2")(x)), 2)
        x = act(dense(120, name="fc1")(x.reshape(x.shape[0], -1)))
        x = act(dense(84, name="fc2")(x)).astype(jnp.float32)
        if self.num_classes is None:
            return x
        return Dense(self.num_classes, name="head")(x)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Images that the model admits."""
        return 28, 28, 1


lenet5_1998 = LeNet5Paper
lenet5 = partial(LeNet5, pad=True)
lenet5_valid = partial(LeNet5, pad=False)

_entry = partial(ModelEntry, paper="LeCun et al. 1998", year=1998, num_classes=10)
MODELS = {
    "lenet5": _entry(lenet5, input_shape=(28, 28, 1)),
    "lenet5_valid": _entry(lenet5_valid, input_shape=(28, 28, 1)),
    "lenet5_1998": _entry(lenet5_1998, input_shape=(32, 32, 1)),
}
