"""An experiment as files had them with jaxcnn 0.1.0: see make_compatibility.py in scripts/."""

from jaxcnn import (
    CheckpointConfig,
    CosineDecay,
    DataConfig,
    EvalConfig,
    Experiment,
    Flip,
    ModelConfig,
    Momentum,
    PadCrop,
    TrainConfig,
)

EXPERIMENT = Experiment(
    name="compatibility",
    paper="Kaynak 1995, UCI digits",
    model=ModelConfig(name="resnet20", options={"depths": (1, 1), "width": 4}),
    data=DataConfig(
        source="digits",
        train_split="train[:400]",
        val_split="train[400:500]",
        test_split="test[:60]",
        augment=(PadCrop(pad=1), Flip()),
    ),
    optim=Momentum(learning_rate=0.05, weight_decay=1e-4, clip_norm=1.0),
    schedule=CosineDecay(warmup_steps=5),
    train=TrainConfig(batch_size=40, steps=30, log_every=10, devices=1, ema_decay=0.9),
    eval=EvalConfig(batch_size=30),
    checkpoint=CheckpointConfig(keep=1, tensorboard=False),
    seed=3,
)
