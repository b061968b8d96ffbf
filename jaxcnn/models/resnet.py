"""Residual networks and their plain counterparts (He, Zhang, Ren and Sun 2015, 1512.03385).

Two families: CIFAR (section 4.2: 3x3 stem, three stages, depth 6n+2) and ImageNet (table 1). Every block is a
row of convolutions, each followed by BatchNorm, with ReLU between them and once more after the addition.

Departures from the paper, as in fb.resnet.torch and torchvision: He initialisation by fan_out (the paper:
fan_in), and bottlenecks that take their stride in the 3x3 ("v1.5"; `variant="v1"` takes it in the first 1x1,
as published).
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.errors import UsageError
from jaxcnn.layers import BatchNorm, Blocks, Conv, Dense, Shortcut, global_avg_pool, max_pool, residual
from jaxcnn.layers.initialisers import VarianceScaling, he_normal_fan_out, ones, zero_gamma
from jaxcnn.models.base import Model, ModelEntry

# Uniform in +-1/sqrt(fan_in), the Linear layer of torch; the paper does not say.
head_init = VarianceScaling(1 / 3, "fan_in", "uniform")


class ConvRow(NamedTuple):
    """One convolution of a block."""

    features: int
    kernel_size: int
    strides: int = 1
    dilation: int = 1
    groups: int = 1

    @property
    def padding(self) -> int:
        """The padding, on each side, that keeps the size at stride 1."""
        return self.kernel_size // 2 * self.dilation


def block_rows(
    block: str,
    width: int,
    strides: int,
    variant: str,
    inner_width: int | None = None,
    groups: int = 1,
    dilation: tuple[int, int] = (1, 1),
) -> tuple[ConvRow, ...]:
    """Return the convolutions of one block (1512.03385, figure 5).

    Args:
      block: "basic" or "bottleneck".
      width: features of a basic block, a quarter of a bottleneck's.
      strides: of the whole block.
      variant: see `ResNet`.
      inner_width: of a bottleneck's 3x3; None is `width`.
      groups: of a bottleneck's 3x3.
      dilation: up to and including the strided convolution, and after it.
    """
    before, after = dilation
    if block == "basic":
        return ConvRow(width, 3, strides, before), ConvRow(width, 3, 1, after)
    inner = width if inner_width is None else inner_width
    if variant == "v1":
        return ConvRow(inner, 1, strides), ConvRow(inner, 3, 1, after, groups), ConvRow(4 * width, 1)
    return ConvRow(inner, 1), ConvRow(inner, 3, strides, before, groups), ConvRow(4 * width, 1)


class Block(nn.Module):
    """conv-BN-ReLU ... conv-BN, plus the shortcut (None in a plain network), ReLU.

    `squeeze_excite(features, name=...)`, where there is one, makes what scales the branch before the addition.
    """

    rows: tuple[ConvRow, ...]
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module]
    shortcut: Callable[..., nn.Module] | None
    zero_gamma: bool = False
    squeeze_excite: Callable[..., nn.Module] | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 c2"]:
        """Return the block's output, h2 = ceil(h / strides)."""
        y = x
        for i, row in enumerate(self.rows, 1):
            last = i == len(self.rows)
            gamma = zero_gamma if last and self.zero_gamma else ones
            y = self.conv(
                row.features,
                row.kernel_size,
                strides=row.strides,
                padding=row.padding,
                kernel_dilation=row.dilation,
                groups=row.groups,
                name=f"conv{i}",
            )(y)
            y = self.norm(scale_init=gamma, name=f"bn{i}")(y)
            y = y if last else nn.relu(y)
        if self.squeeze_excite is not None:
            y = self.squeeze_excite(y.shape[-1], name="se")(y)
        if self.shortcut is not None:
            total = max(row.strides for row in self.rows)
            y = residual(x, y, self.shortcut(y.shape[-1], total, name="shortcut"))
        return nn.relu(y)


class Stem(nn.Module):
    """The layers before stage 1: 3x3 for small images ("cifar"), or 7x7/2 and 3x3/2 max pooling ("imagenet").

    Without `norm` (pre-activation networks) there is only the convolution and the pooling. `zero_padded` pools
    with zeros around the maps, which matters where they may be negative.
    """

    kind: str
    width: int
    conv: Callable[..., nn.Module]
    norm: Callable[..., nn.Module] | None
    zero_padded: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 width"]:
        """Return maps of the images' size ("cifar") or a quarter of it ("imagenet")."""
        kernel, strides = (7, 2) if self.kind == "imagenet" else (3, 1)
        x = self.conv(self.width, kernel, strides=strides, padding=kernel // 2, name="conv")(x)
        if self.norm is not None:
            x = nn.relu(self.norm(name="bn")(x))
        if self.kind == "cifar":
            return x
        if self.zero_padded:
            return max_pool(jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), 3, 2)
        return max_pool(x, 3, 2, padding=1)


class ResNet(Model):
    """A residual network; see the variants at the end of this file.

    Attributes:
      block: two 3x3 convolutions ("basic") or 1x1, 3x3, 1x1 ("bottleneck").
      depths: blocks per stage; each stage after the first halves the maps and doubles the width.
      width: features of the first stage (a quarter of its output's for bottlenecks).
      stem: see `Stem`.
      shortcut: where shapes change, "A" subsamples and appends zero channels ("A_centred": half of them before)
        and "B" projects (1x1 convolution and BatchNorm); "C" projects in every block; "none" is the plain network.
      variant: where a bottleneck takes its stride, "v1.5" in the 3x3 and "v1" in the first 1x1; basic blocks
        have one place only.
      groups: of the 3x3 of bottlenecks (ResNeXt's cardinality).
      width_per_group: of the 3x3 of the first stage's bottlenecks, in 64ths of `width`: its features are
        groups * (width * width_per_group / 64), and double with the stages.
      output_stride: the most by which the maps shrink; stages that would go beyond keep their size and dilate
        their 3x3 convolutions instead, so that each still sees what it would have seen (DeepLab).
      zero_gamma: start each block as its shortcut (Goyal et al. 2017, 1706.02677).
      num_classes: None returns the pooled features.
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    block: Literal["basic", "bottleneck"]
    depths: tuple[int, ...]
    width: int = 64
    stem: Literal["cifar", "imagenet"] = "imagenet"
    shortcut: Literal["none", "A", "A_centred", "B", "C"] = "B"
    variant: Literal["v1", "v1.5"] = "v1.5"
    groups: int = 1
    width_per_group: int = 64
    output_stride: Literal[8, 16, 32] = 32
    zero_gamma: bool = False
    num_classes: int | None = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits, or pooled features; `train=True` uses and updates the batch's statistics."""
        return head(self.stage_maps(x, train)[-1], self.num_classes)

    @nn.nowrap
    def stage_maps(self, x: Float[Array, "batch height width channels"], train: bool) -> list[Array]:
        """Return the output of each stage, making stem and stages in the `__call__` that this is called from."""
        if self.block == "basic" and (self.groups, self.width_per_group) != (1, 64):
            raise UsageError("groups and width_per_group are a bottleneck's: block='basic' has 1 and 64")
        # Section 3.4 cites He et al. for the initialisation, by fan_in there; the released code has fan_out.
        conv = partial(Conv, use_bias=False, kernel_init=he_normal_fan_out, dtype=self.dtype)
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
        plain = self.shortcut == "none"
        shortcut = None if plain else partial(Shortcut, option=self.shortcut, norm=norm, dtype=self.dtype)
        squeeze_excite = self.squeeze_excite()

        def make_block(number: int, name: str, *, width: int, strides: int, dilation: tuple[int, int]) -> nn.Module:
            first = number == 1
            rows = block_rows(
                self.block,
                width,
                strides if first else 1,
                self.variant,
                inner_width=self.groups * max(1, width * self.width_per_group // 64),
                groups=self.groups,
                dilation=dilation if first else (dilation[1], dilation[1]),
            )
            return Block(rows, conv, norm, shortcut, self.zero_gamma, squeeze_excite, name=name)

        x = Stem(self.stem, self.width, conv, norm, name="stem")(x)
        maps = []
        shrunk, dilation = 4 if self.stem == "imagenet" else 1, 1
        for i, depth in enumerate(self.depths):
            before, strides = dilation, 1 if i == 0 else 2
            if shrunk * strides > self.output_stride:
                dilation, strides = dilation * strides, 1
            shrunk *= strides
            make = partial(make_block, width=self.width * 2**i, strides=strides, dilation=(before, dilation))
            x = Blocks([partial(make, number) for number in range(1, depth + 1)], name=f"stage{i + 1}")(x)
            maps.append(x)
        return maps

    @nn.nowrap
    def squeeze_excite(self) -> Callable[..., nn.Module] | None:
        """Return what makes `Block.squeeze_excite`; None in a plain ResNet, for networks built on it to replace."""
        return None


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

_entry = partial(ModelEntry, paper="1512.03385", year=2015)
_cifar_entry = partial(_entry, input_shape=(32, 32, 3), num_classes=10)
_imagenet_entry = partial(_entry, input_shape=(224, 224, 3), num_classes=1000)
MODELS = {
    "resnet20": _cifar_entry(resnet20),
    "resnet32": _cifar_entry(resnet32),
    "resnet44": _cifar_entry(resnet44),
    "resnet56": _cifar_entry(resnet56),
    "resnet110": _cifar_entry(resnet110),
    "resnet1202": _cifar_entry(resnet1202),
    "plain20": _cifar_entry(plain20),
    "plain32": _cifar_entry(plain32),
    "plain44": _cifar_entry(plain44),
    "plain56": _cifar_entry(plain56),
    "plain110": _cifar_entry(plain110),
    "resnet18": _imagenet_entry(resnet18),
    "resnet34": _imagenet_entry(resnet34),
    "resnet50": _imagenet_entry(resnet50),
    "resnet101": _imagenet_entry(resnet101),
    "resnet152": _imagenet_entry(resnet152),
    "plain18": _imagenet_entry(plain18),
    "plain34": _imagenet_entry(plain34),
}
