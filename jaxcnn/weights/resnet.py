"""Names of residual networks' tensors in other libraries."""

from jaxcnn.weights.peer import Names, Peer
from jaxcnn.weights.preprocessing import Preprocessing

TORCHVISION = Names(
    (
        (r"stem/(conv|bn)", "{0}1"),
        (r"stage(\d+)/block(\d+)/shortcut/conv", "layer{0}.{1:-1}.downsample.0"),
        (r"stage(\d+)/block(\d+)/shortcut/norm", "layer{0}.{1:-1}.downsample.1"),
        (r"stage(\d+)/block(\d+)/((?:conv|bn)\d)", "layer{0}.{1:-1}.{2}"),
        (r"head", "fc"),
    )
)

_V1, _V2 = Preprocessing(), Preprocessing(resize=232)

PEERS = {
    "torchvision/resnet18": Peer(model="resnet18", names=TORCHVISION, preprocessing=_V1),
    "torchvision/resnet34": Peer(model="resnet34", names=TORCHVISION, preprocessing=_V1),
    **{
        f"torchvision/resnet{depth}": Peer(
            model=f"resnet{depth}",
            names=TORCHVISION,
            preprocessing=_V1,
            tags={"IMAGENET1K_V2": _V2},
        )
        for depth in (50, 101, 152)
    },
}
