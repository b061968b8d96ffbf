"""resnet20_cifar10 in a tenth of the steps: what two CPU cores do in about 45 minutes.

Paper: He et al. 2015, 1512.03385, which has no such short training.
Recipe: boundaries and length are the paper's divided by ten; all else is as in `resnet20_cifar10`.
Command: jaxcnn train experiments/resnet20_cifar10_tenth.py
Result: 86.72 % validation accuracy, 87.60 % on the first 1,000 test images (1 seed; docs/results.md).
"""

from dataclasses import replace

from resnet20_cifar10 import EXPERIMENT as FULL

from jaxcnn import StepDecay

EXPERIMENT = replace(
    FULL,
    name="resnet20_cifar10_tenth",
    schedule=StepDecay(boundaries=(3_200, 4_800)),
    train=replace(FULL.train, steps=6_400),
)
