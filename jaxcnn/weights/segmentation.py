"""Names of segmentation networks' tensors in other libraries."""

from jaxcnn.preprocessing import Preprocessing
from jaxcnn.weights import resnet
from jaxcnn.weights.peer import Names, Peer

_BACKBONE = tuple(
    (ours, f"backbone.{theirs}") for ours, theirs in resnet.TORCHVISION.rules if ours.startswith(("stem", "stage"))
)
_AUX = (
    (r"aux1/conv/conv", "aux_classifier.0"),
    (r"aux1/conv/bn", "aux_classifier.1"),
    (r"aux1/score", "aux_classifier.4"),
)
FCN = Names(
    (
        *_BACKBONE,
        (r"head/conv/conv", "classifier.0"),
        (r"head/conv/bn", "classifier.1"),
        (r"head/score", "classifier.4"),
        *_AUX,
    )
)
DEEPLABV3 = Names(
    (
        *_BACKBONE,
        (r"head/pyramid/pointwise/conv", "classifier.0.convs.0.0"),
        (r"head/pyramid/pointwise/bn", "classifier.0.convs.0.1"),
        (r"head/pyramid/atrous(\d)/conv", "classifier.0.convs.{0}.0"),
        (r"head/pyramid/atrous(\d)/bn", "classifier.0.convs.{0}.1"),
        (r"head/pyramid/image/conv", "classifier.0.convs.4.1"),
        (r"head/pyramid/image/bn", "classifier.0.convs.4.2"),
        (r"head/pyramid/project/conv", "classifier.0.project.0"),
        (r"head/pyramid/project/bn", "classifier.0.project.1"),
        (r"head/conv/conv", "classifier.1"),
        (r"head/conv/bn", "classifier.2"),
        (r"head/score", "classifier.4"),
        *_AUX,
    )
)

_WHOLE = Preprocessing(size=None, resize=520)

PEERS = {
    f"torchvision/{model}": Peer(
        model=model,
        names=names,
        preprocessing=_WHOLE,
        aux=("aux_classifier.",),
        tags={"COCO_WITH_VOC_LABELS_V1": _WHOLE},
    )
    for model, names in (
        ("fcn_resnet50", FCN),
        ("fcn_resnet101", FCN),
        ("deeplabv3_resnet50", DEEPLABV3),
        ("deeplabv3_resnet101", DEEPLABV3),
    )
}
