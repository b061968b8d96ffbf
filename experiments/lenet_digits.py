"""LeNet-5 on the 1,797 handwritten digits that scikit-learn carries: the first thing to run; no download.

Command: jaxcnn train experiments/lenet_digits.py
"""

from jaxcnn import DataConfig, Experiment, ModelConfig, OptimConfig, ScheduleConfig, TrainConfig

EXPERIMENT = Experiment(
    name="lenet_digits",
    paper="LeCun et al. 1998, Proc. IEEE 86(11) (the architecture; other digits)",
    model=ModelConfig(name="lenet5"),
    data=DataConfig(source="digits", image_size=28, pad_crop=2),
    optim=OptimConfig(name="momentum", learning_rate=0.05, weight_decay=1e-4),
    schedule=ScheduleConfig(name="cosine"),
    train=TrainConfig(batch_size=64, epochs=40),
)
