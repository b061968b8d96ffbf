"""Names of ShuffleNet V2's tensors in torchvision."""

from jaxcnn.preprocessing import Preprocessing
from jaxcnn.weights.peer import Names, Peer

_UNITS = {
    "left_depthwise": ("branch1.0", "branch1.1"),
    "left_conv": ("branch1.2", "branch1.3"),
    "conv1": ("branch2.0", "branch2.1"),
    "depthwise": ("branch2.3", "branch2.4"),
    "conv2": ("branch2.5", "branch2.6"),
}

TORCHVISION = Names(
    (
        (r"(conv[15])/conv", "{0}.0"),
        (r"(conv[15])/bn", "{0}.1"),
        *((rf"(stage\d)/block(\d)/{unit}/conv", f"{{0}}.{{1:-1}}.{conv}") for unit, (conv, _) in _UNITS.items()),
        *((rf"(stage\d)/block(\d)/{unit}/bn", f"{{0}}.{{1:-1}}.{norm}") for unit, (_, norm) in _UNITS.items()),
        (r"head", "fc"),
    )
)

PEERS = {
    f"torchvision/shufflenet_v2_{width}": Peer(
        model=f"shufflenet_v2_{width}", names=TORCHVISION, preprocessing=Preprocessing(resize=resize)
    )
    for width, resize in (("x0_5", 256), ("x1_0", 256), ("x1_5", 232), ("x2_0", 232))
}
