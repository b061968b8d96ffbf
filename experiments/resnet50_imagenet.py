"""ResNet-50 on ImageNet, 90 epochs.

Paper: He et al. 2015, 1512.03385. torchvision's weights, V1, have 23.87 % top-1 error on single crops.
Recipe: Goyal et al. 2017, 1706.02677: batch 256 at rate 0.1, momentum 0.9, weight decay 1e-4, five epochs of warm-up,
the rate divided by 10 at epochs 30, 60 and 80, and the last BatchNorm of each block starting at zero. Images are
streamed: random resized crops, mirrored; to test, the short side is scaled to 256 and the central 224x224 cut out.
(Deviation: no colour augmentation, which torchvision's recipe has not either.)
Command: jaxcnn train experiments/resnet50_imagenet.py
  --task.label-smoothing 0.1 is the usual option.
Not measured by us yet: it needs ImageNet and an accelerator.
"""

from jaxcnn import DataConfig, Experiment, Flip, ModelConfig, Momentum, RandomResizedCrop, StepDecay, TrainConfig

_EPOCH = -(-1_281_167 // 256)

EXPERIMENT = Experiment(
    name="resnet50_imagenet",
    paper="He et al. 2015, 1512.03385; Goyal et al. 2017, 1706.02677",
    published="top-1 error 23.87 % (torchvision V1, single crop)",
    model=ModelConfig(name="resnet50", dtype="bfloat16", options={"zero_gamma": True}),
    data=DataConfig(
        source="tfds",
        name="imagenet2012",
        test_split="validation",
        image_size=224,
        resize_to=256,
        train_crop=RandomResizedCrop(),
        augment=(Flip(),),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    optim=Momentum(learning_rate=0.1, momentum=0.9, weight_decay=1e-4, decay=("*kernel",)),
    schedule=StepDecay(warmup_steps=5 * _EPOCH, boundaries=(30 * _EPOCH, 60 * _EPOCH, 80 * _EPOCH)),
    train=TrainConfig(batch_size=256, epochs=90),
)
