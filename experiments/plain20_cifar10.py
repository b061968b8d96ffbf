"""The plain 20-layer network on CIFAR-10: ResNet-20 without its shortcuts, by the same recipe.

Paper: He et al. 2015, 1512.03385, section 4.2; figure 6 (left) shows the curves, the text gives no number.
Recipe: that of `resnet20_cifar10`.
Command: jaxcnn train experiments/plain20_cifar10.py
"""

from dataclasses import replace

from resnet20_cifar10 import EXPERIMENT as RESNET20

from jaxcnn import ModelConfig

EXPERIMENT = replace(
    RESNET20,
    name="plain20_cifar10",
    paper="He et al. 2015, 1512.03385, figure 6",
    published="curves only",
    model=ModelConfig(name="plain20"),
)
