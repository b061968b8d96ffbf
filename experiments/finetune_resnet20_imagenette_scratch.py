"""ResNet-20 on Imagenette at 32x32 from scratch, which fine-tuning is compared with.

Paper, recipe: see `finetune_resnet20_imagenette`; the learning rate is the one a network without training needs (0.1).
Command: jaxcnn train experiments/finetune_resnet20_imagenette_scratch.py
"""

from dataclasses import replace

from finetune_resnet20_imagenette import EXPERIMENT as FINETUNE

EXPERIMENT = replace(
    FINETUNE,
    name="finetune_resnet20_imagenette_scratch",
    model=replace(FINETUNE.model, weights=None),
    optim=replace(FINETUNE.optim, learning_rate=0.1),
)
