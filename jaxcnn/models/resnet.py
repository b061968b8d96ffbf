"""Residual networks and their plain counterparts (He, Zhang, Ren and Sun 2015, 1512.03385).

Two families: CIFAR (section 4.2: 3x3 stem, three stages, depth 6n+2) and ImageNet (table 1). Every block is a
row of convolutions, each followed by BatchNorm, with ReLU between them and once more after the addition.

Departures from the paper, as in fb.resnet.torch and torchvision: He initialisation by fan_out (the paper:
fan_in), and bottlenecks that take their stride in the 3x3 ("v1.5"; `variant="v1"` takes it in the first 1x1,
as published).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.layers import BatchNorm, Conv, Dense, Shortcut, global_avg_pool, max_pool, residual
from jaxcnn.layers.initialisers import VarianceScaling, ones, zero_gamma
from jaxcnn.models.base import Model

ConvRow = tuple[int, int, int]  # features, kernel size, stride
# Uniform in +-1/sqrt(fan_in), the Linear layer of torch; the paper does not say.
head_init = VarianceScaling(1 / 3, "fan_in", "uniform")


def block_rows(block: str, width: int, strides: int, variant: str) -> tuple[ConvRow, ...]:
    """Return the convolutions of one block (1512.03385, figure 5), `block` being "basic" or "bottleneck"."""
    if block == "basic":
        return (width, 3, strides), (width, 3, 1)
    first, second = (strides, 1) if variant == "v1" else (1, strides)
    return (width, 1, first), (width, 3, second), (4 * width, 1, 1)


class Block(nn.Module):
    """conv-BN-ReLU ... conv-BN, plus the shortcut (None in a plain network), ReLU."""

    rows: tuple[ConvRow, ...]
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    shortcut: Callable[..., nn.Module] | None
    zero_gamma: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 c2"]:
        """Return the block's output, h2 = ceil(h / strides)."""
        y = x
        for i, (features, kernel, strides) in enumerate(self.rows, 1):
            last = i == len(self.rows)
            gamma = zero_gamma if last and self.zero_gamma else ones
            y = self.conv(features, kernel, strides=strides, padding=kernel // 2, name=f"conv{i}")(y)
            y = self.norm(scale_init=gamma, name=f"bn{i}")(y)
            y = y if last else nn.relu(y)
        if self.shortcut is not None:
            total = max(strides for _, _, strides in self.rows)
            y = residual(x, y, self.shortcut(y.shape[-1], total, name="shortcut"))
        return nn.relu(y)


class Stage(nn.Module):
    """Blocks in a row, named block1, block2, ...; `make_block(first, name=...)` builds each."""

    depth: int
    make_block: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 c2"]:
        """Return the output of the last block."""
        for i in range(1, self.depth + 1):
            x = self.make_block(i == 1, name=f"block{i}")(x)
        return x


class Stem(nn.Module):
    """The layers before stage 1: 3x3 for small images ("cifar"), or 7x7/2 and 3x3/2 max pooling ("imagenet").

    Without `norm` (pre-activation networks) there is only the convolution and the pooling.
    """

    kind: str
    width: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module] | None

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 width"]:
        """Return maps of the images' size ("cifar") or a quarter of it ("imagenet")."""
        kernel, strides = (7, 2) if self.kind == "imagenet" else (3, 1)
        x = self.conv(self.width, kernel, strides=strides, padding=kernel // 2, name="conv")(x)
        if self.norm is not None:
            x = nn.relu(self.norm(name="bn")(x))
        return max_pool(x, 3, 2, padding=1) if self.kind == "imagenet" else x


class ResNet(Model):
    """A residual network; see the variants at the end of this file.

    Attributes:
      block: two 3x3 convolutions ("basic") or 1x1, 3x3, 1x1 ("bottleneck").
      depths: blocks per stage; each stage after the first halves the maps and doubles the width.
      width: features of the first stage (a quarter of its output's for bottlenecks).
      stem: see `Stem`.
      shortcut: where shapes change, "A" subsamples and appends zero channels and "B" projects (1x1
        convolution and BatchNorm); "C" projects in every block; "none" is the plain network.
      variant: where a bottleneck takes its stride, "v1.5" in the 3x3 and "v1" in the first 1x1; basic blocks
        have one place only.
      zero_gamma: start each block as its shortcut (Goyal et al. 2017, 1706.02677).
      num_classes: None returns the pooled features.
      dtype: of the computation; parameters, statistics and logits are float32.
      axis_name: the axis of pmap or shard_map over which BatchNorm takes its statistics.
    """

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    width: int = 64
    stem: Literal["cifar", "imagenet"] = "imagenet"
    shortcut: Literal["none", "A", "B", "C"] = "B"
    variant: Literal["v1", "v1.5"] = "v1.5"
    zero_gamma: bool = False
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
        plain = self.shortcut == "none"
        shortcut = None if plain else partial(Shortcut, option=self.shortcut, norm=norm, dtype=self.dtype)

        def make_block(first: bool, name: str, *, width: int, strides: int) -> nn.Module:
            rows = block_rows(self.block, width, strides if first else 1, self.variant)
            return Block(rows, conv, norm, shortcut, self.zero_gamma, name=name)

        x = Stem(self.stem, self.width, conv, norm, name="stem")(x)
        for i, depth in enumerate(self.depths):
            make = partial(make_block, width=self.width * 2**i, strides=1 if i == 0 else 2)
            x = Stage(depth, make, name=f"stage{i + 1}")(x)
        return head(x, self.num_classes)


def head(x: Float[Array, "batch h w c"], num_classes: int | None) -> Float[Array, "batch outputs"]:
    """Return float32 logits of the globally averaged maps (layer `head`); without classes, the averages."""
    x = global_avg_pool(x.astype(jnp.float32))
    return x if num_classes is None else Dense(num_classes, kernel_init=head_init, name="head")(x)


# The paper's CIFAR networks have option A everywhere; depth = 6n + 2.
_cifar = partial(ResNet, block="basic", width=16, stem="cifar", shortcut="A", num_classes=10)
resnet20 = partial(_cifar, depths=(3, 3, 3))
resnet32 = partial(_cifar, depths=(5, 5, 5))
resnet44 = partial(_cifar, depths=(7, 7, 7))
resnet56 = partial(_cifar, depths=(9, 9, 9))
resnet110 = partial(_cifar, depths=(18, 18, 18))
resnet1202 = partial(_cifar, depths=(200, 200, 200))
plain20 = partial(resnet20, shortcut="none")
plain32 = partial(resnet32, shortcut="none")
plain44 = partial(resnet44, shortcut="none")
plain56 = partial(resnet56, shortcut="none")
plain110 = partial(resnet110, shortcut="none")

# Option B throughout, as released; the paper's table 2 has resnet18 and resnet34 with shortcut="A".
resnet18 = partial(ResNet, block="basic", depths=(2, 2, 2, 2))
resnet34 = partial(ResNet, block="basic", depths=(3, 4, 6, 3))
resnet50 = partial(ResNet, block="bottleneck", depths=(3, 4, 6, 3))
resnet101 = partial(ResNet, block="bottleneck", depths=(3, 4, 23, 3))
resnet152 = partial(ResNet, block="bottleneck", depths=(3, 8, 36, 3))
plain18 = partial(resnet18, shortcut="none")
plain34 = partial(resnet34, shortcut="none")

# For tests: every kind of block in a second.
resnet_tiny = partial(ResNet, block="bottleneck", depths=(2, 1), width=4, num_classes=5)
