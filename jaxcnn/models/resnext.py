"""ResNeXt (Xie, Girshick, Dollár, Tu and He 2017, 1611.05431).

ResNet whose bottlenecks split their 3x3 convolution into groups, the cardinality: "32x4d" has 32 groups of 4
features in the first stage, doubled with each stage (table 1), in the form of figure 3c. The stride is in the 3x3,
as in the authors' code. The rest is `jaxcnn.models.resnet.ResNet`.
"""

from functools import partial

from jaxcnn.models.base import ModelEntry
from jaxcnn.models.resnet import resnet50, resnet101, resnet_tiny

resnext50_32x4d = partial(resnet50, groups=32, width_per_group=4)
resnext101_32x4d = partial(resnet101, groups=32, width_per_group=4)
resnext101_32x8d = partial(resnet101, groups=32, width_per_group=8)
resnext101_64x4d = partial(resnet101, groups=64, width_per_group=4)

# For tests: two groups of 4 features.
resnext_tiny = partial(resnet_tiny, groups=2, width_per_group=64)

_entry = partial(ModelEntry, paper="1611.05431", year=2016, input_shape=(224, 224, 3), num_classes=1000)
MODELS = {
    "resnext50_32x4d": _entry(resnext50_32x4d),
    "resnext101_32x4d": _entry(resnext101_32x4d),
    "resnext101_32x8d": _entry(resnext101_32x8d),
    "resnext101_64x4d": _entry(resnext101_64x4d),
}
