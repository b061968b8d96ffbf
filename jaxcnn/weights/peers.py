"""The table of the peers' models: what `jaxcnn.weights.load` can be asked for."""

from jaxcnn.weights import (
    alexnet,
    convnext,
    densenet,
    efficientnet,
    inception,
    mnasnet,
    mobilenet,
    regnet,
    resnet,
    resnet_v2,
    segmentation,
    senet,
    shufflenet,
    squeezenet,
    vgg,
)
from jaxcnn.weights.peer import Peer

# One dict per family, made next to its name rules.
PEERS: dict[str, Peer] = {
    **alexnet.PEERS,
    **convnext.PEERS,
    **densenet.PEERS,
    **efficientnet.PEERS,
    **inception.PEERS,
    **mnasnet.PEERS,
    **mobilenet.PEERS,
    **regnet.PEERS,
    **resnet.PEERS,
    **resnet_v2.PEERS,
    **segmentation.PEERS,
    **senet.PEERS,
    **shufflenet.PEERS,
    **squeezenet.PEERS,
    **vgg.PEERS,
}
