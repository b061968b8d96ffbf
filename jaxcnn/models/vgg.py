"""VGG: very deep stacks of 3x3 convolutions (Simonyan and Zisserman 2014, 1409.1556).

Table 1 has six configurations: A, A-LRN, B, C, D and E, here `vgg11`, `vgg11_lrn`, `vgg13`, `vgg16_c`, `vgg16`
and `vgg19`. All have five stages of convolutions with padding that keeps the size (ReLU after each), 2x2 max
pooling after each stage, and three fully connected layers. The forms with BatchNorm (`vgg16_bn`, ...) are not the
paper's but torchvision's.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.errors import UsageError
from jaxcnn.layers import (
    BatchNorm,
    Conv,
    ConvNorm,
    Dense,
    DenseAct,
    Dropout,
    adaptive_avg_pool,
    local_response_norm_paper,
    max_pool,
)
from jaxcnn.layers.initialisers import Initializer, Normal, glorot_uniform, he_normal_fan_out
from jaxcnn.models.base import Model, ModelEntry

# Name -> initialisers of the convolutions and of the fully connected layers; all biases start at zero.
# What they do to images of unit variance is the standard deviation of stage 5's output (D, 224x224).
INITIALISATIONS: dict[str, tuple[Initializer, Initializer]] = {
    # Section 3.1: variance 10^-2, so a deviation of 0.1 (AlexNet's was 0.01). It explodes, to 1e6. The paper trains
    # A alone from it (4e3 there); the deeper networks start from A's first four and last three layers.
    "paper": (Normal(0.1), Normal(0.1)),
    # Section 3.1 again, as found after the submission: no such pre-training is needed with the procedure of Glorot
    # and Bengio (2010). Made for linear units, it loses about a factor of sqrt(2) with every ReLU: 0.004.
    "glorot": (glorot_uniform, glorot_uniform),
    # He et al. (2015, 1502.01852) put the ReLU's factor in, for networks like these; here as torchvision's weights
    # were trained: 0.16.
    "he": (he_normal_fan_out, Normal(0.01)),
}


class Stage(nn.Module):
    """Convolutions in a row, `block1`, `block2`, ..., each with ReLU; the maps keep their size.

    Attributes:
        features: channels of every convolution.
        kernels: size of each convolution's kernel, odd.
        conv: makes a convolution; a partial of `Conv`.
        norm: makes the norm between convolution and ReLU; None: there is none.
        lrn: local response norm after the last ReLU.
    """

    features: int
    kernels: tuple[int, ...]
    conv: Callable[..., nn.Module] = Conv
    norm: Callable[..., nn.Module] | None = None
    lrn: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w features"]:
        """Return the last convolution's activations."""
        for i, kernel in enumerate(self.kernels, 1):
            make = partial(ConvNorm, conv=self.conv, norm=self.norm, name=f"block{i}")
            x = make(self.features, kernel, padding=kernel // 2)(x)
        # With AlexNet's constants, as the paper says, and AlexNet's formula.
        return local_response_norm_paper(x) if self.lrn else x


class VGG(Model):
    """A network of table 1; see the variants at the end of this file.

    A stage's output is that before the pooling.

    Attributes:
        depths: convolutions per stage.
        widths: their channels, per stage.
        hidden: width of the fully connected layers `fc6` and `fc7`.
        pointwise: whether the third convolution of a stage is 1x1 (configuration C).
        lrn: whether stage 1 ends with local response norm (configuration A-LRN).
        batch_norm: whether BatchNorm follows each convolution (torchvision's `_bn`).
        initialisation: of the weights, see `INITIALISATIONS`.
        num_classes: None returns the activations of `fc7`.
        dtype: of the computation; parameters, statistics and logits are float32.
    """

    depths: tuple[int, ...]
    widths: tuple[int, ...] = (64, 128, 256, 512, 512)
    hidden: int = 4096
    pointwise: bool = False
    lrn: bool = False
    batch_norm: bool = False
    # Not the paper's: the one of the three under which activations keep their size at every depth.
    initialisation: Literal["paper", "glorot", "he"] = "he"
    num_classes: int | None = 1000
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch outputs"]:
        """Return logits, or the activations of `fc7`; `train=True` drops units and uses the batch's statistics."""
        if len(self.widths) != len(self.depths):
            raise UsageError(f"widths={self.widths}: expected {len(self.depths)} of them, as depths={self.depths}")
        conv_init, dense_init = INITIALISATIONS[self.initialisation]
        # The bias stays under BatchNorm, which takes it out again: torchvision's weights have it.
        conv = partial(Conv, kernel_init=conv_init, dtype=self.dtype)
        norm = partial(BatchNorm, use_running_average=not train, dtype=self.dtype)
        dense = partial(DenseAct, self.hidden, kernel_init=dense_init, dtype=self.dtype)

        for i, (depth, width) in enumerate(zip(self.depths, self.widths, strict=True), 1):
            kernels = tuple(1 if self.pointwise and j == 3 else 3 for j in range(1, depth + 1))
            lrn = self.lrn and i == 1
            x = Stage(width, kernels, conv, norm if self.batch_norm else None, lrn, name=f"stage{i}")(x)
            x = max_pool(x, 2)
        # Any size other than 224 is averaged to fit, as in torchvision; the paper turns the fully connected
        # layers into convolutions instead and averages the logits (section 3.2).
        x = adaptive_avg_pool(x, 7)
        x = dense(name="fc6")(x.reshape(x.shape[0], -1))
        x = Dropout(0.5, deterministic=not train)(x)
        x = dense(name="fc7")(x).astype(jnp.float32)
        if self.num_classes is None:
            return x
        x = Dropout(0.5, deterministic=not train)(x)
        return Dense(self.num_classes, kernel_init=dense_init, name="head")(x)


vgg11 = partial(VGG, depths=(1, 1, 2, 2, 2))  # A
vgg11_lrn = partial(vgg11, lrn=True)  # A-LRN
vgg13 = partial(VGG, depths=(2, 2, 2, 2, 2))  # B
vgg16 = partial(VGG, depths=(2, 2, 3, 3, 3))  # D
vgg16_c = partial(vgg16, pointwise=True)  # C
vgg19 = partial(VGG, depths=(2, 2, 4, 4, 4))  # E

vgg11_bn = partial(vgg11, batch_norm=True)
vgg13_bn = partial(vgg13, batch_norm=True)
vgg16_bn = partial(vgg16, batch_norm=True)
vgg19_bn = partial(vgg19, batch_norm=True)

# For tests: every kind of block in a second. N(0, 0.01^2) is for thousands of hidden units, not for 16.
vgg_tiny = partial(
    VGG, depths=(1, 2, 3, 1, 1), widths=(4, 4, 8, 8, 8), hidden=16, initialisation="glorot", num_classes=5
)

_entry = partial(ModelEntry, paper="1409.1556", year=2014, input_shape=(224, 224, 3), num_classes=1000)
MODELS = {
    "vgg11": _entry(vgg11),
    "vgg11_lrn": _entry(vgg11_lrn),
    "vgg13": _entry(vgg13),
    "vgg16_c": _entry(vgg16_c),
    "vgg16": _entry(vgg16),
    "vgg19": _entry(vgg19),
    "vgg11_bn": _entry(vgg11_bn),
    "vgg13_bn": _entry(vgg13_bn),
    "vgg16_bn": _entry(vgg16_bn),
    "vgg19_bn": _entry(vgg19_bn),
}
