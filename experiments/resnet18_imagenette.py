"""ResNet-18 on a part of Imagenette at 96x96, streamed: random resized crops, mirrored.

Paper: He et al. 2015, 1512.03385, for the architecture; Szegedy et al. 2014, 1409.4842, section 6, for the crops.
Recipe: our own: Nesterov's momentum with a cosine after 100 steps of warm-up, 24 epochs of batches of 32, crops of 35
to 100 % of the image, label smoothing 0.1. To test, the short side is scaled to 112 and the central 96x96 cut out.
`resnet18_imagenette_plain` is the same without crops and mirroring.
Command: jaxcnn train experiments/resnet18_imagenette.py
Result: 69.44 +- 0.35 % test accuracy on a part of Imagenette, 1,500 training and 600 test images; without augmentation
51.33 +- 1.69 % (3 seeds, mean and sample standard deviation; docs/results.md).
"""

from jaxcnn import (
    Classification,
    CosineDecay,
    DataConfig,
    EvalConfig,
    Experiment,
    Flip,
    ModelConfig,
    Momentum,
    RandomResizedCrop,
    TrainConfig,
)

EXPERIMENT = Experiment(
    name="resnet18_imagenette",
    paper="He et al. 2015, 1512.03385 (the network)",
    model=ModelConfig(name="resnet18"),
    data=DataConfig(
        source="tfds",
        name="imagenette/full-size-v2",
        test_split="validation",
        pipeline="streaming",
        image_size=96,
        resize_to=112,
        train_crop=RandomResizedCrop(area=(0.35, 1.0)),
        augment=(Flip(),),
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
    ),
    task=Classification(label_smoothing=0.1),
    optim=Momentum(learning_rate=0.03, weight_decay=5e-4, nesterov=True),
    schedule=CosineDecay(warmup_steps=100),
    train=TrainConfig(batch_size=32, epochs=24, log_every=50),
    eval=EvalConfig(every=376),
)
