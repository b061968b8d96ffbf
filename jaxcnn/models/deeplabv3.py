"""DeepLabV3 (Chen, Papandreou, Schroff and Adam 2017, 1706.05587), in torchvision's form.

Atrous spatial pyramid pooling on a ResNet whose last two stages are dilated (section 3.3). Departures from the
paper, as in torchvision: output stride 8 in training too (the paper trains at 16), no "multi-grid" (the paper's
last stage has rates 1, 2, 4), and in the head, after the pyramid, dropout and a 3x3 convolution.
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxcnn.layers import Conv, Dropout, global_avg_pool
from jaxcnn.models.base import ModelEntry
from jaxcnn.models.fcn_resnet import FCNResNet
from jaxcnn.models.resnet import head_init


class AtrousPyramid(nn.Module):
    """A 1x1 convolution, a dilated 3x3 one per rate, and image-level features, side by side (figure 5).

    Attributes:
        features: channels of each branch and of the result.
        rates: dilations.
        conv: makes a convolution with BatchNorm and ReLU, a partial of `ConvNorm`.
    """

    features: int
    rates: tuple[int, ...]
    conv: Callable[..., nn.Module]

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w features"]:
        """Return the branches, concatenated and projected."""
        branches = [self.conv(self.features, 1, name="pointwise")(x)]
        for i, rate in enumerate(self.rates, 1):
            atrous = self.conv(self.features, 3, padding=rate, kernel_dilation=rate, name=f"atrous{i}")
            branches.append(atrous(x))
        image = self.conv(self.features, 1, name="image")(global_avg_pool(x)[:, None, None, :])
        # Bilinear resizing of a single pixel repeats it.
        branches.append(jnp.broadcast_to(image, branches[0].shape))
        return self.conv(self.features, 1, name="project")(jnp.concatenate(branches, axis=-1))


class DeepLabHead(nn.Module):
    """Pyramid, dropout 0.5, 3x3 convolution with BatchNorm and ReLU, 1x1 convolution to the classes."""

    features: int
    rates: tuple[int, ...]
    num_classes: int
    conv: Callable[..., nn.Module]
    train: bool

    @nn.compact
    def __call__(self, x: Float[Array, "batch h w c"]) -> Float[Array, "batch h w num_classes"]:
        """Return float32 scores of the maps' size."""
        x = AtrousPyramid(self.features, self.rates, self.conv, name="pyramid")(x)
        x = Dropout(0.5, deterministic=not self.train)(x)
        x = self.conv(self.features, 3, padding=1, name="conv")(x)
        return Conv(self.num_classes, 1, kernel_init=head_init, name="score")(x)


class DeepLabV3(FCNResNet):
    """`FCNResNet` with `DeepLabHead`; see the variants at the end of this file.

    Attributes:
        features: channels of the pyramid.
        rates: dilations in the pyramid; the paper's 6, 12, 18 at output stride 16, twice that at 8.
    """

    features: int = 256
    rates: tuple[int, ...] = (12, 24, 36)

    @nn.nowrap
    def make_head(self, num_classes: int, conv: Callable[..., nn.Module], train: bool) -> nn.Module:
        """Return the module `head`."""
        return DeepLabHead(self.features, self.rates, num_classes, conv, train, name="head")


deeplabv3_resnet50 = partial(DeepLabV3, block="bottleneck", depths=(3, 4, 6, 3))
deeplabv3_resnet101 = partial(DeepLabV3, block="bottleneck", depths=(3, 4, 23, 3))

# For tests: every kind of block in a second.
deeplabv3_tiny = partial(
    DeepLabV3, block="bottleneck", depths=(1, 1, 1, 2), width=4, features=8, rates=(1, 2), num_classes=5
)

_entry = partial(ModelEntry, paper="1706.05587", year=2017, input_shape=(520, 520, 3), num_classes=21)
MODELS = {
    "deeplabv3_resnet50": _entry(deeplabv3_resnet50),
    "deeplabv3_resnet101": _entry(deeplabv3_resnet101),
}
