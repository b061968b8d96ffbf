"""EfficientNet B0 to B7 (Tan and Le 2019, 1905.11946): one network, scaled in width, depth and resolution together.

The blocks are inverted residuals with squeeze and excitation (MBConv). Departures from the authors' TensorFlow
code, as in torchvision: symmetric padding, and in B0 to B4 an epsilon of 1e-5 and a momentum of 0.9 in BatchNorm;
`padding="same", epsilon=1e-3, momentum=0.99` is the authors' network in every variant.
"""

import math
from functools import partial
from typing import Any

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
    SqueezeExcite,
    global_avg_pool,
    padding_of,
    round_channels,
)
from jaxcnn.layers.blocks import PaddingMode
from jaxcnn.layers.initialisers import VarianceScaling, he_normal_fan_in, he_normal_fan_out
from jaxcnn.models.base import Model, ModelEntry

# Table 1, stages 2 to 8: expansion, kernel size, stride of the first block, channels, blocks.
TABLE_1 = (
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
)
# The authors' code: uniform in +-1/sqrt(outputs), bias zero.
head_init = VarianceScaling(1 / 3, "fan_out", "uniform")


def _conv(features: int, kernel_size: int, *, groups: int, **fields: Any) -> Conv:
    """Return a convolution without bias, drawn as in the authors' code: variance 2 / (window * outputs).

    Their depthwise kernels have one output per channel, so that is 2 / window there: fan_in of ours.
    """
    init = he_normal_fan_out if groups == 1 else he_normal_fan_in
    return Conv(features, kernel_size, groups=groups, use_bias=False, kernel_init=init, **fields)


class EfficientNet(Model):
    """EfficientNet; see the variants at the end of this file.

    Attributes:
        width: multiplies the channels of table 1, rounded to multiples of 8.
        depth: multiplies the blocks of each stage, rounded up.
        dropout: rate before the classifier.
        stochastic_depth: rate that the branches of the blocks grow towards linearly, from 0 in the first.
        padding: "symmetric" as torch, or "same" as TensorFlow; see `padding_of`.
        epsilon: of BatchNorm, like the momentum.
        num_classes: None returns the pooled features.
        dtype: of the computation; parameters, statistics and logits are float32.
    """

    width: float
    depth: float
    dropout: float
    stochastic_depth: float = 0.2
    padding: PaddingMode = "symmetric"  # the authors' code: "same"
    epsilon: float = 1e-5  # the authors' code: 1e-3 in all variants
    momentum: float = 0.9  # the authors' code: 0.99
    num_classes: int | None = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits, or pooled features; `train=True` uses and updates the batch's statistics."""
        conv = partial(_conv, dtype=self.dtype)
        norm = partial(
            BatchNorm,
            use_running_average=not train,
            momentum=self.momentum,
            epsilon=self.epsilon,
            dtype=self.dtype,
        )
        unit = partial(ConvNorm, conv=conv, norm=norm, act=nn.silu)
        mbconv = partial(
            InvertedResidual, padding=self.padding, act=nn.silu, conv=conv, norm=norm, deterministic=not train
        )
        squeeze_excite = partial(SqueezeExcite, act=nn.silu, kernel_init=he_normal_fan_out)
        depths = [max(1, math.ceil(self.depth * blocks)) for *_, blocks in TABLE_1]
        rates = iter([self.stochastic_depth * i / sum(depths) for i in range(sum(depths))])

        channels = round_channels(32 * self.width)
        x = unit(channels, 3, strides=2, padding=padding_of(self.padding, 3), name="stem")(x)
        for i, (expansion, kernel_size, first, features, _) in enumerate(TABLE_1, 1):
            blocks = []
            for strides in (first,) + (1,) * (depths[i - 1] - 1):
                # A quarter of the block's input, and not of the expanded channels as in MobileNetV3.
                se = partial(squeeze_excite, channels // 4)
                expanded, channels = expansion * channels, round_channels(features * self.width)
                make = partial(mbconv, channels, expanded, kernel_size, strides=strides, se=se, drop_rate=next(rates))
                blocks.append(make)
            x = Blocks(blocks, name=f"stage{i}")(x)
        x = unit(round_channels(1280 * self.width), 1, name="top")(x)
        x = global_avg_pool(x.astype(jnp.float32))
        if self.num_classes is None:
            return x
        x = Dropout(self.dropout, deterministic=not train, name="dropout")(x)
        return Dense(self.num_classes, kernel_init=head_init, name="head")(x)


# Section 5.2 and the authors' table of coefficients; the resolutions are those of `MODELS`.
efficientnet_b0 = partial(EfficientNet, width=1.0, depth=1.0, dropout=0.2)
efficientnet_b1 = partial(EfficientNet, width=1.0, depth=1.1, dropout=0.2)
efficientnet_b2 = partial(EfficientNet, width=1.1, depth=1.2, dropout=0.3)
efficientnet_b3 = partial(EfficientNet, width=1.2, depth=1.4, dropout=0.3)
efficientnet_b4 = partial(EfficientNet, width=1.4, depth=1.8, dropout=0.4)
_b5_to_b7 = partial(EfficientNet, epsilon=1e-3, momentum=0.99)
efficientnet_b5 = partial(_b5_to_b7, width=1.6, depth=2.2, dropout=0.4)
efficientnet_b6 = partial(_b5_to_b7, width=1.8, depth=2.6, dropout=0.5)
efficientnet_b7 = partial(_b5_to_b7, width=2.0, depth=3.1, dropout=0.5)

# For tests: every kind of block in a second.
efficientnet_tiny = partial(EfficientNet, width=0.25, depth=0.5, dropout=0.2, num_classes=5)

_entry = partial(ModelEntry, paper="1905.11946", year=2019, num_classes=1000)
MODELS = {
    "efficientnet_b0": _entry(efficientnet_b0, input_shape=(224, 224, 3)),
    "efficientnet_b1": _entry(efficientnet_b1, input_shape=(240, 240, 3)),
    "efficientnet_b2": _entry(efficientnet_b2, input_shape=(260, 260, 3)),
    "efficientnet_b3": _entry(efficientnet_b3, input_shape=(300, 300, 3)),
    "efficientnet_b4": _entry(efficientnet_b4, input_shape=(380, 380, 3)),
    "efficientnet_b5": _entry(efficientnet_b5, input_shape=(456, 456, 3)),
    "efficientnet_b6": _entry(efficientnet_b6, input_shape=(528, 528, 3)),
    "efficientnet_b7": _entry(efficientnet_b7, input_shape=(600, 600, 3)),
}
