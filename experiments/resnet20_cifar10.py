"""ResNet-20 on CIFAR-10, by the recipe of the paper.

Paper: He, Zhang, Ren and Sun 2015, "Deep residual learning for image recognition", 1512.03385, section 4.2:
test error 8.75 % (table 6).
Recipe: batch 128, momentum 0.9, weight decay 1e-4 on all parameters, learning rate 0.1 divided by 10 at 32k and 48k
of 64k steps; the per-pixel mean subtracted, 4 pixels of padding, random crops and flips; 45k images to train on and
5k to validate by. (Deviations: the padding is black and is put on before the mean is subtracted, which the crop
therefore moves by up to 4 pixels; pixels are also divided by the standard deviation of their channel.)
Command: jaxcnn train experiments/resnet20_cifar10.py
"""

from jaxcnn import DataConfig, Experiment, Flip, ModelConfig, Momentum, PadCrop, StepDecay, TrainConfig

EXPERIMENT = Experiment(
    name="resnet20_cifar10",
    paper="He et al. 2015, 1512.03385, table 6",
    published="test error 8.75 % (64k steps)",
    model=ModelConfig(name="resnet20"),
    data=DataConfig(
        source="tfds",
        name="cifar10",
        train_split="train[:45000]",
        val_split="train[45000:]",
        augment=(PadCrop(pad=4), Flip()),
        per_pixel_mean=True,
    ),
    optim=Momentum(learning_rate=0.1, momentum=0.9, weight_decay=1e-4, decay=("*",)),
    schedule=StepDecay(boundaries=(32_000, 48_000)),
    train=TrainConfig(batch_size=128, steps=64_000),
)
