"""MobileNetV2 (Sandler et al. 2018, 1801.04381): inverted residuals with linear bottlenecks.

The paper does not say how the weights start. The authors' code does (tensorflow/models, slim/nets/mobilenet);
what is taken from there is marked.
"""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.layers import (
    BatchNorm,
    Blocks,
    Conv,
    ConvNorm,
    Dense,
    Dropout,
    InvertedResidual,
    global_avg_pool,
    padding_of,
    round_channels,
)
from jaxcnn.layers.initialisers import TruncatedNormal
from jaxcnn.models.base import Model, ModelEntry

kernel_init = TruncatedNormal(0.09)  # the authors' code

# Table 2, the bottlenecks: expansion t, channels c, blocks n, stride s of the first.
TABLE_2 = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class MobileNetV2(Model):
    """MobileNetV2 as in table 2, at any width.

    Attributes:
      width: multiplies all channels but, where below 1, those of the last convolution (section 6.1).
      num_stages: takes only so many rows of the table, from the first.
      padding: "symmetric" pads as torch, "same" as TensorFlow, where the authors' weights come from.
      epsilon: of BatchNorm; 0.001 in TensorFlow's weights.
      num_classes: None returns the pooled features.
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    width: float = 1.0
    num_stages: int = len(TABLE_2)
    padding: Literal["symmetric", "same"] = "symmetric"
    epsilon: float = 1e-5
    num_classes: int | None = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits, or pooled features; `train=True` uses and updates the batch's statistics."""
        norm = partial(
            BatchNorm,
            use_running_average=not train,
            momentum=0.9,  # torchvision's; the authors' code has 0.997
            epsilon=self.epsilon,
            dtype=self.dtype,
        )
        conv = partial(Conv, use_bias=False, kernel_init=kernel_init, dtype=self.dtype)
        unit = partial(ConvNorm, conv=conv, norm=norm, act=nn.relu6)
        bottleneck = partial(InvertedResidual, padding=self.padding, conv=conv, norm=norm, act=nn.relu6)

        channels = round_channels(32 * self.width)
        x = unit(channels, 3, strides=2, padding=padding_of(self.padding, 3), name="stem")(x)
        for i, (t, c, n, s) in enumerate(TABLE_2[: self.num_stages], 1):
            blocks = []
            for strides in (s,) + (1,) * (n - 1):
                expanded, channels = t * channels, round_channels(c * self.width)
                blocks.append(partial(bottleneck, channels, expanded, strides=strides))
            x = Blocks(blocks, name=f"stage{i}")(x)
        x = unit(round_channels(1280 * max(1.0, self.width)), 1, name="top")(x)
        x = global_avg_pool(x.astype(jnp.float32))
        if self.num_classes is None:
            return x
        x = Dropout(0.2, deterministic=not train, name="dropout")(x)  # the authors' code
        return Dense(self.num_classes, kernel_init=kernel_init, name="head")(x)


mobilenet_v2 = MobileNetV2

# For tests: every kind of block in a second.
mobilenet_v2_tiny = partial(MobileNetV2, width=0.25, num_stages=2, num_classes=5)

MODELS = {
    "mobilenet_v2": ModelEntry(
        mobilenet_v2, paper="1801.04381", year=2018, input_shape=(224, 224, 3), num_classes=1000
    ),
}
