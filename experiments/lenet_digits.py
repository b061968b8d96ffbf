"""LeNet-5 on the 1,797 handwritten digits that scikit-learn carries: the first thing to run; no download.

Paper: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition", Proc. IEEE
86(11), for the architecture; it is on other digits, so there is no published number.
Recipe: our own: momentum with a cosine, 40 epochs of batches of 64, digits enlarged from 8x8 to 28x28 and moved by up
to 2 pixels, label smoothing 0.1; a fixed random fifth is the test split.
Command: jaxcnn train experiments/lenet_digits.py
"""

from jaxcnn import (
    Classification,
    CosineDecay,
    DataConfig,
    EvalConfig,
    Experiment,
    ModelConfig,
    Momentum,
    PadCrop,
    TrainConfig,
)

EXPERIMENT = Experiment(
    name="lenet_digits",
    paper="LeCun et al. 1998, Proc. IEEE 86(11) (the architecture; other digits)",
    model=ModelConfig(name="lenet5"),
    data=DataConfig(source="digits", image_size=28, augment=(PadCrop(pad=2),)),
    task=Classification(label_smoothing=0.1),
    optim=Momentum(learning_rate=0.05, weight_decay=1e-4),
    schedule=CosineDecay(),
    train=TrainConfig(batch_size=64, epochs=40, log_every=25),
    eval=EvalConfig(every=100),
)
