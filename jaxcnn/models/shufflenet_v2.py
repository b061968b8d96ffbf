"""ShuffleNet V2 (Ma et al. 2018, 1807.11164): channel split and channel shuffle."""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm, Blocks, Conv, ConvNorm, Dense, global_avg_pool, max_pool
from jaxcnn.layers.initialisers import Normal
from jaxcnn.models.base import Model, ModelEntry

# The paper does not say; the authors' code (megvii-model/ShuffleNet-Series) has this for the classifier.
head_init = Normal(0.01)


def channel_shuffle(x: Float[Array, "*sizes channels"], groups: int) -> Float[Array, "*sizes channels"]:
    """Interleave the channels of `groups` groups: the first of each group, then the second of each, ..."""
    split = x.reshape(*x.shape[:-1], groups, x.shape[-1] // groups)
    return jnp.swapaxes(split, -1, -2).reshape(x.shape)


class Unit(nn.Module):
    """The building blocks of figure 3: (c) with stride 1, (d) with stride 2.

    Attributes:
        features: channels of the result, an even number; with stride 1 those of the input, too.
        strides: 1 leaves half of the channels as they are, 2 gives both halves all input channels.
        unit: makes convolution and norm when called with features and kernel size, a partial of `ConvNorm`.
    """

    features: int
    strides: int
    unit: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 features"]:
        """Return the block's output, h2 = ceil(h / strides)."""
        half = self.features // 2

        def depthwise(y: Array, name: str) -> Array:
            channels = y.shape[-1]
            # No activation after depthwise convolutions (section 4, as in Xception).
            make = partial(self.unit, channels, 3, strides=self.strides, padding=1, groups=channels, act=None)
            return make(name=name)(y)

        if self.strides == 1:
            left, right = jnp.split(x, 2, axis=-1)
        else:
            left = self.unit(half, 1, name="left_conv")(depthwise(x, "left_depthwise"))
            right = x
        right = self.unit(half, 1, name="conv1")(right)
        right = self.unit(half, 1, name="conv2")(depthwise(right, "depthwise"))
        return channel_shuffle(jnp.concatenate([left, right], axis=-1), groups=2)


class ShuffleNetV2(Model):
    """ShuffleNet V2 as in table 5.

    Attributes:
      widths: channels of the stages 2, 3, 4 (even numbers) and of conv5.
      depths: blocks per stage, the one with stride 2 included.
      num_classes: None returns the pooled features.
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    widths: tuple[int, ...]
    depths: tuple[int, ...] = (4, 8, 4)
    num_classes: int | None = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits, or pooled features; `train=True` uses and updates the batch's statistics."""
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
        conv = partial(Conv, use_bias=False, dtype=self.dtype)
        unit = partial(ConvNorm, conv=conv, norm=norm, act=nn.relu)

        x = unit(24, 3, strides=2, padding=1, name="conv1")(x)
        x = max_pool(x, 3, 2, padding=1)
        if len(self.widths) != len(self.depths) + 1 or any(width % 2 for width in self.widths[:-1]):
            raise UsageError(
                f"widths={self.widths}: expected an even number for each of the {len(self.depths)} stages, and conv5's"
            )
        for i, (width, depth) in enumerate(zip(self.widths[:-1], self.depths, strict=True), 2):
            blocks = [partial(Unit, width, 2 if j == 0 else 1, unit) for j in range(depth)]
            x = Blocks(blocks, name=f"stage{i}")(x)
        x = unit(self.widths[-1], 1, name="conv5")(x)
        x = global_avg_pool(x.astype(jnp.float32))
        return x if self.num_classes is None else Dense(self.num_classes, kernel_init=head_init, name="head")(x)


shufflenet_v2_x0_5 = partial(ShuffleNetV2, widths=(48, 96, 192, 1024))
shufflenet_v2_x1_0 = partial(ShuffleNetV2, widths=(116, 232, 464, 1024))
shufflenet_v2_x1_5 = partial(ShuffleNetV2, widths=(176, 352, 704, 1024))
shufflenet_v2_x2_0 = partial(ShuffleNetV2, widths=(244, 488, 976, 2048))

# For tests: every kind of block in a second.
shufflenet_v2_tiny = partial(ShuffleNetV2, widths=(8, 16, 32), depths=(2, 1), num_classes=5)

_entry = partial(ModelEntry, paper="1807.11164", year=2018, input_shape=(224, 224, 3), num_classes=1000)
MODELS = {
    "shufflenet_v2_x0_5": _entry(shufflenet_v2_x0_5),
    "shufflenet_v2_x1_0": _entry(shufflenet_v2_x1_0),
    "shufflenet_v2_x1_5": _entry(shufflenet_v2_x1_5),
    "shufflenet_v2_x2_0": _entry(shufflenet_v2_x2_0),
}
