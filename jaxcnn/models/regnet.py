"""RegNetX and RegNetY (Radosavovic, Kosaraju, Girshick, He and Dollár 2020, 2003.13678).

The widths of all blocks follow one quantised line, four numbers, computed in `stage_widths`. A block is a residual
bottleneck that does not narrow (ratio 1), its 3x3 in groups of `group_width` channels; Y adds squeeze and
excitation after the 3x3.
"""

import itertools
from collections.abc import Callable
from functools import partial
from math import log
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.errors import UsageError
from jaxcnn.layers import (
    BatchNorm,
    Blocks,
    Conv,
    ConvNorm,
    Dense,
    Shortcut,
    SqueezeExcite,
    global_avg_pool,
    residual,
    round_channels,
)
from jaxcnn.layers.initialisers import Normal
from jaxcnn.models.base import Model, ModelEntry

# That of the authors' code; the paper does not say. Kernels start He normal by fan_out, likewise.
head_init = Normal(0.01)


def stage_widths(depth: int, w0: int, wa: float, wm: float, group_width: int, rounding: str) -> list[tuple[int, int]]:
    """Return (width, depth) of each stage (2003.13678, section 3.3, equations 2 to 4).

    Args:
      depth: of all stages together.
      w0: width of the first block.
      wa: slope; block j would have the width u = w0 + wa * j.
      wm: each stage is this many times as wide as the one before: u = w0 * wm^s, and s is rounded.
      group_width: the widths are multiples of it.
      rounding: to these multiples, see `RegNet`.
    """
    if wm <= 1:
        raise UsageError(f"wm={wm}: each stage is to be wider than the one before, expected more than 1")
    steps = [round(log((w0 + wa * j) / w0) / log(wm)) for j in range(depth)]
    widths = [8 * round(w0 * wm**s / 8) for s in steps]
    stages = [(width, len(list(same))) for width, same in itertools.groupby(widths)]

    def compatible(width: int) -> int:
        group = min(group_width, width)
        return group * round(width / group) if rounding == "paper" else round_channels(width, group)

    return [(compatible(width), blocks) for width, blocks in stages]


class RegNetBlock(nn.Module):
    """1x1, grouped 3x3, squeeze and excitation in Y, 1x1, plus the shortcut, ReLU (2003.13678, figure 4).

    `se_features` is None in X.
    """

    features: int
    strides: int
    groups: int
    se_features: int | None
    conv_norm: Callable[..., nn.Module]
    shortcut: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 features"]:
        """Return the block's output, h2 = ceil(h / strides)."""
        y = self.conv_norm(self.features, 1, name="conv1")(x)
        y = self.conv_norm(self.features, 3, strides=self.strides, padding=1, groups=self.groups, name="conv2")(y)
        if self.se_features is not None:
            y = SqueezeExcite(self.se_features, name="se")(y)
        y = self.conv_norm(self.features, 1, act=None, name="conv3")(y)
        return nn.relu(residual(x, y, self.shortcut(self.features, self.strides, name="shortcut")))


class RegNet(Model):
    """A RegNet; see the variants at the end of this file.

    Attributes:
      depth: blocks in all; with w0, wa and wm the parameters of the widths, see `stage_widths`.
      w0: see `stage_widths`.
      wa: see `stage_widths`.
      wm: see `stage_widths`.
      group_width: channels of each group of the 3x3 convolutions.
      squeeze_excite: Y has it, X has not; a quarter of the block's input channels are hidden features.
      rounding: of the widths to multiples of the group width: "paper" to the nearest, half to even (the tables
        of the paper, timm), "torchvision" half up and never below 90 %.
      num_classes: None returns the pooled features.
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    depth: int
    w0: int
    wa: float
    wm: float
    group_width: int
    squeeze_excite: bool = False
    rounding: Literal["paper", "torchvision"] = "paper"
    num_classes: int | None = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits, or pooled features; `train=True` uses and updates the batch's statistics."""
        conv = partial(Conv, use_bias=False, dtype=self.dtype)
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
        conv_norm = partial(ConvNorm, conv=conv, norm=norm)
        shortcut = partial(Shortcut, norm=norm, dtype=self.dtype)

        def make_block(number: int, name: str, *, inputs: int, width: int) -> nn.Module:
            strides, inputs = (2, inputs) if number == 1 else (1, width)
            groups = width // min(self.group_width, width)
            se_features = round(inputs / 4) if self.squeeze_excite else None
            return RegNetBlock(width, strides, groups, se_features, conv_norm, shortcut, name=name)

        x = conv_norm(32, 3, strides=2, padding=1, name="stem")(x)
        stages = stage_widths(self.depth, self.w0, self.wa, self.wm, self.group_width, self.rounding)
        for i, (width, blocks) in enumerate(stages, 1):
            make = partial(make_block, inputs=x.shape[-1], width=width)
            x = Blocks([partial(make, number) for number in range(1, blocks + 1)], name=f"stage{i}")(x)
        x = global_avg_pool(x.astype(jnp.float32))
        return x if self.num_classes is None else Dense(self.num_classes, kernel_init=head_init, name="head")(x)


# The numbers are those of the authors' model zoo. With `rounding="torchvision"`, a departure from the paper, are the
# three networks that torchvision publishes with other widths: X-400MF ends in 400 channels (paper: 384), Y-800MF
# has 144 and 784 (128 and 768) and Y-8GF starts with 224 (168).
regnet_x_200mf = partial(RegNet, depth=13, w0=24, wa=36.44, wm=2.49, group_width=8)
regnet_x_400mf = partial(RegNet, depth=22, w0=24, wa=24.48, wm=2.54, group_width=16, rounding="torchvision")
regnet_x_600mf = partial(RegNet, depth=16, w0=48, wa=36.97, wm=2.24, group_width=24)
regnet_x_800mf = partial(RegNet, depth=16, w0=56, wa=35.73, wm=2.28, group_width=16)
regnet_x_1_6gf = partial(RegNet, depth=18, w0=80, wa=34.01, wm=2.25, group_width=24)
regnet_x_3_2gf = partial(RegNet, depth=25, w0=88, wa=26.31, wm=2.25, group_width=48)
regnet_x_4gf = partial(RegNet, depth=23, w0=96, wa=38.65, wm=2.43, group_width=40)
regnet_x_6_4gf = partial(RegNet, depth=17, w0=184, wa=60.83, wm=2.07, group_width=56)
regnet_x_8gf = partial(RegNet, depth=23, w0=80, wa=49.56, wm=2.88, group_width=120)
regnet_x_12gf = partial(RegNet, depth=19, w0=168, wa=73.36, wm=2.37, group_width=112)
regnet_x_16gf = partial(RegNet, depth=22, w0=216, wa=55.59, wm=2.1, group_width=128)
regnet_x_32gf = partial(RegNet, depth=23, w0=320, wa=69.86, wm=2.0, group_width=168)

_y = partial(RegNet, squeeze_excite=True)
regnet_y_200mf = partial(_y, depth=13, w0=24, wa=36.44, wm=2.49, group_width=8)
regnet_y_400mf = partial(_y, depth=16, w0=48, wa=27.89, wm=2.09, group_width=8)
regnet_y_600mf = partial(_y, depth=15, w0=48, wa=32.54, wm=2.32, group_width=16)
regnet_y_800mf = partial(_y, depth=14, w0=56, wa=38.84, wm=2.4, group_width=16, rounding="torchvision")
regnet_y_1_6gf = partial(_y, depth=27, w0=48, wa=20.71, wm=2.65, group_width=24)
regnet_y_3_2gf = partial(_y, depth=21, w0=80, wa=42.63, wm=2.66, group_width=24)
regnet_y_4gf = partial(_y, depth=22, w0=96, wa=31.41, wm=2.24, group_width=64)
regnet_y_6_4gf = partial(_y, depth=25, w0=112, wa=33.22, wm=2.27, group_width=72)
regnet_y_8gf = partial(_y, depth=17, w0=192, wa=76.82, wm=2.19, group_width=56, rounding="torchvision")
regnet_y_12gf = partial(_y, depth=19, w0=168, wa=73.36, wm=2.37, group_width=112)
regnet_y_16gf = partial(_y, depth=18, w0=200, wa=106.23, wm=2.48, group_width=112)
regnet_y_32gf = partial(_y, depth=20, w0=232, wa=115.89, wm=2.53, group_width=232)

# For tests: two stages of two groups of 8, and 1 and 2 blocks.
regnet_tiny = partial(_y, depth=3, w0=16, wa=8.0, wm=2.0, group_width=8, num_classes=5)

_entry = partial(ModelEntry, paper="2003.13678", year=2020, input_shape=(224, 224, 3), num_classes=1000)
MODELS = {
    "regnet_x_200mf": _entry(regnet_x_200mf),
    "regnet_x_400mf": _entry(regnet_x_400mf),
    "regnet_x_600mf": _entry(regnet_x_600mf),
    "regnet_x_800mf": _entry(regnet_x_800mf),
    "regnet_x_1_6gf": _entry(regnet_x_1_6gf),
    "regnet_x_3_2gf": _entry(regnet_x_3_2gf),
    "regnet_x_4gf": _entry(regnet_x_4gf),
    "regnet_x_6_4gf": _entry(regnet_x_6_4gf),
    "regnet_x_8gf": _entry(regnet_x_8gf),
    "regnet_x_12gf": _entry(regnet_x_12gf),
    "regnet_x_16gf": _entry(regnet_x_16gf),
    "regnet_x_32gf": _entry(regnet_x_32gf),
    "regnet_y_200mf": _entry(regnet_y_200mf),
    "regnet_y_400mf": _entry(regnet_y_400mf),
    "regnet_y_600mf": _entry(regnet_y_600mf),
    "regnet_y_800mf": _entry(regnet_y_800mf),
    "regnet_y_1_6gf": _entry(regnet_y_1_6gf),
    "regnet_y_3_2gf": _entry(regnet_y_3_2gf),
    "regnet_y_4gf": _entry(regnet_y_4gf),
    "regnet_y_6_4gf": _entry(regnet_y_6_4gf),
    "regnet_y_8gf": _entry(regnet_y_8gf),
    "regnet_y_12gf": _entry(regnet_y_12gf),
    "regnet_y_16gf": _entry(regnet_y_16gf),
    "regnet_y_32gf": _entry(regnet_y_32gf),
}
