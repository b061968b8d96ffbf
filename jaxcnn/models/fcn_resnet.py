"""Fully convolutional networks on a dilated ResNet, as in torchvision (after Long et al. 2015, 1411.4038).

Not a network of the paper, for which see `fcn.py`: the backbone keeps its maps at an eighth of the image by
dilating the last two stages, so there are no skips, and the logits are resized bilinearly, not upsampled by
transposed convolutions.
"""

from collections.abc import Callable
from functools import partial
from typing import Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.layers import BatchNorm, Conv, ConvNorm, Dropout, resize_bilinear
from jaxcnn.models.base import ModelEntry, WithAux
from jaxcnn.models.resnet import ResNet, head_init


class FCNHead(nn.Module):
    """3x3 convolution to a quarter of the channels, BatchNorm, ReLU, dropout 0.1, 1x1 convolution to the classes."""

    num_classes: int
    conv: Callable[..., nn.Module]
    train: bool

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w num_classes"]:
        """Return float32 scores of the maps' size."""
        x = self.conv(x.shape[-1] // 4, 3, padding=1, name="conv")(x)
        x = Dropout(0.1, deterministic=not self.train)(x)
        return Conv(self.num_classes, 1, kernel_init=head_init, name="score")(x)


class FCNResNet(ResNet):
    """A ResNet with a head that scores each position; see the variants at the end of this file.

    Logits are [batch, height, width, num_classes], of the input's size. Without classes the result is the last
    stage's maps.

    Attributes:
        output_stride: see `ResNet`.
        aux_heads: a second `FCNHead`, `aux1`, on stage 3, whose loss counts half while training.
        num_classes: None returns the last stage's maps.
    """

    output_stride: Literal[8, 16, 32] = 8
    aux_heads: bool = False
    num_classes: int | None = 21

    @nn.compact
    def __call__(  # type: ignore[override]  # A ResNet has no auxiliary logits.
        self, x: Float[Array, "batch height width channels"], train: bool = False
    ) -> Float[Array, "batch height width outputs"] | WithAux:
        """Return logits, or the last maps; while training, with the auxiliary logits where there are any."""
        sizes = x.shape[1:3]
        maps = self.stage_maps(x, train)
        if self.num_classes is None:
            return maps[-1].astype(jnp.float32)
        conv = partial(
            ConvNorm,
            conv=partial(Conv, use_bias=False, dtype=self.dtype),
            norm=partial(BatchNorm, use_running_average=not train, dtype=self.dtype),
        )
        logits = resize_bilinear(self.make_head(self.num_classes, conv, train)(maps[-1]), sizes)
        if self.aux_heads and (train or self.is_initializing()):
            aux = resize_bilinear(FCNHead(self.num_classes, conv, train, name="aux1")(maps[-2]), sizes)
            # The weight is that of torchvision's training script.
            return WithAux(logits, (aux,), 0.5) if train else logits
        return logits

    @nn.nowrap
    def make_head(self, num_classes: int, conv: Callable[..., nn.Module], train: bool) -> nn.Module:
        """Return the module `head`; other networks on the same backbone replace it."""
        return FCNHead(num_classes, conv, train, name="head")


fcn_resnet50 = partial(FCNResNet, block="bottleneck", depths=(3, 4, 6, 3))
fcn_resnet101 = partial(FCNResNet, block="bottleneck", depths=(3, 4, 23, 3))

# For tests: every kind of block in a second.
fcn_resnet_tiny = partial(FCNResNet, block="bottleneck", depths=(1, 1, 1, 2), width=4, num_classes=5)

_entry = partial(ModelEntry, paper="1411.4038", year=2014, input_shape=(520, 520, 3), num_classes=21)
MODELS = {
    "fcn_resnet50": _entry(fcn_resnet50),
    "fcn_resnet101": _entry(fcn_resnet101),
}
