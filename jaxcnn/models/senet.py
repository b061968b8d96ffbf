"""Squeeze-and-excitation networks (Hu, Shen, Albanie, Sun and Wu 2018, 1709.01507).

Residual networks whose branches end, before the addition, with a gate per channel computed from all channels'
means (figure 3): SE-ResNet and SE-ResNeXt. The bottlenecks stride in their 3x3, as timm's weights do; the authors'
release strides in the first 1x1 (`variant="v1"`).
"""

from collections.abc import Callable
from functools import partial

import flax.linen as nn

from jaxcnn.layers import SqueezeExcite
from jaxcnn.models.base import ModelEntry
from jaxcnn.models.resnet import ResNet


class SEResNet(ResNet):
    """A residual network with squeeze and excitation; see `jaxcnn.models.resnet.ResNet`, and further:

    Attributes:
      reduction: the paper's r; the gates of c channels are computed from c / r hidden features.
      min_hidden: hidden features where c / r would be fewer (timm: 8; it matters to 64 channels alone).
    """

    reduction: int = 16
    min_hidden: int = 1

    @nn.nowrap
    def squeeze_excite(self) -> Callable[..., nn.Module]:
        """Return what makes a `SqueezeExcite` for a number of channels."""

        def make(channels: int, name: str) -> nn.Module:
            return SqueezeExcite(max(channels // self.reduction, self.min_hidden), name=name)

        return make


se_resnet18 = partial(SEResNet, block="basic", depths=(2, 2, 2, 2))
se_resnet34 = partial(SEResNet, block="basic", depths=(3, 4, 6, 3))
se_resnet50 = partial(SEResNet, block="bottleneck", depths=(3, 4, 6, 3))
se_resnet101 = partial(SEResNet, block="bottleneck", depths=(3, 4, 23, 3))
se_resnet152 = partial(SEResNet, block="bottleneck", depths=(3, 8, 36, 3))
se_resnext50_32x4d = partial(se_resnet50, groups=32, width_per_group=4)
se_resnext101_32x4d = partial(se_resnet101, groups=32, width_per_group=4)

# For tests: every kind of block in a second.
se_resnet_tiny = partial(SEResNet, block="bottleneck", depths=(2, 1), width=4, reduction=4, num_classes=5)

_entry = partial(ModelEntry, paper="1709.01507", year=2017, input_shape=(224, 224, 3), num_classes=1000)
MODELS = {
    "se_resnet18": _entry(se_resnet18),
    "se_resnet34": _entry(se_resnet34),
    "se_resnet50": _entry(se_resnet50),
    "se_resnet101": _entry(se_resnet101),
    "se_resnet152": _entry(se_resnet152),
    "se_resnext50_32x4d": _entry(se_resnext50_32x4d),
    "se_resnext101_32x4d": _entry(se_resnext101_32x4d),
}
