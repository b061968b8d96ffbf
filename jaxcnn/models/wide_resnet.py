"""Wide residual networks (Zagoruyko and Komodakis 2016, 1605.07146).

CIFAR (table 1): pre-activation residual networks of basic blocks, `widen_factor` times as wide, WRN-depth-k with
depth 6n+4. ImageNet (section 3.3): ResNet-50 and 101 whose bottlenecks have twice the features in the 3x3; those
are `jaxcnn.models.resnet.ResNet`, stride in the 3x3.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm, Blocks, Conv, Dropout, NormRelu
from jaxcnn.layers.initialisers import he_normal_fan_in
from jaxcnn.models.base import Model, ModelEntry
from jaxcnn.models.resnet import Stem, block_rows, head, resnet50, resnet101
from jaxcnn.models.resnet_v2 import PreActBlock


class WideResNet(Model):
    """A wide residual network for 32x32 images; kernels start He normal by fan_in, as the authors' code.

    Attributes:
      depth: 6n + 4, for n blocks in each of the three stages.
      widen_factor: the paper's k; the stages have 16k, 32k and 64k features.
      dropout: rate between the two convolutions of a block (section 2.4; the paper takes 0.3 on CIFAR).
      num_classes: None returns the pooled features.
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    depth: int
    widen_factor: int
    dropout: float = 0.0
    num_classes: int | None = 10
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits, or pooled features; `train=True` uses and updates the batch's statistics."""
        blocks, odd = divmod(self.depth - 4, 6)
        if blocks < 1 or odd:
            below = max(10, 6 * blocks + 4)
            raise UsageError(f"depth={self.depth} is not 6n + 4: nearest valid depths {below} and {below + 6}")
        conv = partial(Conv, use_bias=False, kernel_init=he_normal_fan_in, dtype=self.dtype)
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
        dropout = partial(Dropout, self.dropout, deterministic=not train)

        def make_block(number: int, name: str, *, width: int, strides: int) -> nn.Module:
            rows = block_rows("basic", width, strides if number == 1 else 1, "v1")
            return PreActBlock(rows, conv, norm, dropout, name=name)

        x = Stem("cifar", 16, conv, None, name="stem")(x)
        for i in range(3):
            make = partial(make_block, width=16 * self.widen_factor * 2**i, strides=1 if i == 0 else 2)
            x = Blocks([partial(make, number) for number in range(1, blocks + 1)], name=f"stage{i + 1}")(x)
        return head(NormRelu(norm, name="norm")(x), self.num_classes)


# The networks of tables 4 and 5.
wrn_40_1 = partial(WideResNet, depth=40, widen_factor=1)
wrn_40_2 = partial(WideResNet, depth=40, widen_factor=2)
wrn_40_4 = partial(WideResNet, depth=40, widen_factor=4)
wrn_40_8 = partial(WideResNet, depth=40, widen_factor=8)
wrn_40_10 = partial(WideResNet, depth=40, widen_factor=10)
wrn_28_10 = partial(WideResNet, depth=28, widen_factor=10)
wrn_28_12 = partial(WideResNet, depth=28, widen_factor=12)
wrn_22_8 = partial(WideResNet, depth=22, widen_factor=8)
wrn_22_10 = partial(WideResNet, depth=22, widen_factor=10)
wrn_16_4 = partial(WideResNet, depth=16, widen_factor=4)
wrn_16_8 = partial(WideResNet, depth=16, widen_factor=8)
wrn_16_10 = partial(WideResNet, depth=16, widen_factor=10)

wide_resnet50_2 = partial(resnet50, width_per_group=128)
wide_resnet101_2 = partial(resnet101, width_per_group=128)

# For tests: every kind of block in a second.
wrn_tiny = partial(WideResNet, depth=10, widen_factor=2, num_classes=5)

_entry = partial(ModelEntry, paper="1605.07146", year=2016)
_cifar_entry = partial(_entry, input_shape=(32, 32, 3), num_classes=10)
_imagenet_entry = partial(_entry, input_shape=(224, 224, 3), num_classes=1000)
MODELS = {
    "wrn_16_4": _cifar_entry(wrn_16_4),
    "wrn_16_8": _cifar_entry(wrn_16_8),
    "wrn_16_10": _cifar_entry(wrn_16_10),
    "wrn_22_8": _cifar_entry(wrn_22_8),
    "wrn_22_10": _cifar_entry(wrn_22_10),
    "wrn_28_10": _cifar_entry(wrn_28_10),
    "wrn_28_12": _cifar_entry(wrn_28_12),
    "wrn_40_1": _cifar_entry(wrn_40_1),
    "wrn_40_2": _cifar_entry(wrn_40_2),
    "wrn_40_4": _cifar_entry(wrn_40_4),
    "wrn_40_8": _cifar_entry(wrn_40_8),
    "wrn_40_10": _cifar_entry(wrn_40_10),
    "wide_resnet50_2": _imagenet_entry(wide_resnet50_2),
    "wide_resnet101_2": _imagenet_entry(wide_resnet101_2),
}
