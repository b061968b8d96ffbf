"""ResNet-20 on Imagenette at 32x32 from scratch, which fine-tuning is compared with.

Paper: Yosinski et al. 2014, 1411.1792, for the comparison.
Recipe: that of `finetune_resnet20_imagenette`, with the learning rate that He et al. 2015 train ResNet-20 with, 0.1.
Command: jaxcnn train experiments/finetune_resnet20_imagenette_scratch.py
Result: 52.17 +- 4.58 % test accuracy on a part of Imagenette, 1,500 training and 600 test images (3 seeds, mean and
sample standard deviation; docs/results.md).
"""

from dataclasses import replace

from finetune_resnet20_imagenette import EXPERIMENT as FINETUNE

EXPERIMENT = replace(
    FINETUNE,
    name="finetune_resnet20_imagenette_scratch",
    model=replace(FINETUNE.model, weights=None),
    optim=replace(FINETUNE.optim, learning_rate=0.1),
)
