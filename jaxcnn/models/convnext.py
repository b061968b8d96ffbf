"""ConvNeXt (Liu, Mao, Wu, Feichtenhofer, Darrell and Xie 2022, 2201.03545).

A ResNet taken step by step to the design of a Swin Transformer (section 2): a stem that cuts the image into 4x4
patches, downsampling layers of their own between the stages, and blocks of a depthwise 7x7 and an inverted
bottleneck, with one LayerNorm and one GELU each.
"""

from functools import partial
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.errors import UsageError
from jaxcnn.layers import Conv, Dense, LayerNorm, StochasticDepth, global_avg_pool, residual
from jaxcnn.layers.initialisers import Constant, Normal
from jaxcnn.models.base import Model, ModelEntry

# Table 5: a truncated normal of 0.02. The authors' code cuts it at +-2, a hundred deviations, which is no cut.
# Biases start at zero.
kernel_init = Normal(0.02)


class Block(nn.Module):
    """Depthwise 7x7, LayerNorm, 1x1 to four times the width, GELU, 1x1 back, layer scale (figure 4).

    Attributes:
        features: channels, of input and output alike.
        layer_scale: initial value of the factor of each channel of the branch (Touvron et al. 2021, 2103.17239).
        drop_rate: of the stochastic depth of the branch.
        deterministic: no stochastic depth.
        dtype: of the computation.
    """

    features: int
    layer_scale: float
    drop_rate: float
    deterministic: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w features"]) -> Float[Array, "batch h w features"]:
        """Return the block's output."""
        conv = partial(Conv, kernel_init=kernel_init, dtype=self.dtype)
        dense = partial(Dense, kernel_init=kernel_init, dtype=self.dtype)
        y = conv(self.features, 7, padding=3, groups=self.features, name="depthwise")(x)
        y = LayerNorm(dtype=self.dtype, name="norm")(y)
        y = dense(4 * self.features, name="fc1")(y)
        y = nn.gelu(y, approximate=False)
        y = dense(self.features, name="fc2")(y)
        scale = self.param("layer_scale", Constant(self.layer_scale), (self.features,), jnp.float32)
        y = y * scale.astype(self.dtype)
        return residual(x, StochasticDepth(self.drop_rate, self.deterministic, name="stochastic_depth")(y))


class Stem(nn.Module):
    """4x4 convolution with stride 4, LayerNorm."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h/4 w/4 features"]:
        """Return the normalised patches."""
        x = Conv(self.features, 4, strides=4, kernel_init=kernel_init, dtype=self.dtype, name="conv")(x)
        return LayerNorm(dtype=self.dtype, name="norm")(x)


class Stage(nn.Module):
    """LayerNorm and a 2x2 convolution with stride 2 (`downsample`); then block1, block2, ...

    Attributes:
        features: channels of the result.
        downsample: whether to begin so; the first stage does not.
        layer_scale: see `Block`.
        drop_rates: of each block.
        deterministic: see `Block`.
        dtype: of the computation.
    """

    features: int
    downsample: bool
    layer_scale: float
    drop_rates: tuple[float, ...]
    deterministic: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 features"]:
        """Return the output of the last block, h2 = h or h / 2."""
        if self.downsample:
            x = LayerNorm(dtype=self.dtype, name="norm")(x)
            x = Conv(self.features, 2, strides=2, kernel_init=kernel_init, dtype=self.dtype, name="downsample")(x)
        for i, rate in enumerate(self.drop_rates, 1):
            block = Block(self.features, self.layer_scale, rate, self.deterministic, self.dtype, name=f"block{i}")
            x = block(x)
        return x


class ConvNeXt(Model):
    """ConvNeXt; see the variants at the end of this file.

    Attributes:
        depths: blocks per stage.
        widths: channels per stage.
        stochastic_depth: rate of dropping the branch of the last block; it grows linearly from 0 in the first.
        layer_scale: initial value of each block's layer scale.
        num_classes: None returns the pooled and normalised features.
        dtype: of the computation; parameters and logits are float32.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...]
    stochastic_depth: float
    layer_scale: float = 1e-6
    num_classes: int | None = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits, or normalised features; `train=True` drops branches."""
        if len(self.depths) != len(self.widths):
            raise UsageError(f"depths={self.depths}, widths={self.widths}: expected one of each per stage")
        last = max(sum(self.depths) - 1, 1)
        rates = [self.stochastic_depth * i / last for i in range(sum(self.depths))]

        x = Stem(self.widths[0], self.dtype, name="stem")(x)
        for i, (depth, features) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            own, rates = rates[:depth], rates[depth:]
            stage = Stage(features, i > 1, self.layer_scale, tuple(own), not train, self.dtype, name=f"stage{i}")
            x = stage(x)
        x = global_avg_pool(x.astype(jnp.float32))
        x = LayerNorm(name="norm")(x)
        return x if self.num_classes is None else Dense(self.num_classes, kernel_init=kernel_init, name="head")(x)


# Section 3.1; the rates of stochastic depth for 300 epochs of ImageNet-1k are those of table 5.
convnext_tiny = partial(ConvNeXt, depths=(3, 3, 9, 3), widths=(96, 192, 384, 768), stochastic_depth=0.1)
convnext_small = partial(ConvNeXt, depths=(3, 3, 27, 3), widths=(96, 192, 384, 768), stochastic_depth=0.4)
convnext_base = partial(ConvNeXt, depths=(3, 3, 27, 3), widths=(128, 256, 512, 1024), stochastic_depth=0.5)
convnext_large = partial(ConvNeXt, depths=(3, 3, 27, 3), widths=(192, 384, 768, 1536), stochastic_depth=0.5)

# For tests: every kind of block in a second.
convnext_test = partial(ConvNeXt, depths=(2, 1), widths=(8, 16), stochastic_depth=0.1, num_classes=5)

_entry = partial(ModelEntry, paper="2201.03545", year=2022, input_shape=(224, 224, 3), num_classes=1000)
MODELS = {
    "convnext_tiny": _entry(convnext_tiny),
    "convnext_small": _entry(convnext_small),
    "convnext_base": _entry(convnext_base),
    "convnext_large": _entry(convnext_large),
}
