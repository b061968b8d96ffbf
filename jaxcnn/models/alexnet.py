"""AlexNet: the network of 2012 in two halves, and the later one in a single tower.

`alexnet_2012` is Krizhevsky, Sutskever and Hinton, "ImageNet Classification with Deep Convolutional Neural
Networks" (NIPS 2012), sections 3.5 and 5. Their two GPUs see each other's maps only in conv3 and in the fully
connected layers, which makes conv2, conv4 and conv5 convolutions in two groups. `alexnet` is Krizhevsky, "One weird
trick for parallelizing convolutional neural networks" (2014, 1404.5997), as in torchvision: fewer kernels, no groups
and no response normalisation.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.layers import (
    Conv,
    ConvNorm,
    Dense,
    DenseAct,
    Dropout,
    adaptive_avg_pool,
    local_response_norm_caffe,
    local_response_norm_paper,
    local_response_norm_torch,
    max_pool,
)
from jaxcnn.layers.initialisers import Normal, ones
from jaxcnn.models.base import Model, ModelEntry

# The constants of section 3.3 (k = 2, n = 5, alpha = 1e-4, beta = 0.75) in three readings.
RESPONSE_NORMS: dict[str, Callable[[Array], Array]] = {
    "paper": local_response_norm_paper,
    # Caffe's bvlc_alexnet: k = 1, and alpha is divided by n.
    "caffe": partial(local_response_norm_caffe, alpha=1e-4),
    # The authors' released code, cuda-convnet: k = 2, and alpha is divided by n; torch's formula.
    "torch": partial(local_response_norm_torch, k=2.0),
}


class AlexNet2012(Model):
    """The network of 2012 for 227x227 images; 60,965,224 parameters. `conv1` to `conv5` are rectified maps.

    The paper says 224x224, which does not give its 55x55 maps in conv1 without padding; 227x227 does.

    Attributes:
        groups: of conv2, conv4 and conv5: 2, or 1 for the frequent reading without halves (62,378,344 parameters).
        norm: the response norm after conv1 and conv2, see `RESPONSE_NORMS`.
        pool_first: pool before the response norm, as in Caffe's CaffeNet.
        width: channels of conv1; the other convolutions have 8/3, 4, 4 and 8/3 as many.
        hidden: width of the fully connected layers.
        num_classes: None returns the activations of `fc7`.
        dtype: of the computation; parameters and logits are float32.
    """

    groups: int = 2
    norm: Literal["paper", "caffe", "torch"] = "paper"
    pool_first: bool = False
    width: int = 96
    hidden: int = 4096
    num_classes: int | None = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits, or the activations of `fc7`; `train=True` drops units."""
        norm = RESPONSE_NORMS[self.norm]
        pool = partial(max_pool, window=3, strides=2)  # overlapping: section 3.4

        def norm_and_pool(x: Array) -> Array:
            return norm(pool(x)) if self.pool_first else pool(norm(x))

        # Section 5: N(0, 0.01^2) for inputs of 0 to 255 less their mean; biases of 1 for positive inputs to the
        # ReLUs in conv2, conv4, conv5 and the hidden fully connected layers, 0 elsewhere.
        conv = partial(Conv, kernel_init=Normal(0.01), dtype=self.dtype)
        conv_one = partial(conv, bias_init=ones)
        dense = partial(DenseAct, self.hidden, kernel_init=Normal(0.01), bias_init=ones, dtype=self.dtype)
        wide, wider = self.width * 8 // 3, self.width * 4

        x = ConvNorm(self.width, 11, strides=4, conv=conv, name="conv1")(x)
        x = norm_and_pool(x)
        x = ConvNorm(wide, 5, padding=2, groups=self.groups, conv=conv_one, name="conv2")(x)
        x = norm_and_pool(x)
        x = ConvNorm(wider, 3, padding=1, conv=conv, name="conv3")(x)
        x = ConvNorm(wider, 3, padding=1, groups=self.groups, conv=conv_one, name="conv4")(x)
        x = ConvNorm(wide, 3, padding=1, groups=self.groups, conv=conv_one, name="conv5")(x)
        x = pool(x)
        x = adaptive_avg_pool(x, 6)  # Nothing at 227x227, as it has 6x6 maps here; makes other sizes fit.
        x = dense(name="fc6")(x.reshape(x.shape[0], -1))
        x = Dropout(0.5, deterministic=not train)(x)  # Divides by 0.5 here, the paper multiplies by it in testing.
        x = dense(name="fc7")(x).astype(jnp.float32)
        if self.num_classes is None:
            return x
        x = Dropout(0.5, deterministic=not train)(x)
        return Dense(self.num_classes, kernel_init=Normal(0.01), name="head")(x)


class AlexNet(Model):
    """The single tower of 1404.5997 for 224x224 images, in torchvision's form; 61,100,840 parameters.

    Departures from the author's cuda-convnet2, all torchvision's: no response norm after conv1 and conv2, a
    padding of 2 in conv1, and dropout before each hidden fully connected layer in place of after it.

    Attributes:
        width: channels of conv1; the other convolutions have 3, 6, 4 and 4 times as many.
        hidden: width of the fully connected layers.
        num_classes: None returns the activations of `fc7`.
        dtype: of the computation; parameters and logits are float32.
    """

    width: int = 64
    hidden: int = 4096
    num_classes: int | None = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits, or the activations of `fc7`; `train=True` drops units."""
        # Deviations and biases of 1 as in the author's cuda-convnet2, but for a bias of -7 in the head, which
        # shifts all logits alike.
        conv = partial(Conv, dtype=self.dtype)
        conv1 = partial(conv, kernel_init=Normal(0.01))
        conv2 = partial(conv, kernel_init=Normal(0.01), bias_init=ones)
        conv3 = partial(conv, kernel_init=Normal(0.03))
        conv4 = conv5 = partial(conv, kernel_init=Normal(0.03), bias_init=ones)
        dense = partial(DenseAct, self.hidden, kernel_init=Normal(0.01), bias_init=ones, dtype=self.dtype)
        pool = partial(max_pool, window=3, strides=2)

        x = ConvNorm(self.width, 11, strides=4, padding=2, conv=conv1, name="conv1")(x)
        x = ConvNorm(3 * self.width, 5, padding=2, conv=conv2, name="conv2")(pool(x))
        x = ConvNorm(6 * self.width, 3, padding=1, conv=conv3, name="conv3")(pool(x))
        x = ConvNorm(4 * self.width, 3, padding=1, conv=conv4, name="conv4")(x)
        x = ConvNorm(4 * self.width, 3, padding=1, conv=conv5, name="conv5")(x)
        x = pool(x)
        x = adaptive_avg_pool(x, 6)  # Nothing at 224x224, as it has 6x6 maps here; makes other sizes fit.
        x = Dropout(0.5, deterministic=not train)(x.reshape(x.shape[0], -1))
        x = dense(name="fc6")(x)
        x = Dropout(0.5, deterministic=not train)(x)
        x = dense(name="fc7")(x).astype(jnp.float32)
        if self.num_classes is None:
            return x
        return Dense(self.num_classes, kernel_init=Normal(0.01), name="head")(x)


alexnet_2012 = AlexNet2012
alexnet = AlexNet

# For tests: every kind of block in a second.
alexnet_2012_tiny = partial(AlexNet2012, width=12, hidden=16, num_classes=5)
alexnet_tiny = partial(AlexNet, width=4, hidden=16, num_classes=5)

_entry = partial(ModelEntry, num_classes=1000)
MODELS = {
    "alexnet_2012": _entry(alexnet_2012, paper="NIPS 2012", year=2012, input_shape=(227, 227, 3)),
    "alexnet": _entry(alexnet, paper="1404.5997", year=2014, input_shape=(224, 224, 3)),
}
