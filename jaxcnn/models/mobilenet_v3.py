"""MobileNetV3 (Howard et al. 2019, 1905.02244): searched inverted residuals, squeeze and excitation, hard swish.

The paper does not say how the weights start. The authors' code does (tensorflow/models, slim/nets/mobilenet);
what is taken from there is marked.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.layers import (
    BatchNorm,
    Blocks,
    Conv,
    ConvNorm,
    Dense,
    DenseAct,
    Dropout,
    InvertedResidual,
    SqueezeExcite,
    global_avg_pool,
    padding_of,
    round_channels,
)
from jaxcnn.layers.initialisers import TruncatedNormal
from jaxcnn.models.base import Model, ModelEntry

kernel_init = TruncatedNormal(0.09)  # the authors' code


class Row(NamedTuple):
    """Rows of table 1 or 2 that share all but their expansion: one stage."""

    features: int
    expanded: tuple[int, ...]  # of each block, "exp size"
    kernel_size: int
    strides: int  # of the first block
    se: bool
    act: Callable[[Array], Array]


RE, HS = nn.relu, nn.hard_swish
TABLE_1 = (
    Row(16, (16,), 3, 1, False, RE),
    Row(24, (64, 72), 3, 2, False, RE),
    Row(40, (72, 120, 120), 5, 2, True, RE),
    Row(80, (240, 200, 184, 184), 3, 2, False, HS),
    Row(112, (480, 672), 3, 1, True, HS),
    Row(160, (672, 960, 960), 5, 2, True, HS),
)
TABLE_2 = (
    Row(16, (16,), 3, 2, True, RE),
    Row(24, (72, 88), 3, 2, False, RE),
    Row(40, (96, 240, 240), 5, 2, True, HS),
    Row(48, (120, 144), 5, 1, True, HS),
    Row(96, (288, 576, 576), 5, 2, True, HS),
)


class MobileNetV3(Model):
    """MobileNetV3 of tables 1 and 2, at any width.

    Attributes:
      variant: "large" (table 1) or "small" (table 2).
      width: multiplies the channels of the blocks, and the widest layer's where above 1.
      num_stages: takes only so many stages (rows of one output width), from the first.
      padding: "symmetric" pads as torch, "same" as TensorFlow, where the authors' weights come from.
      epsilon: of BatchNorm; 0.00001 in timm's weights.
      num_classes: None returns the features that the last layer reads.
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    variant: Literal["large", "small"]
    width: float = 1.0
    num_stages: int = len(TABLE_1)
    padding: Literal["symmetric", "same"] = "symmetric"
    epsilon: float = 1e-3
    num_classes: int | None = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits, or features; `train=True` uses and updates the batch's statistics."""
        norm = partial(
            BatchNorm,
            use_running_average=not train,
            momentum=0.99,  # section 6.1.1
            epsilon=self.epsilon,
            dtype=self.dtype,
        )
        conv = partial(Conv, use_bias=False, kernel_init=kernel_init, dtype=self.dtype)
        unit = partial(ConvNorm, conv=conv, norm=norm, act=nn.hard_swish)
        bottleneck = partial(InvertedResidual, padding=self.padding, conv=conv, norm=norm)
        squeeze_excite = partial(SqueezeExcite, gate=nn.hard_sigmoid, kernel_init=kernel_init)

        channels = round_channels(16 * max(1.0, self.width))
        x = unit(channels, 3, strides=2, padding=padding_of(self.padding, 3), name="stem")(x)
        table, before = {"large": TABLE_1, "small": TABLE_2}[self.variant], 16
        for i, row in enumerate(table[: self.num_stages], 1):
            blocks, bneck = [], partial(bottleneck, kernel_size=row.kernel_size, act=row.act)
            for j, wide in enumerate(row.expanded):
                # The expansion as a factor: what is multiplied are the channels after rounding.
                expanded = round_channels(channels * wide / before)
                # Section 5.3: a quarter of the expansion.
                se = partial(squeeze_excite, round_channels(expanded / 4)) if row.se else None
                channels, before = round_channels(row.features * self.width), row.features
                blocks.append(partial(bneck, channels, expanded, strides=row.strides if j == 0 else 1, se=se))
            x = Blocks(blocks, name=f"stage{i}")(x)
        x = unit(round_channels(6 * channels), 1, name="top")(x)
        x = global_avg_pool(x.astype(jnp.float32))
        # The "efficient last stage" (section 5.1): the widest layer comes after the pooling, without norm.
        widest = round_channels({"large": 1280, "small": 1024}[self.variant] * max(1.0, self.width))
        x = DenseAct(widest, nn.hard_swish, kernel_init=kernel_init, name="fc")(x)
        if self.num_classes is None:
            return x
        x = Dropout(0.2, deterministic=not train, name="dropout")(x)  # section 6.1.1: "0.8", which is what is kept
        return Dense(self.num_classes, kernel_init=kernel_init, name="head")(x)


mobilenet_v3_large = partial(MobileNetV3, variant="large")
mobilenet_v3_small = partial(MobileNetV3, variant="small")

# For tests: every kind of block in a second.
mobilenet_v3_tiny = partial(MobileNetV3, variant="small", width=0.25, num_stages=3, num_classes=5)

_entry = partial(ModelEntry, paper="1905.02244", year=2019, input_shape=(224, 224, 3), num_classes=1000)
MODELS = {
    "mobilenet_v3_large": _entry(mobilenet_v3_large),
    "mobilenet_v3_small": _entry(mobilenet_v3_small),
}
