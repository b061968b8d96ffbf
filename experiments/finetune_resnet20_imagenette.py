"""ResNet-20, trained on CIFAR-10, fine-tuned on Imagenette at 32x32.

Paper: Yosinski et al. 2014, 1411.1792, for the method, with other networks and data: the backbone is copied, the head
is initialised, all of it trains. `finetune_resnet20_imagenette_frozen` keeps the backbone as it is, and
`finetune_resnet20_imagenette_scratch` starts from nothing.
Recipe: our own: momentum with a cosine, 20 epochs of batches of 128, mirrored, cropped from a border of 4 pixels.
Images are normalised as on CIFAR-10: the file says how. Before it, the file is made by
`jaxcnn train experiments/resnet20_cifar10_tenth.py` and
`jaxcnn export runs/resnet20_cifar10_tenth/<hash> --output runs/pretrained`.
Command: jaxcnn train experiments/finetune_resnet20_imagenette.py
Result: 67.50 +- 0.93 % test accuracy on a part of Imagenette, 1,500 training and 600 test images (3 seeds, mean and
sample standard deviation; docs/results.md).
"""

from pathlib import Path

from jaxcnn import CosineDecay, DataConfig, EvalConfig, Experiment, Flip, ModelConfig, Momentum, PadCrop, TrainConfig

EXPERIMENT = Experiment(
    name="finetune_resnet20_imagenette",
    paper="Yosinski et al. 2014, 1411.1792 (the method)",
    model=ModelConfig(name="resnet20", weights=Path("runs/pretrained/model.safetensors")),
    data=DataConfig(
        source="tfds",
        name="imagenette/full-size-v2",
        test_split="validation",
        image_size=32,
        augment=(PadCrop(pad=4), Flip()),
    ),
    optim=Momentum(learning_rate=0.02, weight_decay=5e-4),
    schedule=CosineDecay(warmup_steps=20),
    train=TrainConfig(batch_size=128, epochs=20),
    eval=EvalConfig(every=100),
)
