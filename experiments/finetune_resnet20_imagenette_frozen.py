"""ResNet-20, trained on CIFAR-10, of which only a new head trains on Imagenette: a linear probe.

Paper: Yosinski et al. 2014, 1411.1792, for the method.
Recipe: that of `finetune_resnet20_imagenette`; the frozen backbone computes as in evaluation.
Command: jaxcnn train experiments/finetune_resnet20_imagenette_frozen.py
Result: 41.67 +- 0.33 % test accuracy on a part of Imagenette, 1,500 training and 600 test images (3 seeds, mean and
sample standard deviation; docs/results.md).
"""

from dataclasses import replace

from finetune_resnet20_imagenette import EXPERIMENT as FINETUNE

EXPERIMENT = replace(
    FINETUNE,
    name="finetune_resnet20_imagenette_frozen",
    train=replace(FINETUNE.train, frozen=("stem/*", "stage*")),
)
