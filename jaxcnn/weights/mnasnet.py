"""Names of MnasNet's tensors in other libraries."""

from collections.abc import Iterator

from jaxcnn.preprocessing import Preprocessing
from jaxcnn.weights import efficientnet
from jaxcnn.weights.peer import Names, Peer


def _torchvision_blocks() -> Iterator[tuple[str, str]]:
    """Yield the rules of the stages 2 to 7, the layers 8 to 13; a block is a row of conv, norm, ReLU, conv, ..."""
    for at, unit in enumerate(("expand", "depthwise", "project")):
        for stage in range(2, 8):
            block = rf"stage{stage}/block(\d)/{unit}"
            yield rf"{block}/conv", f"layers.{stage + 6}.{{0:-1}}.layers.{3 * at}"
            yield rf"{block}/bn", f"layers.{stage + 6}.{{0:-1}}.layers.{3 * at + 1}"


TORCHVISION = Names(
    (
        (r"stem/conv", "layers.0"),
        (r"stem/bn", "layers.1"),
        (r"stage1/block1/depthwise/conv", "layers.3"),
        (r"stage1/block1/depthwise/bn", "layers.4"),
        (r"stage1/block1/project/conv", "layers.6"),
        (r"stage1/block1/project/bn", "layers.7"),
        *_torchvision_blocks(),
        (r"top/conv", "layers.14"),
        (r"top/bn", "layers.15"),
        (r"head", "classifier.1"),
    )
)

_BICUBIC = Preprocessing(interpolation="bicubic")


def _timm(model: str, width: float, *tags: str) -> Peer:
    return Peer(
        model=model,
        names=efficientnet.TIMM,
        options={"width": width},
        preprocessing=_BICUBIC,
        tags=dict.fromkeys(tags, _BICUBIC),
    )


PEERS = {
    **{
        f"torchvision/mnasnet{width}": Peer(
            model=f"mnasnet{width}", names=TORCHVISION, preprocessing=Preprocessing(resize=resize)
        )
        for width, resize in (("0_5", 256), ("0_75", 232), ("1_0", 256), ("1_3", 232))
    },
    # Where there is no tag, timm has the network but no weights of its own.
    "timm/mnasnet_050": _timm("mnasnet1_0", 0.5),
    "timm/mnasnet_075": _timm("mnasnet1_0", 0.75),
    "timm/mnasnet_100": _timm("mnasnet1_0", 1.0, "rmsp_in1k"),
    "timm/mnasnet_140": _timm("mnasnet1_0", 1.4),
    "timm/semnasnet_050": _timm("mnasnet_a1", 0.5),
    "timm/semnasnet_075": _timm("mnasnet_a1", 0.75, "rmsp_in1k"),
    "timm/semnasnet_100": _timm("mnasnet_a1", 1.0, "rmsp_in1k"),
    "timm/semnasnet_140": _timm("mnasnet_a1", 1.4),
}
