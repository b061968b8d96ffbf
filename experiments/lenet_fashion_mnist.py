"""LeNet-5 on Fashion-MNIST.

Paper: Xiao, Rasul and Vollgraf 2017, 1708.07747. Its benchmark lists no LeNet; its best classical method, an SVM, has
89.7 % test accuracy (table 3).
Recipe: that of `lenet_mnist`, and half of the images mirrored: clothes, unlike digits, stay what they are.
Command: jaxcnn train experiments/lenet_fashion_mnist.py
Not measured by us yet.
"""

from dataclasses import replace

from lenet_mnist import EXPERIMENT as LENET_MNIST

from jaxcnn import DataConfig, Flip, PadCrop

EXPERIMENT = replace(
    LENET_MNIST,
    name="lenet_fashion_mnist",
    paper="LeCun et al. 1998 on the data of Xiao et al. 2017, 1708.07747",
    published="",
    data=DataConfig(source="tfds", name="fashion_mnist", augment=(PadCrop(pad=2), Flip())),
)
