"""MnasNet (Tan et al. 2019, 1807.11626): the mobile networks of a search that measures latency on a phone.

Initialisation and constants that the paper leaves open are those of the authors' code (tensorflow/tpu,
models/official/mnasnet) where no comment says otherwise.
"""

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
    Dropout,
    InvertedResidual,
    SqueezeExcite,
    global_avg_pool,
    round_channels,
)
from jaxcnn.layers.initialisers import VarianceScaling, he_normal_fan_out
from jaxcnn.models.base import Model, ModelEntry

head_init = VarianceScaling(1 / 3, "fan_out", "uniform")


class Row(NamedTuple):
    """A stage: `depth` inverted residuals of the paper's kind MBConv`expansion`."""

    expansion: int
    features: int
    depth: int
    kernel_size: int
    strides: int
    se: bool = False


# Figure 7 of the paper, after the separable convolution.
A1 = (
    Row(6, 24, 2, 3, 2),
    Row(3, 40, 3, 5, 2, se=True),
    Row(6, 80, 4, 3, 2),
    Row(6, 112, 2, 3, 1, se=True),
    Row(6, 160, 3, 5, 2, se=True),
    Row(6, 320, 1, 3, 1),
)
# The network of the paper's first version (July 2018), searched without squeeze and excitation.
B1 = (
    Row(3, 24, 3, 3, 2),
    Row(3, 40, 3, 5, 2),
    Row(6, 80, 3, 5, 2),
    Row(6, 96, 2, 3, 1),
    Row(6, 192, 4, 5, 2),
    Row(6, 320, 1, 3, 1),
)


class MnasNet(Model):
    """MnasNet-A1 or -B1, at any width.

    Attributes:
      variant: "a1" as in the published paper, "b1" as in torchvision, without squeeze and excitation.
      width: multiplies all channels but the last convolution's.
      num_stages: takes only so many stages, from the first (the separable convolution).
      num_classes: None returns the pooled features.
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    variant: Literal["a1", "b1"] = "b1"
    width: float = 1.0
    num_stages: int = 1 + len(B1)
    num_classes: int | None = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits, or pooled features; `train=True` uses and updates the batch's statistics."""
        norm = partial(
            BatchNorm,
            use_running_average=not train,
            momentum=0.9997,  # torchvision's, after the paper; the authors' is 0.99
            epsilon=1e-5,  # torchvision's; the authors' is 1e-3
            dtype=self.dtype,
        )
        # Torchvision's padding, symmetric, where the authors' is TensorFlow's; and torchvision's fan_out of depthwise
        # kernels, which counts all channels where the authors' counts one.
        conv = partial(Conv, use_bias=False, kernel_init=he_normal_fan_out, dtype=self.dtype)
        unit = partial(ConvNorm, conv=conv, norm=norm, act=nn.relu)
        bottleneck = partial(InvertedResidual, conv=conv, norm=norm, act=nn.relu)
        squeeze_excite = partial(SqueezeExcite, kernel_init=he_normal_fan_out)

        channels = round_channels(32 * self.width)
        x = unit(channels, 3, strides=2, padding=1, name="stem")(x)
        separable = Row(1, 16, 1, 3, 1)
        for i, row in enumerate((separable, *{"a1": A1, "b1": B1}[self.variant])[: self.num_stages], 1):
            blocks = []
            for j in range(row.depth):
                expanded, se = row.expansion * channels, None
                if row.se:  # a quarter of the block's input, not of its expansion
                    se = partial(squeeze_excite, channels // 4)
                channels, strides = round_channels(row.features * self.width), row.strides if j == 0 else 1
                blocks.append(
                    partial(bottleneck, channels, expanded, kernel_size=row.kernel_size, strides=strides, se=se)
                )
            x = Blocks(blocks, name=f"stage{i}")(x)
        x = unit(1280, 1, name="top")(x)
        x = global_avg_pool(x.astype(jnp.float32))
        if self.num_classes is None:
            return x
        x = Dropout(0.2, deterministic=not train, name="dropout")(x)
        return Dense(self.num_classes, kernel_init=head_init, name="head")(x)


mnasnet0_5 = partial(MnasNet, width=0.5)
mnasnet0_75 = partial(MnasNet, width=0.75)
mnasnet1_0 = partial(MnasNet, width=1.0)
mnasnet1_3 = partial(MnasNet, width=1.3)
mnasnet_a1 = partial(MnasNet, variant="a1")

# For tests: every kind of block in a second.
mnasnet_tiny = partial(MnasNet, variant="a1", width=0.25, num_stages=3, num_classes=5)

_entry = partial(ModelEntry, paper="1807.11626", year=2018, input_shape=(224, 224, 3), num_classes=1000)
MODELS = {
    "mnasnet0_5": _entry(mnasnet0_5),
    "mnasnet0_75": _entry(mnasnet0_75),
    "mnasnet1_0": _entry(mnasnet1_0),
    "mnasnet1_3": _entry(mnasnet1_3),
    "mnasnet_a1": _entry(mnasnet_a1),
}
