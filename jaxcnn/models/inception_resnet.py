"""Inception-ResNet-v2 (Szegedy et al. 2016, 1602.07261, section 3.2), as in the authors' released code (TF-slim).

Every checkpoint follows that code. The paper's figures have the stem of Inception-v4 where the code has that of
Inception-v3 and one more block, and 1154 and 2048 channels where the code has 1088 and 2080.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.layers import Blocks, Branches, Chain, Conv, Dense, Dropout, Row, global_avg_pool, residual
from jaxcnn.layers.branches import Steps
from jaxcnn.models.base import Model, ModelEntry
from jaxcnn.models.inception_v3 import V, avg_same, conv_factory, max_halving, stem_v3
from jaxcnn.models.inception_v4 import conv_init, head_init, three_depths

MIXED_5B = (
    (Row(96, 1),),
    (Row(48, 1), Row(64, 5)),
    (Row(64, 1), Row(96, 3), Row(96, 3)),
    (avg_same, Row(64, 1)),
)
# Figures 16, 17 and 19; the 1x1 that leads back to the block's channels is `ResidualBlock.up`.
BLOCK_A = (
    (Row(32, 1),),
    (Row(32, 1), Row(32, 3)),
    (Row(32, 1), Row(48, 3), Row(64, 3)),
)
BLOCK_B = (
    (Row(192, 1),),
    (Row(128, 1), Row(160, (1, 7)), Row(192, (7, 1))),
)
BLOCK_C = (
    (Row(192, 1),),
    (Row(192, 1), Row(224, (1, 3)), Row(256, (3, 1))),
)
# Figure 7 with the widths of table 1.
REDUCTION_A = (
    (Row(384, 3, 2, V),),
    (Row(256, 1), Row(256, 3), Row(384, 3, 2, V)),
    (max_halving,),
)
# Figure 18.
REDUCTION_B = (
    (Row(256, 1), Row(384, 3, 2, V)),
    (Row(256, 1), Row(288, 3, 2, V)),
    (Row(256, 1), Row(288, 3), Row(320, 3, 2, V)),
    (max_halving,),
)


class ResidualBlock(nn.Module):
    """x + scale * up(branches(x)), then ReLU; `up` is a 1x1 convolution with bias, without BatchNorm or ReLU."""

    branches: tuple[Steps, ...]
    scale: float
    conv: Callable[..., nn.Module]
    act: Callable[[Array], Array] | None = nn.relu
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w c"]:
        """Return maps of the input's shape."""
        y = Branches(self.branches, self.conv, name="mixed")(x)
        y = Conv(x.shape[-1], 1, kernel_init=conv_init, dtype=self.dtype, name="up")(y)
        y = residual(x, y, scale=self.scale)
        return y if self.act is None else self.act(y)


class InceptionResNetV2(Model):
    """Inception-ResNet-v2 (figure 15).

    Attributes:
      depths: residual blocks on 35x35, 17x17 and 8x8.
      dropout: rate before the classifier.
      width: multiplies the channels of all convolutions, but those within the sums.
      num_classes: None returns the pooled features.
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    depths: tuple[int, ...] = (10, 20, 10)
    dropout: float = 0.2
    width: float = 1.0
    num_classes: int | None = 1000
    dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The published size."""
        return 299, 299, 3

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits, or pooled features; `train=True` uses and updates the batch's statistics."""
        conv = conv_factory(conv_init, self.width, train, self.dtype)
        block = partial(ResidualBlock, conv=conv, dtype=self.dtype)
        depth_a, depth_b, depth_c = three_depths(self.depths)
        # Section 3.3: branches scaled by 0.1 to 0.3 keep the training stable. The last block is not, and has no ReLU.
        blocks_a = [partial(block, BLOCK_A, 0.17)] * depth_a
        blocks_b = [partial(block, BLOCK_B, 0.10)] * depth_b
        blocks_c = [*[partial(block, BLOCK_C, 0.20)] * (depth_c - 1), partial(block, BLOCK_C, 1.0, act=None)]
        x = Chain(stem_v3(), conv, name="stem")(x)
        x = Chain((MIXED_5B,), conv, name="mixed_5b")(x)
        x = Blocks(blocks_a, name="inception_a")(x)
        x = Chain((REDUCTION_A,), conv, name="reduction_a")(x)
        x = Blocks(blocks_b, name="inception_b")(x)
        x = Chain((REDUCTION_B,), conv, name="reduction_b")(x)
        x = Blocks(blocks_c, name="inception_c")(x)
        x = conv(1536, 1, name="last_conv")(x)
        x = global_avg_pool(x.astype(jnp.float32))  # 8x8 maps at the published size of 299.
        if self.num_classes is None:
            return x
        x = Dropout(self.dropout, not train, name="dropout")(x)
        return Dense(self.num_classes, kernel_init=head_init, name="head")(x)


inception_resnet_v2 = InceptionResNetV2

# For tests.
inception_resnet_v2_tiny = partial(InceptionResNetV2, depths=(1, 1, 2), width=1 / 16, num_classes=5)

MODELS = {
    "inception_resnet_v2": ModelEntry(
        inception_resnet_v2, paper="1602.07261", year=2016, input_shape=(299, 299, 3), num_classes=1000
    ),
}
