"""MobileNet (Howard et al. 2017, 1704.04861): depthwise separable convolutions.

The paper says neither how the weights start nor which constants BatchNorm has. The authors' code does
(tensorflow/models, slim/nets/mobilenet_v1.py); what is taken from there is marked.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.layers import BatchNorm, Blocks, Conv, ConvNorm, Dense, Dropout, global_avg_pool, padding_of, round_channels
from jaxcnn.layers.initialisers import TruncatedNormal
from jaxcnn.models.base import Model, ModelEntry

kernel_init = TruncatedNormal(0.09)  # the authors' code


class Separable(nn.Module):
    """3x3 depthwise and 1x1 pointwise convolution, both with norm and activation (figure 3).

    Attributes:
        features: channels of the result.
        strides: of the depthwise convolution.
        padding: likewise, see `padding_of`.
        unit: makes both when called with features and kernel size, a partial of `ConvNorm`.
    """

    features: int
    strides: int
    padding: Literal["symmetric", "same"]
    unit: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h2 w2 features"]:
        """Return the block's output, h2 = ceil(h / strides)."""
        channels, padding = x.shape[-1], padding_of(self.padding, 3)
        x = self.unit(channels, 3, strides=self.strides, padding=padding, groups=channels, name="depthwise")(x)
        return self.unit(self.features, 1, name="pointwise")(x)


class MobileNetV1(Model):
    """MobileNet as in table 1, at any width.

    Attributes:
      width: multiplies all channels (section 3.3; the paper's are 1.0, 0.75, 0.5 and 0.25).
      depths: blocks per stage; each stage after the first halves the maps, and each doubles the channels.
      padding: "symmetric" pads as torch, "same" as TensorFlow, where the authors' weights come from.
      epsilon: of BatchNorm; 0.001 in TensorFlow's weights.
      num_classes: None returns the pooled features.
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    width: float = 1.0
    depths: tuple[int, ...] = (1, 2, 2, 6, 2)
    padding: Literal["symmetric", "same"] = "symmetric"
    epsilon: float = 1e-5
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
            # The authors' code averages with 0.9997, for runs of millions of steps.
            momentum=0.9,
            epsilon=self.epsilon,
            dtype=self.dtype,
        )
        conv = partial(Conv, use_bias=False, kernel_init=kernel_init, dtype=self.dtype)
        # The paper says ReLU; the authors' code and all published weights have ReLU6.
        unit = partial(ConvNorm, conv=conv, norm=norm, act=nn.relu6)

        def features(channels: int) -> int:
            return round_channels(channels * self.width)

        x = unit(features(32), 3, strides=2, padding=padding_of(self.padding, 3), name="stem")(x)
        for i, depth in enumerate(self.depths):
            # Table 1 has stride 2 in the very last block, too, whose maps stay 7x7 all the same: a misprint.
            strides = (1 if i == 0 else 2,) + (1,) * (depth - 1)
            blocks = [partial(Separable, features(64 * 2**i), s, self.padding, unit) for s in strides]
            x = Blocks(blocks, name=f"stage{i + 1}")(x)
        x = global_avg_pool(x.astype(jnp.float32))
        if self.num_classes is None:
            return x
        x = Dropout(0.001, deterministic=not train, name="dropout")(x)  # the authors' code
        return Dense(self.num_classes, kernel_init=kernel_init, name="head")(x)


mobilenet_v1 = MobileNetV1

# For tests: every kind of block in a second.
mobilenet_v1_tiny = partial(MobileNetV1, width=0.25, depths=(1, 2), num_classes=5)

MODELS = {
    "mobilenet_v1": ModelEntry(
        mobilenet_v1, paper="1704.04861", year=2017, input_shape=(224, 224, 3), num_classes=1000
    ),
}
