"""LeNet-5 on MNIST.

Paper: LeCun, Bottou, Bengio and Haffner 1998, "Gradient-based learning applied to document recognition",
Proc. IEEE 86(11): test error 0.95 % without distortions, 0.8 % with them (section III, figure 9).
Recipe: our own, for the modern form of the network (all of C3 connected, ReLU, max pooling, softmax): momentum with
a cosine, 20 epochs of batches of 128, crops moved by up to 2 pixels.
Command: jaxcnn train experiments/lenet_mnist.py
Result: 99.43 +- 0.06 % test accuracy (3 seeds, mean and sample standard deviation; docs/results.md).
"""

from jaxcnn import CosineDecay, DataConfig, Experiment, ModelConfig, Momentum, PadCrop, TrainConfig

EXPERIMENT = Experiment(
    name="lenet_mnist",
    paper="LeCun et al. 1998, Proc. IEEE 86(11)",
    published="test error 0.95 % (0.8 % with distortions)",
    model=ModelConfig(name="lenet5"),
    data=DataConfig(source="tfds", name="mnist", augment=(PadCrop(pad=2),)),
    optim=Momentum(learning_rate=0.05, weight_decay=5e-4),
    schedule=CosineDecay(warmup_steps=200),
    train=TrainConfig(batch_size=128, epochs=20),
)
