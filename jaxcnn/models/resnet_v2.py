"""Pre-activation residual networks (He, Zhang, Ren and Sun 2016, 1603.05027).

BatchNorm and ReLU come before each convolution and nothing follows the addition, so the sum runs through the
whole network untouched; one last BatchNorm and ReLU precede the pooling. Where the number of channels changes,
the shortcut is a 1x1 convolution of the activated input, without BatchNorm. Bottlenecks take their stride in a
stage's first block: the CIFAR networks in its first 1x1, as the authors' resnet-1k-layers, and the ImageNet
networks in its 3x3, as timm. Keras and TF-slim released others, `variant="keras"`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.layers import BatchNorm, Blocks, Conv, NormRelu
from jaxcnn.models.base import Model, ModelEntry
from jaxcnn.models.resnet import ConvRow, Stem, block_rows, head


class PreActBlock(nn.Module):
    """BN-ReLU-conv, two or three times, plus the shortcut (1603.05027, figure 1b).

    `dropout(name=...)`, where there is one, makes what comes before the last convolution. `use_bias` is of the
    convolutions whose sum is the output, the only ones that no BatchNorm follows in the block.
    """

    rows: tuple[ConvRow, ...]
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    dropout: Callable[..., nn.Module] | None = None
    use_bias: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 c2"]:
        """Return the block's output, h2 = ceil(h / strides)."""
        y = x
        out_features = self.rows[-1].features
        total_strides = max(row.strides for row in self.rows)
        shortcut = x[:, ::total_strides, ::total_strides]
        for i, row in enumerate(self.rows, 1):
            last = i == len(self.rows)
            y = nn.relu(self.norm(name=f"bn{i}")(y))
            if i == 1 and x.shape[-1] != out_features:
                shortcut = self.conv(out_features, 1, strides=total_strides, use_bias=self.use_bias, name="shortcut")(y)
            if last and self.dropout is not None:
                y = self.dropout(name="dropout")(y)
            y = self.conv(
                row.features,
                row.kernel_size,
                strides=row.strides,
                padding=row.padding,
                use_bias=last and self.use_bias,
                name=f"conv{i}",
            )(y)
        return shortcut + y


class PreActResNet(Model):
    """A pre-activation residual network; the attributes are those of `jaxcnn.models.resnet.ResNet`, but for:

    Attributes:
      variant: "v1" and "v1.5" are those of `ResNet`. In "keras" a stage ends with the stride, in the last block's
        3x3 with a subsampled shortcut, where the others' next stage begins with it; the convolutions that no
        BatchNorm follows in their block have biases; and the stem's pooling sees zeros around its maps.
    """

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    width: int = 64
    stem: Literal["cifar", "imagenet"] = "imagenet"
    variant: Literal["v1", "v1.5", "keras"] = "v1.5"
    num_classes: int | None = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits, or pooled features; `train=True` uses and updates the batch's statistics."""
        keras = self.variant == "keras"
        conv = partial(Conv, use_bias=False, dtype=self.dtype)
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)

        def make_block(number: int, name: str, *, width: int, strides: int, strided: int) -> nn.Module:
            rows = block_rows(self.block, width, strides if number == strided else 1, self.variant)
            return PreActBlock(rows, conv, norm, use_bias=keras, name=name)

        x = Stem(self.stem, self.width, partial(conv, use_bias=keras), None, zero_padded=keras, name="stem")(x)
        for i, depth in enumerate(self.depths):
            unstrided = len(self.depths) - 1 if keras else 0  # The stage that keeps the size.
            make = partial(
                make_block,
                width=self.width * 2**i,
                strides=1 if i == unstrided else 2,
                strided=depth if keras else 1,
            )
            x = Blocks([partial(make, number) for number in range(1, depth + 1)], name=f"stage{i + 1}")(x)
        return head(NormRelu(norm, name="norm")(x), self.num_classes)


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

_entry = partial(ModelEntry, paper="1603.05027", year=2016)
_cifar_entry = partial(_entry, input_shape=(32, 32, 3), num_classes=10)
_imagenet_entry = partial(_entry, input_shape=(224, 224, 3), num_classes=1000)
MODELS = {
    "resnet164v2": _cifar_entry(resnet164v2),
    "resnet1001v2": _cifar_entry(resnet1001v2),
    "resnet18v2": _imagenet_entry(resnet18v2),
    "resnet34v2": _imagenet_entry(resnet34v2),
    "resnet50v2": _imagenet_entry(resnet50v2),
    "resnet101v2": _imagenet_entry(resnet101v2),
    "resnet152v2": _imagenet_entry(resnet152v2),
    "resnet200v2": _imagenet_entry(resnet200v2),
}
