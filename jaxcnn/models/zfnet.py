"""ZFNet (Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", 2013, 1311.2901).

AlexNet after a look at its features: 7x7 kernels with stride 2 in the first layer in place of 11x11 with stride 4,
a stride of 2 in the second, and no groups (figure 3). `zfnet_512_1024_512` is the best single network of table 2,
with wider layers 3 to 5.

The paper gives sizes, not paddings: 224 -> 110 -> 55 -> 26 -> 13 -> 6. The paddings here make them.

Renormalising the filters whose RMS exceeds 0.1 (section 3) is a part of the training and not of this model.
"""

from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.errors import UsageError
from jaxcnn.layers import (
    Conv,
    ConvNorm,
    Dense,
    DenseAct,
    Dropout,
    adaptive_avg_pool,
    local_response_norm_paper,
    max_pool,
)
from jaxcnn.layers.initialisers import Initializer, Normal, he_normal_fan_in
from jaxcnn.models.base import Model, ModelEntry

INITIALISATIONS: dict[str, Initializer] = {
    # Section 3, biases of 0, for pixels of 0 to 255 less their mean. With images of unit variance, a sixtieth of
    # that, it is too small: a standard deviation of 0.001 in conv5 and 0.0005 in the logits.
    "paper": Normal(0.01),
    # He et al. (2015, 1502.01852).
    "he": he_normal_fan_in,
}


class ZFNet(Model):
    """The network of figure 3 for 224x224 images. `conv1` to `conv5` are rectified maps.

    Attributes:
        widths: channels of conv1 to conv5.
        hidden: width of the fully connected layers.
        initialisation: of the weights, see `INITIALISATIONS`.
        num_classes: None returns the activations of `fc7`.
        dtype: of the computation; parameters and logits are float32.
    """

    widths: tuple[int, ...] = (96, 256, 384, 384, 256)
    hidden: int = 4096
    initialisation: Literal["paper", "he"] = "he"  # Not the paper's, which is for inputs of another scale.
    num_classes: int | None = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits, or the activations of `fc7`; `train=True` drops units."""
        if len(self.widths) != 5:
            raise UsageError(f"widths={self.widths}: expected 5 of them, for conv1 to conv5")
        weight_init = INITIALISATIONS[self.initialisation]
        conv = partial(ConvNorm, conv=partial(Conv, kernel_init=weight_init, dtype=self.dtype))
        dense = partial(DenseAct, self.hidden, kernel_init=weight_init, dtype=self.dtype)
        # "Contrast normalised across feature maps", after the pooling: taken to be AlexNet's response norm.
        norm = local_response_norm_paper
        w1, w2, w3, w4, w5 = self.widths

        x = conv(w1, 7, strides=2, padding=1, name="conv1")(x)
        x = norm(max_pool(x, 3, 2, padding=1))
        x = conv(w2, 5, strides=2, name="conv2")(x)
        x = norm(max_pool(x, 3, 2, padding=1))
        x = conv(w3, 3, padding=1, name="conv3")(x)
        x = conv(w4, 3, padding=1, name="conv4")(x)
        x = conv(w5, 3, padding=1, name="conv5")(x)
        x = max_pool(x, 3, 2)
        x = adaptive_avg_pool(x, 6)  # Nothing at 224x224, as it has 6x6 maps here; makes other sizes fit.
        x = dense(name="fc6")(x.reshape(x.shape[0], -1))
        x = Dropout(0.5, deterministic=not train)(x)
        x = dense(name="fc7")(x).astype(jnp.float32)
        if self.num_classes is None:
            return x
        x = Dropout(0.5, deterministic=not train)(x)
        return Dense(self.num_classes, kernel_init=weight_init, name="head")(x)


zfnet = ZFNet
zfnet_512_1024_512 = partial(ZFNet, widths=(96, 256, 512, 1024, 512))

# For tests: every kind of block in a second.
zfnet_tiny = partial(ZFNet, widths=(8, 12, 16, 16, 12), hidden=16, num_classes=5)

_entry = partial(ModelEntry, paper="1311.2901", year=2013, input_shape=(224, 224, 3), num_classes=1000)
MODELS = {
    "zfnet": _entry(zfnet),
    "zfnet_512_1024_512": _entry(zfnet_512_1024_512),
}
