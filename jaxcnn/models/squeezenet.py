"""SqueezeNet: AlexNet's accuracy with a fiftieth of the parameters (Iandola et al. 2016, 1602.07360).

`squeezenet1_0` is table 1 of the paper; `squeezenet1_1`, from the authors' repository, needs 2.4 times fewer
multiply-adds for the same accuracy: a smaller first layer, and poolings earlier.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.layers import Conv, ConvNorm, Dropout, global_avg_pool, max_pool
from jaxcnn.layers.initialisers import Normal, VarianceScaling
from jaxcnn.models.base import Model, ModelEntry

# The paper has none; this is torchvision's, He et al.'s (2015). The released network takes Caffe's "xavier", which
# has half the variance: made for linear units.
conv_init = VarianceScaling(2.0, "fan_in", "uniform")


class Fire(nn.Module):
    """Squeeze by a 1x1 convolution, expand by a 1x1 and a 3x3 one side by side (section 3.2), ReLU after each.

    Attributes:
        features: channels of `squeeze`; `expand1x1` and `expand3x3` have four times as many each.
        dtype: compute type.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w out"]:
        """Return the maps of `expand1x1` before those of `expand3x3`."""
        conv = partial(ConvNorm, conv=partial(Conv, kernel_init=conv_init, dtype=self.dtype))
        x = conv(self.features, 1, name="squeeze")(x)
        narrow = conv(4 * self.features, 1, name="expand1x1")(x)
        wide = conv(4 * self.features, 3, padding=1, name="expand3x3")(x)
        return jnp.concatenate([narrow, wide], axis=-1)


class Head(nn.Module):
    """Dropout and the 1x1 convolution `conv` to one map per class, with ReLU (conv10 in table 1)."""

    num_classes: int
    train: bool

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w num_classes"]:
        """Return the maps whose averages are the logits."""
        x = Dropout(0.5, deterministic=not self.train)(x)
        # The released conv10 of 1.0 pads by 1, which puts a ring of relu(bias) around the maps; not in torchvision.
        return nn.relu(Conv(self.num_classes, 1, kernel_init=Normal(0.01), name="conv")(x))


class SqueezeNet(Model):
    """A first convolution `stem` (conv1), Fire modules `fire2` to `fire9`, and `head` (conv10), which is averaged.

    Attributes:
        width: channels of the stem.
        kernel_size: of the stem.
        squeeze: channels of each Fire module's squeeze layer.
        pool_before: numbers of the Fire modules with max pooling before them.
        num_classes: None returns the averages of the last Fire module's maps.
        dtype: of the computation; parameters and logits are float32.
    """

    width: int
    kernel_size: int
    pool_before: tuple[int, ...]
    squeeze: tuple[int, ...] = (16, 16, 32, 32, 48, 48, 64, 64)
    num_classes: int | None = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits, or pooled features; `train=True` drops units."""
        conv = partial(Conv, kernel_init=conv_init, dtype=self.dtype)
        # No padding: 109x109 maps of 224x224 images. The 111x111 of table 1 are those of 227x227, as released.
        x = ConvNorm(self.width, self.kernel_size, strides=2, conv=conv, name="stem")(x)
        for number, features in enumerate(self.squeeze, 2):
            if number in self.pool_before:
                x = max_pool(x, 3, 2, ceil_mode=True)  # As Caffe, where the network comes from.
            x = Fire(features, dtype=self.dtype, name=f"fire{number}")(x)
        x = x.astype(jnp.float32)
        if self.num_classes is None:
            return global_avg_pool(x)
        return global_avg_pool(Head(self.num_classes, train, name="head")(x))


squeezenet1_0 = partial(SqueezeNet, width=96, kernel_size=7, pool_before=(2, 5, 9))
squeezenet1_1 = partial(SqueezeNet, width=64, kernel_size=3, pool_before=(2, 4, 6))

# For tests: every kind of block in a second.
squeezenet_tiny = partial(SqueezeNet, width=8, kernel_size=3, pool_before=(2, 3), squeeze=(2, 4, 4), num_classes=5)

_entry = partial(ModelEntry, paper="1602.07360", year=2016, input_shape=(224, 224, 3), num_classes=1000)
MODELS = {
    "squeezenet1_0": _entry(squeezenet1_0),
    "squeezenet1_1": _entry(squeezenet1_1),
}
