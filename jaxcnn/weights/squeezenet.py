"""Names of SqueezeNet's tensors in torchvision."""

from collections.abc import Sequence

from jaxcnn.preprocessing import Preprocessing
from jaxcnn.weights.peer import Names, Peer


def _torchvision(places: Sequence[int]) -> Names:
    """Return the names, given the places of fire2 to fire9 in `features`, which counts poolings too."""
    fires = [(rf"fire{number}/(\w+)/conv", f"features.{place}.{{0}}") for number, place in enumerate(places, 2)]
    return Names((("stem/conv", "features.0"), *fires, ("head/conv", "classifier.1")))


PEERS = {
    "torchvision/squeezenet1_0": Peer(
        model="squeezenet1_0", names=_torchvision((3, 4, 5, 7, 8, 9, 10, 12)), preprocessing=Preprocessing()
    ),
    "torchvision/squeezenet1_1": Peer(
        model="squeezenet1_1", names=_torchvision((3, 4, 6, 7, 9, 10, 11, 12)), preprocessing=Preprocessing()
    ),
}
