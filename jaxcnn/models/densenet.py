"""Densely connected networks (Huang, Liu, van der Maaten and Weinberger 2016, 1608.06993).

Each layer is given the outputs of all layers before it in its block, concatenated, and adds `growth_rate` maps.
Transitions between blocks halve the maps. "B" is a 1x1 bottleneck in each layer, "C" halves the channels in the
transitions (section 3); the ImageNet networks have both. Details as in the authors' code
(liuzhuang13/DenseNet), among them He initialisation by fan_out (torchvision: fan_in).
"""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.layers import BatchNorm, Blocks, Conv, Dropout, NormRelu, avg_pool, he_normal_fan_out
from jaxcnn.models.base import Model, ModelEntry
from jaxcnn.models.resnet import Stem, head


class DenseLayer(nn.Module):
    """BN-ReLU-conv 3x3, or with the bottleneck BN-ReLU-conv 1x1 to 4 `growth_rate` maps before it.

    `drop` makes the dropout after each convolution.
    """

    growth_rate: int
    bottleneck: bool
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    drop: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w c2"]:
        """Return `x` with `growth_rate` new maps behind it: c2 = c + growth_rate."""
        rows = ((4 * self.growth_rate, 1), (self.growth_rate, 3)) if self.bottleneck else ((self.growth_rate, 3),)
        new = x
        for i, (features, kernel) in enumerate(rows, 1):
            new = nn.relu(self.norm(name=f"norm{i}")(new))
            new = self.conv(features, kernel, padding=kernel // 2, name=f"conv{i}")(new)
            new = self.drop(name=f"dropout{i}")(new)
        return jnp.concatenate([x, new], axis=-1)


class Transition(nn.Module):
    """BN-ReLU-conv 1x1 to floor(compression * channels), 2x2 average pooling."""

    compression: float
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    drop: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 c2"]:
        """Return maps of half the size, rounded down."""
        features = int(Fraction(str(self.compression)) * x.shape[-1])
        x = nn.relu(self.norm(name="norm")(x))
        x = self.drop(name="dropout")(self.conv(features, 1, name="conv")(x))
        return avg_pool(x, 2)


class DenseNet(Model):
    """A densely connected network; see the variants at the end of this file.

    The dense blocks are the stages; `norm` is the last one's output behind BatchNorm and ReLU.

    Attributes:
      depths: layers of each dense block.
      growth_rate: maps that each layer adds, the paper's k.
      bottleneck: whether the layers have a 1x1 convolution ("B").
      compression: share of the channels that a transition keeps ("C" where below 1).
      stem: "imagenet": 7x7/2, BatchNorm, ReLU and max pooling; "cifar": a 3x3 convolution.
      stem_width: its channels.
      dropout: rate after each convolution but the first; the paper has 0.2 where there is no data augmentation.
      num_classes: None returns the pooled features.
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    depths: tuple[int, ...]
    growth_rate: int
    bottleneck: bool = True
    compression: float = 0.5
    stem: Literal["cifar", "imagenet"] = "imagenet"
    stem_width: int = 64
    dropout: float = 0.0
    num_classes: int | None = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits, or pooled features; `train=True` uses and updates the batch's statistics."""
        # The authors' code: by fan_out; torchvision has fan_in.
        conv = partial(Conv, use_bias=False, kernel_init=he_normal_fan_out, dtype=self.dtype)
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
        drop = partial(Dropout, self.dropout, not train)
        layer = partial(DenseLayer, self.growth_rate, self.bottleneck, conv, norm, drop)

        x = Stem(self.stem, self.stem_width, conv, norm if self.stem == "imagenet" else None, name="stem")(x)
        for i, depth in enumerate(self.depths, 1):
            if i > 1:
                x = Transition(self.compression, conv, norm, drop, name=f"transition{i - 1}")(x)
            x = Blocks([layer] * depth, name=f"stage{i}")(x)
        return head(NormRelu(norm, name="norm")(x), self.num_classes)


# Table 1.
densenet121 = partial(DenseNet, depths=(6, 12, 24, 16), growth_rate=32)
densenet169 = partial(DenseNet, depths=(6, 12, 32, 32), growth_rate=32)
densenet201 = partial(DenseNet, depths=(6, 12, 48, 32), growth_rate=32)
densenet161 = partial(DenseNet, depths=(6, 12, 36, 24), growth_rate=48, stem_width=96)

# CIFAR: L = 3n + 4 layers, with bottlenecks L = 6n + 4.
_cifar = partial(DenseNet, stem="cifar", num_classes=10)
_plain = partial(_cifar, bottleneck=False, compression=1.0, stem_width=16)
densenet40_k12 = partial(_plain, depths=(12, 12, 12), growth_rate=12)
densenet100_k12 = partial(_plain, depths=(32, 32, 32), growth_rate=12)
densenet100_k24 = partial(_plain, depths=(32, 32, 32), growth_rate=24)
densenet_bc100_k12 = partial(_cifar, depths=(16, 16, 16), growth_rate=12, stem_width=24)
densenet_bc250_k24 = partial(_cifar, depths=(41, 41, 41), growth_rate=24, stem_width=48)
densenet_bc190_k40 = partial(_cifar, depths=(31, 31, 31), growth_rate=40, stem_width=80)

# For tests: every kind of block in a second.
densenet_tiny = partial(DenseNet, depths=(2, 1), growth_rate=4, stem_width=8, num_classes=5)

_entry = partial(ModelEntry, paper="1608.06993", year=2016)
_cifar_entry = partial(_entry, input_shape=(32, 32, 3), num_classes=10)
_imagenet_entry = partial(_entry, input_shape=(224, 224, 3), num_classes=1000)
MODELS = {
    "densenet40_k12": _cifar_entry(densenet40_k12),
    "densenet100_k12": _cifar_entry(densenet100_k12),
    "densenet100_k24": _cifar_entry(densenet100_k24),
    "densenet_bc100_k12": _cifar_entry(densenet_bc100_k12),
    "densenet_bc250_k24": _cifar_entry(densenet_bc250_k24),
    "densenet_bc190_k40": _cifar_entry(densenet_bc190_k40),
    "densenet121": _imagenet_entry(densenet121),
    "densenet161": _imagenet_entry(densenet161),
    "densenet169": _imagenet_entry(densenet169),
    "densenet201": _imagenet_entry(densenet201),
}
