"""GoogLeNet (Szegedy et al. 2014, 1409.4842), as published and in torchvision's form with BatchNorm.

What the paper leaves open (padding, pooling sizes rounded up, the constants of the LRN, the initialisation) is
as in Caffe's bvlc_googlenet. torchvision's form has BatchNorm in place of LRN and biases, 3x3 kernels in the
"5x5" branches (a known slip, pytorch/vision#906), a 2x2 last max pooling, and less dropout.
"""

from collections.abc import Callable
from fractions import Fraction
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.layers import (
    BatchNorm,
    Branches,
    Chain,
    Conv,
    ConvNorm,
    Dense,
    Dropout,
    Row,
    adaptive_avg_pool,
    avg_pool,
    global_avg_pool,
    local_response_norm_caffe,
    max_pool,
)
from jaxcnn.layers.branches import Steps
from jaxcnn.layers.initialisers import Constant, Initializer, VarianceScaling, lecun_uniform, zeros
from jaxcnn.models.base import Model, ModelEntry, WithAux

# Table 1: 1x1, 3x3 reduce, 3x3, 5x5 reduce, 5x5, pool projection.
WIDTHS = {
    "3a": (64, 96, 128, 16, 32, 32),
    "3b": (128, 128, 192, 32, 96, 64),
    "4a": (192, 96, 208, 16, 48, 64),
    "4b": (160, 112, 224, 24, 64, 64),
    "4c": (128, 128, 256, 24, 64, 64),
    "4d": (112, 144, 288, 32, 64, 64),
    "4e": (256, 160, 320, 32, 128, 128),
    "5a": (256, 160, 320, 32, 128, 128),
    "5b": (384, 192, 384, 48, 128, 128),
}
halving = partial(max_pool, window=3, strides=2, ceil_mode=True)
size_keeping = partial(max_pool, window=3, strides=1, padding=1)
# The paper does not give the constants; size, alpha and beta as in Caffe, which divides alpha by the size.
lrn = partial(local_response_norm_caffe, size=5, alpha=1e-4, beta=0.75)


def stem_steps(norm: str) -> Steps:
    """Return the layers before inception 3a (table 1); with norm "lrn" in Caffe's order."""
    between: Steps = (lrn,) if norm == "lrn" else ()
    return (Row(64, 7, 2), halving, *between, Row(64, 1), Row(192, 3), *between, halving)


def inception(widths: tuple[int, ...], largest_kernel: int) -> tuple[Steps, ...]:
    """Return the branches of one inception module (figure 2b)."""
    n1, n3_reduce, n3, n5_reduce, n5, pool_projection = widths
    return (
        (Row(n1, 1),),
        (Row(n3_reduce, 1), Row(n3, 3)),
        (Row(n5_reduce, 1), Row(n5, largest_kernel)),
        (size_keeping, Row(pool_projection, 1)),
    )


class AuxHead(nn.Module):
    """Auxiliary classifier (section 5): pooling to 4x4, 1x1 convolution, ReLU, 1024 units, dropout 0.7, logits."""

    num_classes: int
    conv: Callable[..., nn.Module]
    dense: Callable[..., nn.Module]
    pool: Callable[[Array], Array]
    deterministic: bool
    hidden_bias_init: Initializer

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch classes"]:
        """Return float32 logits."""
        x = self.conv(128, 1, name="conv")(self.pool(x))
        x = x.reshape(x.shape[0], -1).astype(jnp.float32)
        x = nn.relu(self.dense(1024, bias_init=self.hidden_bias_init, name="fc1")(x))
        x = Dropout(0.7, self.deterministic, name="dropout")(x)
        return self.dense(self.num_classes, name="fc2")(x)


class GoogLeNet(Model):
    """GoogLeNet; see the variants at the end of this file.

    Attributes:
      norm: "lrn": biases in the convolutions and local response norms in the stem; "batch": BatchNorm after
        each convolution.
      largest_kernel: of the branches that the paper calls 5x5.
      last_pool: window of the max pooling before inception 5a.
      dropout: rate before the classifier.
      width: multiplies the channels of all convolutions.
      aux_heads: whether to have the auxiliary classifiers on 4a and 4d, which answer while training.
      num_classes: None returns the pooled features.
      dtype: of the computation; parameters, statistics and logits are float32.
    """

    norm: Literal["lrn", "batch"] = "lrn"
    largest_kernel: Literal[5, 3] = 5
    last_pool: int = 3
    dropout: float = 0.4
    width: float = 1.0
    aux_heads: bool = False
    num_classes: int | None = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"] | WithAux:
        """Return logits, or pooled features; with `aux_heads` and `train=True` also the auxiliary logits."""
        published = self.norm == "lrn"
        # Caffe's "xavier" is uniform by fan_in, its biases start at 0.2. The other form starts as the authors' later
        # networks with BatchNorm do; torchvision has N(0, 0.01), which vanishes wherever the statistics are initial.
        kernel_init: Initializer = lecun_uniform if published else VarianceScaling(2.0, "fan_in", "truncated_normal")
        bias_init = Constant(0.2) if published else zeros
        make_conv = partial(Conv, use_bias=published, kernel_init=kernel_init, bias_init=bias_init, dtype=self.dtype)
        batch_norm = partial(BatchNorm, use_running_average=not train, epsilon=1e-3, dtype=self.dtype)
        dense = partial(Dense, kernel_init=kernel_init)

        def conv(features: int, kernel_size: int, **kwargs: Any) -> ConvNorm:
            features, norm = max(1, int(Fraction(str(self.width)) * features)), None if published else batch_norm
            return ConvNorm(features, kernel_size, conv=make_conv, norm=norm, **kwargs)

        def aux_pool(x: Array) -> Array:
            # The paper's 14x14 maps give 4x4 already; other sizes are brought to it. torchvision does only this.
            return adaptive_avg_pool(avg_pool(x, 5, 3) if published else x, 4)

        aux: list[Array] = []
        x = Chain(stem_steps(self.norm), conv, name="stem")(x)
        for name, widths in WIDTHS.items():
            if name == "4a":
                x = halving(x)
            if name == "5a":
                x = max_pool(x, self.last_pool, 2, ceil_mode=True)
            x = Branches(inception(widths, self.largest_kernel), conv, name=f"inception{name}")(x)
            if name in ("4a", "4d") and self.aux_heads and self.num_classes and (train or self.is_initializing()):
                head = AuxHead(self.num_classes, conv, dense, aux_pool, not train, bias_init, name=f"aux{len(aux) + 1}")
                aux.append(head(x))
        x = global_avg_pool(x.astype(jnp.float32))  # 7x7 maps at the published size of 224.
        if self.num_classes is None:
            return x
        x = Dropout(self.dropout, not train, name="dropout")(x)
        logits = dense(self.num_classes, name="head")(x)
        return WithAux(logits, tuple(aux), 0.3) if aux and train else logits  # 0.3: section 5.


googlenet = GoogLeNet
googlenet_bn = partial(GoogLeNet, norm="batch", largest_kernel=3, last_pool=2, dropout=0.2)

# For tests.
googlenet_tiny = partial(GoogLeNet, width=1 / 16, num_classes=5)

_entry = partial(ModelEntry, paper="1409.4842", year=2014, input_shape=(224, 224, 3), num_classes=1000)
MODELS = {
    "googlenet": _entry(googlenet),
    "googlenet_bn": _entry(googlenet_bn),
}
