"""ResNet-18 on your own folder of images: FOLDER/train/CLASS/*.jpg and FOLDER/test/CLASS/*.jpg.

Paper: He et al. 2015, 1512.03385, for the architecture.
Recipe: our own, to start from: Nesterov's momentum with a cosine after 100 steps of warm-up, 30 epochs of batches of
64, images of 224x224 moved by up to 16 pixels and mirrored, label smoothing 0.1.
With only FOLDER/CLASS/*.jpg, say which part is which: --data.train-split 'train[:80%]' --data.test-split 'train[80%:]'.
Command: jaxcnn train experiments/resnet18_imagefolder.py --data.path FOLDER
"""

from pathlib import Path

from jaxcnn import (
    Classification,
    CosineDecay,
    DataConfig,
    Experiment,
    Flip,
    ModelConfig,
    Momentum,
    PadCrop,
    TrainConfig,
)

EXPERIMENT = Experiment(
    name="resnet18_imagefolder",
    model=ModelConfig(name="resnet18"),
    data=DataConfig(source="folder", path=Path("images"), image_size=224, augment=(PadCrop(pad=16), Flip())),
    task=Classification(label_smoothing=0.1),
    optim=Momentum(learning_rate=0.05, momentum=0.9, weight_decay=5e-4, nesterov=True),
    schedule=CosineDecay(warmup_steps=100),
    train=TrainConfig(batch_size=64, epochs=30, log_every=20),
)
