"""Pre-activation residual networks (He, Zhang, Ren and Sun 2016, 1603.05027).

BatchNorm and ReLU come before each convolution and nothing follows the addition, so the sum runs through the
whole network untouched; one last BatchNorm and ReLU precede the pooling. Where the shape changes, the
shortcut is a 1x1 convolution of the activated input, without BatchNorm. Bottlenecks take their stride in a
stage's first block (Keras: in the last block of the stage before): the CIFAR networks in its first 1x1, as
the authors' resnet-1k-layers, and the ImageNet networks in its 3x3, as timm.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.layers import BatchNorm, Conv
from jaxcnn.models.base import Model
from jaxcnn.models.resnet import ConvRow, Stage, Stem, block_rows, head


class PreActBlock(nn.Module):
    """BN-ReLU-conv, two or three times, plus the shortcut (1603.05027, figure 1b)."""

    rows: tuple[ConvRow, ...]
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 c2"]:
        """Return the block's output, h2 = ceil(h / strides)."""
        y, shortcut = x, x
        out_features = self.rows[-1][0]
        total_strides = max(strides for _, _, strides in self.rows)
        for i, (features, kernel, strides) in enumerate(self.rows, 1):
            y = nn.relu(self.norm(name=f"bn{i}")(y))
            if i == 1 and (total_strides > 1 or x.shape[-1] != out_features):
                shortcut = self.conv(out_features, 1, strides=total_strides, name="shortcut")(y)
            y = self.conv(features, kernel, strides=strides, padding=kernel // 2, name=f"conv{i}")(y)
        return shortcut + y


class PreActResNet(Model):
    """A pre-activation residual network; the attributes are those of `jaxcnn.models.resnet.ResNet`."""

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    width: int = 64
    stem: Literal["cifar", "imagenet"] = "imagenet"
    variant: Literal["v1", "v1.5"] = "v1.5"
    num_classes: int | None = 1000
    dtype: Any = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits, or pooled features; `train=True` uses and updates the batch's statistics."""
        conv = partial(Conv, use_bias=False, dtype=self.dtype)
        norm = partial(BatchNorm, use_running_average=not train, axis_name=self.axis_name, dtype=self.dtype)

        def make_block(first: bool, name: str, *, width: int, strides: int) -> nn.Module:
            rows = block_rows(self.block, width, strides if first else 1, self.variant)
            return PreActBlock(rows, conv, norm, name=name)

        x = Stem(self.stem, self.width, conv, None, name="stem")(x)
        for i, depth in enumerate(self.depths):
            make = partial(make_block, width=self.width * 2**i, strides=1 if i == 0 else 2)
            x = Stage(depth, make, name=f"stage{i + 1}")(x)
        return head(nn.relu(norm(name="bn")(x)), self.num_classes)


# CIFAR: depth = 9n + 2.
_cifar = partial(PreActResNet, block="bottleneck", width=16, stem="cifar", variant="v1", num_classes=10)
resnet164v2 = partial(_cifar, depths=(18, 18, 18))
resnet1001v2 = partial(_cifar, depths=(111, 111, 111))

resnet18v2 = partial(PreActResNet, block="basic", depths=(2, 2, 2, 2))
resnet34v2 = partial(PreActResNet, block="basic", depths=(3, 4, 6, 3))
resnet50v2 = partial(PreActResNet, block="bottleneck", depths=(3, 4, 6, 3))
resnet101v2 = partial(PreActResNet, block="bottleneck", depths=(3, 4, 23, 3))
resnet152v2 = partial(PreActResNet, block="bottleneck", depths=(3, 8, 36, 3))
resnet200v2 = partial(PreActResNet, block="bottleneck", depths=(3, 24, 36, 3))

# For tests: every kind of block in a second.
resnet_tiny_v2 = partial(PreActResNet, block="bottleneck", depths=(2, 1), width=4, num_classes=5)
