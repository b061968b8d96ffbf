"""Inception-v3 (Szegedy et al. 2015, 1512.00567), and what Inception-v4 shares with it.

The layers are those of the authors' released code (TF-slim), which every published checkpoint follows. Table 1
of the paper ends the stem otherwise (3x3 80, 3x3/2 192, 3x3 288 in place of 1x1 80, 3x3 192 and pooling), and its
figure 5 draws 3x3 where the code has a 5x5.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, ClassVar

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.layers import (
    BatchNorm,
    Chain,
    Conv,
    ConvNorm,
    Dense,
    Dropout,
    Row,
    avg_pool,
    global_avg_pool,
    max_pool,
)
from jaxcnn.layers.branches import Steps
from jaxcnn.layers.initialisers import Initializer, TruncatedNormal
from jaxcnn.models.base import Model, ModelEntry, WithAux

# Name of a stage -> its layers.
Stages = dict[str, Steps]
# Rows without it keep the size.
V = "VALID"
max_halving = partial(max_pool, window=3, strides=2)
# TensorFlow's average leaves the padding out of the divisor; torchvision and timm count it in v3 (not in v4).
avg_same = partial(avg_pool, window=3, strides=1, padding=1, count_include_pad=False)
avg_counting_padding = partial(avg_pool, window=3, strides=1, padding=1)


def stem_v3() -> Steps:
    """Return the layers from the images to 35x35x192."""
    return (
        *(Row(32, 3, 2, V), Row(32, 3, 1, V), Row(64, 3), max_halving),
        *(Row(80, 1), Row(192, 3, 1, V), max_halving),
    )


def block_a(pool_width: int, pool: Callable) -> tuple[Steps, ...]:
    """Return the branches of a block on 35x35 (figure 5)."""
    return (
        (Row(64, 1),),
        (Row(48, 1), Row(64, 5)),
        (Row(64, 1), Row(96, 3), Row(96, 3)),
        (pool, Row(pool_width, 1)),
    )


REDUCTION_A = (
    (Row(384, 3, 2, V),),
    (Row(64, 1), Row(96, 3), Row(96, 3, 2, V)),
    (max_halving,),
)


def block_b(n: int, pool: Callable) -> tuple[Steps, ...]:
    """Return the branches of a block on 17x17 (figure 6), `n` being the width within."""
    return (
        (Row(192, 1),),
        (Row(n, 1), Row(n, (1, 7)), Row(192, (7, 1))),
        (Row(n, 1), Row(n, (7, 1)), Row(n, (1, 7)), Row(n, (7, 1)), Row(192, (1, 7))),
        (pool, Row(192, 1)),
    )


REDUCTION_B = (
    (Row(192, 1), Row(320, 3, 2, V)),
    (Row(192, 1), Row(192, (1, 7)), Row(192, (7, 1)), Row(192, 3, 2, V)),
    (max_halving,),
)


def block_c(pool: Callable) -> tuple[Steps, ...]:
    """Return the branches of a block on 8x8 (figure 7); two of them fork."""
    fork = ((Row(384, (1, 3)),), (Row(384, (3, 1)),))
    return (
        (Row(320, 1),),
        (Row(384, 1), fork),
        (Row(448, 1), Row(384, 3), fork),
        (pool, Row(192, 1)),
    )


def conv_factory(kernel_init: Initializer, width: float, train: bool, dtype: Any) -> Callable[..., ConvNorm]:
    """Return what makes the rows' modules: convolution without bias, BatchNorm, ReLU, `width` times the channels.

    TF-slim's BatchNorm has no scale (torchvision's and timm's have one), and keeps 0.9997 of the running statistics
    in each step; that takes 10,000 steps to forget where they started, so here it is 0.9, as in torchvision.
    """
    conv = partial(Conv, use_bias=False, kernel_init=kernel_init, dtype=dtype)
    norm = partial(BatchNorm, use_running_average=not train, epsilon=1e-3, dtype=dtype)

    def make(features: int, kernel_size: int | tuple[int, int], **kwargs: Any) -> ConvNorm:
        return ConvNorm(max(1, int(Fraction(str(width)) * features)), kernel_size, conv=conv, norm=norm, **kwargs)

    return make


class AuxHead(nn.Module):
    """Auxiliary classifier on 17x17 maps, with BatchNorm (section 4)."""

    num_classes: int
    conv: Callable[..., nn.Module]
    last_conv: Callable[..., nn.Module]
    kernel_init: Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch classes"]:
        """Return float32 logits."""
        x = self.conv(128, 1, name="conv1")(avg_pool(x, 5, 3))
        x = self.last_conv(768, 5, padding=V, name="conv2")(x)
        x = global_avg_pool(x.astype(jnp.float32))  # 1x1 maps at the published size of 299.
        return Dense(self.num_classes, kernel_init=self.kernel_init, name="fc")(x)


class Inception(Model):
    """Stages of convolutions in branches, an auxiliary head behind the stage `inception_b`, one classifier.

    Attributes:
      dropout: rate before the classifier.
      width: multiplies the channels of all convolutions.
      aux_heads: whether to have the auxiliary classifier, which answers while training.
      num_classes: None returns the pooled features.
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    # Of convolutions, the classifier, the auxiliary head's last convolution and its classifier.
    inits: ClassVar[tuple[Initializer, Initializer, Initializer, Initializer]]

    dropout: float = 0.2
    width: float = 1.0
    aux_heads: bool = False
    num_classes: int | None = 1000
    dtype: Any = jnp.float32

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The published size."""
        return 299, 299, 3

    @nn.nowrap
    def stage_steps(self) -> Stages:
        """Return the layers of each stage by its name, in order."""
        raise NotImplementedError

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"] | WithAux:
        """Return logits, or pooled features; with `aux_heads` and `train=True` also the auxiliary logits."""
        conv_init, head_init, aux_conv_init, aux_head_init = self.inits
        make_conv = partial(conv_factory, width=self.width, train=train, dtype=self.dtype)
        aux: tuple[Array, ...] = ()
        for name, steps in self.stage_steps().items():
            x = Chain(steps, make_conv(conv_init), name=name)(x)
            if name == "inception_b" and self.aux_heads and self.num_classes and (train or self.is_initializing()):
                convs = make_conv(conv_init), make_conv(aux_conv_init)
                aux = (AuxHead(self.num_classes, *convs, aux_head_init, name="aux")(x),)
        x = global_avg_pool(x.astype(jnp.float32))  # 8x8 maps at the published size of 299.
        if self.num_classes is None:
            return x
        x = Dropout(self.dropout, not train, name="dropout")(x)
        logits = Dense(self.num_classes, kernel_init=head_init, name="head")(x)
        # The weight in common use; the papers give none.
        return WithAux(logits, aux, 0.4) if aux and train else logits


class InceptionV3(Inception):
    """Inception-v3; further attributes are those of `Inception`.

    Attributes:
      pool_widths: of the pooling branch of each block on 35x35.
      widths_7x7: within the 7x7 branches of each block on 17x17.
      blocks_8x8: number of blocks on 8x8.
      count_include_pad: whether average pooling divides by its whole window at the borders, as torchvision does.
    """

    # As in the authors' first release (and torchvision, which cuts the normal much later).
    inits = TruncatedNormal(0.1), TruncatedNormal(0.1), TruncatedNormal(0.01), TruncatedNormal(0.001)

    pool_widths: tuple[int, ...] = (32, 64, 64)
    widths_7x7: tuple[int, ...] = (128, 160, 160, 192)
    blocks_8x8: int = 2
    count_include_pad: bool = False

    @nn.nowrap
    def stage_steps(self) -> Stages:
        """Return table 1."""
        pool = avg_counting_padding if self.count_include_pad else avg_same
        return {
            "stem": stem_v3(),
            "inception_a": tuple(block_a(n, pool) for n in self.pool_widths),
            "reduction_a": (REDUCTION_A,),
            "inception_b": tuple(block_b(n, pool) for n in self.widths_7x7),
            "reduction_b": (REDUCTION_B,),
            "inception_c": (block_c(pool),) * self.blocks_8x8,
        }


inception_v3 = InceptionV3

# For tests.
inception_v3_tiny = partial(
    InceptionV3, pool_widths=(32,), widths_7x7=(128,), blocks_8x8=1, width=1 / 16, num_classes=5
)

MODELS = {
    "inception_v3": ModelEntry(
        inception_v3, paper="1512.00567", year=2015, input_shape=(299, 299, 3), num_classes=1000
    ),
}
