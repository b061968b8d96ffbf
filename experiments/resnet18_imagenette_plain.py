"""ResNet-18 on a part of Imagenette at 96x96 without augmentation, which `resnet18_imagenette` is compared with.

Paper: He et al. 2015, 1512.03385, for the architecture.
Recipe: that of `resnet18_imagenette`; the network is trained on what it is tested on: the short side scaled to 112, the
central 96x96 cut out.
Command: jaxcnn train experiments/resnet18_imagenette_plain.py
Result: 51.33 +- 1.69 % test accuracy on a part of Imagenette, 1,500 training and 600 test images (3 seeds, mean and
sample standard deviation; docs/results.md).
"""

from dataclasses import replace

from resnet18_imagenette import EXPERIMENT as AUGMENTED

EXPERIMENT = replace(
    AUGMENTED,
    name="resnet18_imagenette_plain",
    data=replace(AUGMENTED.data, train_crop=None, augment=()),
)
