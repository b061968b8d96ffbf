"""The table of the peers' models: what `jaxcnn.weights.load` can be asked for."""

from jaxcnn.weights import resnet
from jaxcnn.weights.peer import Peer

# One dict per family, made next to its name rules.
PEERS: dict[str, Peer] = {
    **resnet.PEERS,
}
