"""Names of AlexNet's tensors in torchvision."""

from jaxcnn.preprocessing import Preprocessing
from jaxcnn.weights.peer import Names, Peer

# Places in torchvision's `features` and `classifier`, which count ReLUs, poolings and dropouts too.
TORCHVISION = Names(
    (
        (r"conv1/conv", "features.0"),
        (r"conv2/conv", "features.3"),
        (r"conv3/conv", "features.6"),
        (r"conv4/conv", "features.8"),
        (r"conv5/conv", "features.10"),
        (r"fc6/dense", "classifier.1"),
        (r"fc7/dense", "classifier.4"),
        (r"head", "classifier.6"),
    ),
    flattened={"fc6/dense": 256},
)

PEERS = {
    "torchvision/alexnet": Peer(model="alexnet", names=TORCHVISION, preprocessing=Preprocessing()),
}
